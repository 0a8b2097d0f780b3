"""Store embeddings that take long to compute, under a key of everything that determines them."""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from huggingface_hub import cached_assets_path
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tadp.errors import CorruptFileError, OutputError
from tadp.files.atomic import remove_leftovers, replace_file
from tadp.files.checks import check_regular
from tadp.text.encoder import TextEncoder

FORMAT = 1  # increased when the same key would stand for different numbers
_UNUSED = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")  # not part of the key


def cached(
    make: Callable[[], Float[Tensor, "k d"]],
    *,
    key: str,
    shape: tuple[int, int],
    cache_dir: str | Path | None = None,
) -> Float[Tensor, "k d"]:
    """Return the embeddings that are stored under a key. If they are missing, compute and store them.

    A damaged file is written again. Several processes can do this at the same time: each writes its own file, and the
    last one stays. If the file cannot be written, there is a warning, and the embeddings are still returned.

    Args:
        make: Function that computes the embeddings.
        key: Key of the embeddings, as `cache_key` returns it.
        shape: Expected shape of the embeddings, (K, D).
        cache_dir: Folder for the files; None is huggingface_hub's folder for files of other libraries, which is
            `$HF_ASSETS_CACHE`, or else `$HF_HOME/assets`.
    """
    try:
        folder = Path(cache_dir).expanduser() if cache_dir else cached_assets_path("tadp", "averaged-eos", f"v{FORMAT}")
    except (OSError, ValueError) as error:
        warnings.warn(f"embeddings are not stored: {error}. Pass cache_dir=, or set HF_HOME.", stacklevel=4)
        return make()
    path = folder / f"{key}.safetensors"
    kept = _read(path, shape)
    if kept is not None:
        return kept
    embeddings = make()
    content = embeddings.cpu().contiguous()
    try:
        remove_leftovers(folder)
        with replace_file(path) as part:
            save_file({"embeddings": content}, part, metadata={"sha256": _digest(content)})
    except OutputError as error:
        warnings.warn(f"embeddings are not stored: {error} Or pass cache_dir=.", stacklevel=4)
    return embeddings


def cache_key(encoder: TextEncoder, *parts: Sequence[str]) -> str:
    """Return a hash of an encoder (weights, config, tokenizer) and of lists of strings."""
    config = {name: value for name, value in encoder.model.config.to_dict().items() if name not in _UNUSED}
    total = hashlib.sha256(json.dumps([FORMAT, config, *map(list, parts)], sort_keys=True, default=str).encode())
    total.update(encoder.tokenizer.backend_tokenizer.to_str().encode())
    for name, tensor in sorted(encoder.model.state_dict().items()):
        total.update(f"{name} {_digest(tensor.cpu())}".encode())
    return total.hexdigest()[:40]


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """Read the embeddings in a file; None if the file is missing or damaged."""
    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            tensor = file.get_tensor("embeddings").clone()
            digest = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError, CorruptFileError):
        return None
    return tensor if tuple(tensor.shape) == shape and _digest(tensor) == digest else None


def _digest(tensor: Tensor) -> str:
    total = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    total.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
