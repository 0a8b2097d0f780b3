"""The denoiser and the VAE of a model's folder, with their weights or hollow."""

from pathlib import Path
from typing import Any

import torch

from tadp.diffusion.vae import encoder_of
from tadp.errors import MissingFileError, ModelError
from tadp.files.hub import check_readable, weight_files
from tadp.files.model_folder import ADAPTER_NAME, CONFIG_NAME, WEIGHTS, fill, read_config

# What `tadp.diffusion.denoiser` reads, in words for whoever has another.
_FAMILIES = "Stable Diffusion 1.x, 2.x, XL and 3.x, and FLUX"


def load_unet(folder: Path, *, variant: str | None, dtype: torch.dtype):
    """The denoiser of a folder: a `UNet2DConditionModel` in `unet/`, or a transformer in `transformer/`.

    Raises:
        ModelError: If it is of no known family, or weights and config disagree.
    """
    return load_denoiser(folder, _denoiser_in(folder), variant=variant, dtype=dtype)


def load_denoiser(folder: Path, part: str, *, variant: str | None, dtype: torch.dtype):
    """The denoiser in one folder of a model's; `part` is "" if it is the folder itself.

    Raises:
        ModelError: As `load_unet`.
    """
    denoiser = _empty(_denoiser_classes(), folder, part)
    return fill(denoiser, weight_files(folder / part, WEIGHTS["unet"], variant), dtype, folder / part)


def hollow_denoiser(folder: Path):
    """The denoiser that a folder describes, with shapes and no weights.

    Raises:
        ModelError: As `load_unet`.
    """
    return _empty(_denoiser_classes(), folder, _denoiser_in(folder))


def hollow_vae(folder: Path):
    """The VAE's encoder that a folder describes, with shapes and no weights."""
    return encoder_of(_empty(_vae_classes(), folder, "vae"))


def denoiser_part(class_name: str) -> str:
    """The folder of a denoiser of that class: "unet" or "transformer"."""
    return "unet" if class_name == "UNet2DConditionModel" else "transformer"


def _denoiser_in(folder: Path) -> str:
    return "transformer" if (folder / "transformer").is_dir() and not (folder / "unet").is_dir() else "unet"


def _vae_classes() -> tuple[type, ...]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    return AutoencoderKL, AutoencoderTiny


def _denoiser_classes() -> tuple[type, ...]:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel, SD3Transformer2DModel, FluxTransformer2DModel


def load_vae(folder: Path, *, variant: str | None, dtype: torch.dtype, part: str = "vae"):
    """The encoder half of the `AutoencoderKL` or `AutoencoderTiny` in `folder/vae`; the decoder is never read."""
    encoder = encoder_of(_empty(_vae_classes(), folder, part))
    return fill(
        encoder,
        weight_files(folder / part, WEIGHTS["vae"], variant),
        dtype,
        folder / part,
        keep=("encoder.", "quant_conv."),
    )


def load_text_adapter(adapter: torch.nn.Module, folder: Path, *, dtype: torch.dtype) -> None:
    """Fill a text adapter from a saved backbone.

    Raises:
        MissingFileError: If the backbone was saved without.
    """
    path = folder / ADAPTER_NAME
    if not path.exists():
        raise MissingFileError(f"no {path.name} in {folder}, whose {CONFIG_NAME} promises it; get the model again.")
    check_readable(path)
    fill(adapter, [path], dtype, path)


def _empty(kinds: tuple[type, ...], folder: Path, part: str):
    """A diffusers model without storage, from its config."""
    config = read_config(folder, part)
    known = {kind.__name__: kind for kind in kinds}
    kind: Any = known.get(config.get("_class_name", ""))
    if kind is None:
        families = "" if "AutoencoderKL" in known else f": the models of {_FAMILIES}"
        raise ModelError(
            f"{folder / part} holds a {config.get('_class_name')!r}; tadp reads {', '.join(known)}{families}."
        )
    try:
        with torch.device("meta"):
            return kind.from_config(config)
    except (TypeError, ValueError, LookupError) as error:
        raise ModelError(f"{folder / part / 'config.json'} does not describe a {kind.__name__}: {error}") from error
