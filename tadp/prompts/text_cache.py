"""Keep embeddings that took long to make, under a key of all that decides them."""

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

from tadp.errors import OutputError
from tadp.files.atomic import replace_file
from tadp.text.encoder import TextEncoder

FORMAT = 1  # goes up when the same key would mean other numbers
_UNUSED = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")  # a config's, for the key


def cached(
    make: Callable[[], Float[Tensor, "k d"]],
    *,
    key: str,
    shape: tuple[int, int],
    cache_dir: str | Path | None = None,
) -> Float[Tensor, "k d"]:
    """What is kept under a key, or else what `make` gives, which is then kept.

    A file that is damaged is made again. Two processes may do so at once: each writes a file of its own, and the last
    one stays. A cache that cannot be written costs a warning, not the result.

    Args:
        make: Computes the embeddings.
        key: From `cache_key`.
        shape: Of the embeddings.
        cache_dir: None is the place huggingface_hub has for such files, `HF_ASSETS_CACHE`, by default
            `$HF_HOME/assets`.
    """
    try:
        folder = Path(cache_dir).expanduser() if cache_dir else cached_assets_path("tadp", "averaged-eos", f"v{FORMAT}")
    except (OSError, ValueError) as error:
        warnings.warn(f"embeddings are not kept: {error}. Pass cache_dir=, or set HF_HOME.", stacklevel=4)
        return make()
    path = folder / f"{key}.safetensors"
    kept = _read(path, shape)
    if kept is not None:
        return kept
    made = make()
    content = made.cpu().contiguous()
    try:
        with replace_file(path) as part:
            save_file({"embeddings": content}, part, metadata={"sha256": _digest(content)})
    except OutputError as error:
        warnings.warn(f"embeddings are not kept: {error} Or pass cache_dir=.", stacklevel=4)
    return made


def cache_key(encoder: TextEncoder, *parts: Sequence[str]) -> str:
    """A hash of an encoder (weights, config, tokenizer) and of lists of strings."""
    config = {name: value for name, value in encoder.model.config.to_dict().items() if name not in _UNUSED}
    total = hashlib.sha256(json.dumps([FORMAT, config, *map(list, parts)], sort_keys=True, default=str).encode())
    total.update(encoder.tokenizer.backend_tokenizer.to_str().encode())
    for name, tensor in sorted(encoder.model.state_dict().items()):
        total.update(f"{name} {_digest(tensor.cpu())}".encode())
    return total.hexdigest()[:40]


def _read(path: Path, shape: tuple[int, int]) -> Tensor | None:
    """The embeddings in a file; None if there is none, or it is not what was written."""
    try:
        with safe_open(path, "pt") as file:
            tensor = file.get_tensor("embeddings").clone()
            digest = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError):
        return None
    return tensor if tuple(tensor.shape) == shape and _digest(tensor) == digest else None


def _digest(tensor: Tensor) -> str:
    total = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    total.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
