"""Parts that take the place of a base model's own: a U-Net, a VAE, or a LoRA over the U-Net; by path or hub id."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tadp.errors import MissingExtraError, MissingFileError, ModelError
from tadp.hub import check_readable, index_name, local_file, local_folder, weight_name
from tadp.loading import WEIGHTS, denoiser_part, fill, hollow_denoiser, load_denoiser, load_vae

LORA_NAME = "pytorch_lora_weights.safetensors"  # what diffusers writes
_SUFFIX = ".safetensors"
_ADAPTER = "tadp"


def load_drop_in_unet(
    name: str | Path, base: Path, *, variant: str | None, dtype: torch.dtype, hub: Mapping[str, Any]
) -> Any:
    """A denoiser in place of the base model's.

    Args:
        name: A folder or hub id with `config.json` and weights, or with `unet/` (or `transformer/`); or a .safetensors
            file with the tensors of the base's U-Net under diffusers' names, here or on the hub
            ("CompVis/cleandift/cleandift_sd15_unet.safetensors").
        base: The base model's folder.
        variant: Which weight files.
        dtype: Of the weights.
        hub: Options of the hub.

    Raises:
        UnknownModelError, MissingFileError: If it is not to be had.
        ModelError: If a file does not fit the base's U-Net.
    """
    if str(name).endswith(_SUFFIX):
        path = local_file(name, **hub)
        try:
            return fill(hollow_denoiser(base), [path], dtype, path)
        except ModelError as error:
            raise ModelError(f"{path} does not hold the U-Net that {base} describes; {error}") from error
    return _part_or_root(name, ("unet", "transformer"), variant, hub, lambda folder, part: load_denoiser(
        folder, part, variant=variant, dtype=dtype
    ))  # fmt: skip


def load_drop_in_vae(name: str | Path, *, variant: str | None, dtype: torch.dtype, hub: Mapping[str, Any]) -> Any:
    """The encoder of a VAE in place of the base model's: an `AutoencoderKL` or an `AutoencoderTiny`.

    Args:
        name: A folder or hub id with `config.json` and weights ("madebyollin/taesd"), or with `vae/`.
        variant: Which weight files.
        dtype: Of the weights.
        hub: Options of the hub.

    Raises:
        UnknownModelError, MissingFileError, ModelError: If it is not to be had, or of another kind.
    """
    return _part_or_root(name, ("vae",), variant, hub, lambda folder, part: load_vae(
        folder, variant=variant, dtype=dtype, part=part
    ))  # fmt: skip


def _part_or_root(name: str | Path, parts: tuple[str, ...], variant: str | None, hub: Mapping[str, Any], load: Any):
    base = WEIGHTS[parts[0]]
    names = ("config.json", weight_name(base, variant), weight_name(base, variant, "-*"), index_name(base, variant))
    folder = local_folder(
        name,
        patterns=[f"{prefix}{one}" for prefix in ("", *(f"{part}/" for part in parts)) for one in names],
        known=f"Pass a folder or hub id with config.json and weights, or with {parts[0]}/, or a {_SUFFIX} file.",
        **hub,
    )
    for part in parts:
        if (folder / part).is_dir():
            return load(folder, part)
    if not (folder / "config.json").exists():
        raise MissingFileError(
            f"neither config.json nor {parts[0]}/ in {name}. If it holds weights alone, name the file: "
            f"{name}/….safetensors."
        )
    return load(folder, "")


def fuse_lora(unet: Any, name: str | Path, *, scale: float, hub: Mapping[str, Any]) -> None:
    """Add a LoRA to a denoiser's weights, where it costs nothing and is saved with them.

    Read by diffusers' own loader, so files of diffusers, peft and kohya's scripts will do. What a LoRA changes in the
    text encoder is left out, with a warning.

    Args:
        unet: Of the family the LoRA was trained for; it is changed.
        name: A .safetensors file, a folder with one, or either on the hub.
        scale: How much of it is added.
        hub: Options of the hub.

    Raises:
        UnknownModelError, MissingFileError, CorruptFileError: If it is not to be had.
        ModelError: If it was trained for another family; the message says what does not fit.
        MissingExtraError: If peft is not installed.
    """
    path = _lora_file(name, hub)
    prefix = denoiser_part(type(unet).__name__)
    mixin, options = _mixin(unet)
    try:
        found = mixin.lora_state_dict(load_file(path), **options)
    except (ValueError, LookupError, RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(f"{path} is no LoRA that diffusers reads for a {type(unet).__name__}: {error}") from error
    state, alphas = found if isinstance(found, tuple) else (found, None)
    _check_lora(unet, {key: tensor for key, tensor in state.items() if key.startswith(f"{prefix}.")}, prefix, path)
    _tell_of_rest([key for key in state if not key.startswith(f"{prefix}.")], path)
    load = mixin.load_lora_into_unet if prefix == "unet" else mixin.load_lora_into_transformer
    # Only some of diffusers' loaders take alphas apart from the weights.
    scales = {} if alphas is None and prefix == "transformer" else {"network_alphas": alphas}
    try:
        load(state, **{prefix: unet}, adapter_name=_ADAPTER, **scales)
    except ImportError as error:
        raise MissingExtraError("a LoRA needs peft; pip install 'tadp[train]'.") from error
    unet.fuse_lora(lora_scale=scale)
    unet.unload_lora()
    unet.requires_grad_(True)  # peft froze it


def _mixin(unet: Any) -> tuple[Any, dict[str, Any]]:
    """Diffusers' LoRA loader for a family, and the options of its reader."""
    from diffusers.loaders.lora_pipeline import (
        FluxLoraLoaderMixin,
        SD3LoraLoaderMixin,
        StableDiffusionLoraLoaderMixin,
        StableDiffusionXLLoraLoaderMixin,
    )

    kind = type(unet).__name__
    if kind == "SD3Transformer2DModel":
        return SD3LoraLoaderMixin, {}
    if kind == "FluxTransformer2DModel":
        return FluxLoraLoaderMixin, {"return_alphas": True}
    if unet.config["addition_embed_type"] == "text_time":
        return StableDiffusionXLLoraLoaderMixin, {"unet_config": unet.config}
    return StableDiffusionLoraLoaderMixin, {}


