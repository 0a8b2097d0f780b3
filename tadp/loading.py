"""Find a model's files, here or on the hub, and load only the parts a backbone needs.

A hub model is first brought to a local folder, so that everything after takes one way.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tadp.assets import tiny_folder
from tadp.errors import CorruptFileError, MissingFileError, ModelError, UnknownModelError

CONFIG_NAME = "tadp_config.json"
ADAPTER_NAME = "text_adapter.safetensors"
KNOWN_MODELS = ("tadp-tiny", "stable-diffusion-v1-5/stable-diffusion-v1-5")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Part of a diffusers folder: base name of its weight files.
_WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
# Names of the VAE's attention before diffusers 0.15; Stable Diffusion 1.5 on the hub still has them.
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def model_folder(
    name: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder of a model: itself, the embedded one, or a snapshot from the hub.

    Raises:
        UnknownModelError: If the name is none of these, or the hub does not have or give it.
    """
    if str(name) == "tadp-tiny":
        return tiny_folder()
    if Path(name).is_dir():
        return Path(name)
    known = f"Pass a folder in diffusers layout, a hub id (owner/name), or one of: {', '.join(KNOWN_MODELS)}."
    if Path(name).is_file():
        raise UnknownModelError(
            f"{name} is a file; a model is a folder with unet/, vae/, text_encoder/ and tokenizer/. {known}"
        )
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name):
        raise UnknownModelError(f"unknown model {str(name)!r}: no such folder, and no hub id. {known}")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                allow_patterns=_patterns(variant),
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        where = f" at revision {revision!r}" if revision else ""
        raise UnknownModelError(f"cannot get {name!r}{where}: {str(error).splitlines()[0]} {known}") from error


def _patterns(variant: str | None) -> list[str]:
    """Exactly the files a backbone reads: configs, the tokenizer, and the safetensors of one variant."""
    patterns = [CONFIG_NAME, ADAPTER_NAME, "tokenizer/*"]
    for part, base in _WEIGHTS.items():
        patterns.append(f"{part}/config.json")
        patterns += [f"{part}/{_file_name(base, variant)}", f"{part}/{_file_name(base, variant, shard='-*')}"]
        patterns.append(f"{part}/{_index_name(base, variant)}")
    return patterns


def _file_name(base: str, variant: str | None, shard: str = "") -> str:
    # diffusers: model.fp16.safetensors, model.fp16-00001-of-00002.safetensors
    return f"{base}.{variant}{shard}.safetensors" if variant else f"{base}{shard}.safetensors"


def _index_name(base: str, variant: str | None) -> str:
    return f"{base}.safetensors.index.{variant}.json" if variant else f"{base}.safetensors.index.json"


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """A part's config.json.

    Raises:
        MissingFileError: If the part or its config is not there.
        CorruptFileError: If it is not JSON.
    """
    path = folder / part / "config.json"
    if not path.parent.is_dir():
        raise MissingFileError(f"no {part}/ in {folder}; a model folder has unet/, vae/, text_encoder/ and tokenizer/.")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or an error that names the file."""
    if not path.exists():
        raise MissingFileError(f"no {path.name} in {path.parent}; get the model again, or check its revision.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFileError(f"{path} is not JSON: {error}. Get the file again.") from error
    if not isinstance(content, dict):
        raise CorruptFileError(f"{path} holds a {type(content).__name__}, not an object of names. Get the file again.")
    return content


def weight_files(folder: Path, part: str, variant: str | None = None) -> list[Path]:
    """The safetensors files of a part, one or its shards, each checked to be readable.

    Raises:
        MissingFileError: If there are none, or a shard is missing.
        CorruptFileError: If there are pickles alone, or a file is damaged.
    """
    base = _WEIGHTS[part]
    single = folder / part / _file_name(base, variant)
    index = folder / part / _index_name(base, variant)
    files = [single]
    if not single.exists() and index.exists():
        shards = read_json(index).get("weight_map")
        if not shards:
            raise CorruptFileError(f"{index} has no weight_map. Get the file again.")
        files = [folder / part / name for name in sorted(set(shards.values()))]
    for path in files:
        if not path.exists():
            raise _missing_weights(path, variant)
        _check_readable(path)
    return files


def _check_readable(path: Path) -> None:
    try:
        with safe_open(path, "pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise CorruptFileError(f"{path} is no whole safetensors file ({error}). Get the file again.") from error


def _missing_weights(path: Path, variant: str | None) -> ModelError:
    there = sorted(entry.name for entry in path.parent.iterdir())
    pickles = [name for name in there if name.endswith(_PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in there):
        return CorruptFileError(
            f"no {path.name} in {path.parent}, only {', '.join(pickles)}: tadp reads safetensors, never pickles. "
            "Save the model again with `save_pretrained(..., safe_serialization=True)`."
        )
    hint = f"Is there a variant {variant!r}?" if variant else "If the weights are a variant, pass variant='fp16'."
    return MissingFileError(f"no {path.name} in {path.parent}, which has {', '.join(there) or 'nothing'}. {hint}")


def read_tensors(files: list[Path], keep: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, of those to keep; the others are never read."""
    for path in files:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  safe_open is not a dict
                if keep(key):
                    yield key, file.get_tensor(key)