def _lora_file(name: str | Path, hub: Mapping[str, Any]) -> Path:
    if str(name).endswith(_SUFFIX):
        path = local_file(name, **hub)
    else:
        known = f"Pass a {_SUFFIX} file, or a folder or hub id with {LORA_NAME}."
        folder = local_folder(name, patterns=[LORA_NAME], known=known, **hub)
        there = [LORA_NAME] if (folder / LORA_NAME).exists() else sorted(one.name for one in folder.glob(f"*{_SUFFIX}"))
        if len(there) != 1:
            raise MissingFileError(f"no {LORA_NAME} in {name}, which has {', '.join(there) or 'none'}; name the file.")
        path = folder / there[0]
    check_readable(path)
    return path


def _check_lora(unet: Any, state: Mapping[str, Tensor], prefix: str, path: Path) -> None:
    """Every tensor has a layer whose weight it fits, or a ModelError."""
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    cure = f"It was trained for another family than this {type(unet).__name__}."
    if not state:
        raise ModelError(f"{path} changes nothing of the {prefix}. {cure}")
    named = {key.removeprefix(f"{prefix}."): tensor for key, tensor in state.items()}
    if not any(".lora_A" in key for key in named):
        named = convert_unet_state_dict_to_peft(named)
    layers = dict(unet.named_modules())
    for key, tensor in named.items():
        layer, _, factor = key.partition(".lora_")
        if factor not in ("A.weight", "B.weight"):
            continue
        weight = getattr(layers.get(layer), "weight", None)
        if weight is None:
            raise ModelError(f"{path} changes {layer}, which this model has not. {cure}")
        side = 1 if factor.startswith("A") else 0
        if tensor.shape[side] != weight.shape[side]:
            what = "takes" if side else "gives"
            raise ModelError(
                f"{path} changes {layer}, where it {what} {tensor.shape[side]} channels and the model's layer "
                f"{weight.shape[side]}. {cure}"
            )


def _tell_of_rest(keys: list[str], path: Path) -> None:
    if keys:
        warnings.warn(
            f"{path} also changes the text encoder ({len(keys)} tensors, {keys[0]} first); tadp leaves that out.",
            stacklevel=5,  # the caller of `from_pretrained`
        )