def load_unet(folder: Path, *, variant: str | None, dtype: torch.dtype):
    """A `UNet2DConditionModel` from `folder/unet`.

    Raises:
        ModelError: If the config is another kind of model, or weights and config disagree.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    unet = _empty(UNet2DConditionModel, folder, "unet")
    return _fill(unet, weight_files(folder, "unet", variant), dtype, folder / "unet")


def load_vae(folder: Path, *, variant: str | None, dtype: torch.dtype):
    """The encoder half of the `AutoencoderKL` in `folder/vae`; the decoder is never read."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from tadp.vae import VAEEncoder

    encoder = VAEEncoder(_empty(AutoencoderKL, folder, "vae"))
    return _fill(encoder, weight_files(folder, "vae", variant), dtype, folder / "vae", keep=("encoder.", "quant_conv."))


def load_text_encoder(folder: Path, *, variant: str | None, dtype: torch.dtype):
    """The CLIP text encoder in `folder/text_encoder` with the tokenizer in `folder/tokenizer`."""
    from transformers import CLIPTextModel, CLIPTokenizer

    from tadp.text import TextEncoder

    kind = read_config(folder, "text_encoder").get("model_type")
    if kind not in ("clip_text_model", "clip"):
        raise ModelError(
            f"{folder / 'text_encoder'} holds a {kind!r}; tadp reads CLIP text encoders (Stable Diffusion 1.x, 2.x)."
        )
    _check_tokenizer(folder)
    weight_files(folder, "text_encoder", variant)
    try:
        loaded: Any = CLIPTextModel.from_pretrained(
            folder / "text_encoder",
            variant=variant,
            use_safetensors=True,
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
        )
    except RuntimeError as error:
        raise ModelError(f"the weights in {folder / 'text_encoder'} do not fit its config.json: {error}") from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing or info["mismatched_keys"]:
        # transformers would go on with random weights
        raise CorruptFileError(
            f"{folder / 'text_encoder'} lacks {len(missing)} weights, {missing[:2]} …; it was saved by another version "
            "of transformers. Save it again with this one."
        )
    for parameter in model.parameters():  # see _fill
        parameter.data = parameter.data.clone()
    return TextEncoder(model, CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True))


def _check_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer"
    if not path.is_dir():
        raise MissingFileError(
            f"no tokenizer/ in {folder}; a model folder has unet/, vae/, text_encoder/ and tokenizer/."
        )
    # transformers would make a tokenizer without a vocabulary
    if not (path / "tokenizer.json").exists() and not (
        (path / "vocab.json").exists() and (path / "merges.txt").exists()
    ):
        raise MissingFileError(f"no tokenizer.json in {path}, nor vocab.json with merges.txt; get the model again.")


def load_text_adapter(adapter: torch.nn.Module, folder: Path, *, dtype: torch.dtype) -> None:
    """Fill a text adapter from a saved backbone.

    Raises:
        MissingFileError: If the backbone was saved without.
    """
    path = folder / ADAPTER_NAME
    if not path.exists():
        raise MissingFileError(f"no {path.name} in {folder}, whose {CONFIG_NAME} promises it; get the model again.")
    _check_readable(path)
    _fill(adapter, [path], dtype, path)


def _empty(kind: type, folder: Path, part: str):
    """A diffusers model without storage, from its config."""
    config = read_config(folder, part)
    if config.get("_class_name") != kind.__name__:
        raise ModelError(f"{folder / part} holds a {config.get('_class_name')!r}; tadp reads {kind.__name__}.")
    try:
        with torch.device("meta"):
            return kind.from_config(config)
    except (TypeError, ValueError, LookupError) as error:
        raise ModelError(f"{folder / part / 'config.json'} does not describe a {kind.__name__}: {error}") from error


def _fill(module: torch.nn.Module, files: list[Path], dtype: torch.dtype, where: Path, keep: tuple[str, ...] = ("",)):
    state = {}
    for key, tensor in read_tensors(files, lambda key: key.startswith(keep)):
        for old, new in _OLD_NAMES.items():
            key = key.replace(old, new)
        # A copy: safetensors maps the file, and how its tensors happen to be aligned there changes results by a bit.
        state[key] = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"the weights in {where} do not fit its config.json: {error}") from error
    return module
