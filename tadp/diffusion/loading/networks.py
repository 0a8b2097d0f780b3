"""The networks of a model's folder, with weights or hollow, and what is loaded in their place."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import nn

from tadp.diffusion.families import family_of, family_of_config
from tadp.diffusion.families.family import PARTS
from tadp.diffusion.vae import AnyVAE, encoder_of
from tadp.errors import MissingFileError, ModelError
from tadp.files.hub import HubOptions, check_readable, index_name, local_file, local_folder, weight_files, weight_name
from tadp.files.model_folder import ADAPTER_NAME, CONFIG_NAME, WEIGHTS, fill, read_config
from tadp.text.encoder_files import TextFiles
from tadp.text.stack import AnyText

_SUFFIX = ".safetensors"


def load_unet(folder: Path, *, variant: str | None, dtype: torch.dtype) -> Any:
    """The denoiser of a folder, in `unet/` or `transformer/`.

    Raises:
        ModelError: If it is of no known family, or weights and config disagree.
    """
    return load_denoiser(folder, _denoiser_in(folder), variant=variant, dtype=dtype)


def load_denoiser(folder: Path, part: str, *, variant: str | None, dtype: torch.dtype) -> Any:
    """The denoiser in one folder of a model's; `part` is "" if it is the folder itself.

    Raises:
        ModelError: As `load_unet`.
    """
    denoiser = _hollow(folder, part)
    fill(denoiser, weight_files(folder / part, WEIGHTS["unet"], variant), dtype, folder / part)
    for name, buffer in denoiser.named_buffers():
        if buffer.is_meta:
            raise ModelError(
                f"{folder / part} has no values for {name}, a buffer of {type(denoiser).__name__} that is not saved. "
                "Register it with persistent=True, or compute it in the pass."
            )
    return denoiser


def hollow_denoiser(folder: Path) -> Any:
    """The denoiser that a folder describes, with shapes and no weights.

    Raises:
        ModelError: As `load_unet`.
    """
    return _hollow(folder, _denoiser_in(folder))


def hollow_vae(folder: Path, part: str = "vae") -> AnyVAE:
    """The VAE's encoder that a folder describes, with shapes and no weights."""
    config = read_config(folder, part)
    kinds: dict[Any, Any] = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}
    kind = kinds.get(config.get("_class_name"))
    if kind is None:
        raise ModelError(f"{folder / part} holds a {config.get('_class_name')!r}; tadp reads {', '.join(kinds)}.")
    return encoder_of(_built(kind.from_config, config, folder / part))


def load_text(folder: Path, denoiser: Any, *, variant: str | None, dtype: torch.dtype, load_t5: bool = True) -> AnyText:
    """The text encoder, or encoders, that belong to a denoiser.

    Args:
        folder: The model's.
        denoiser: Its family says which encoders there are.
        variant: Which weight files.
        dtype: Of the weights.
        load_t5: Whether Stable Diffusion 3's T5 is loaded, if the folder has it.

    Raises:
        MissingFileError: If an encoder, its tokenizer or a file is missing.
        ModelError: If an encoder is of another kind.
    """
    files = TextFiles(folder, variant=variant, dtype=dtype, load_t5=load_t5)
    return family_of(denoiser).text(files, denoiser)


def hollow_text(folder: Path, denoiser: Any) -> AnyText:
    """The text encoders that a folder describes, with shapes and no weights."""
    return family_of(denoiser).text(TextFiles(folder), denoiser)


def load_vae(folder: Path, *, variant: str | None, dtype: torch.dtype, part: str = "vae") -> AnyVAE:
    """The encoder half of the `AutoencoderKL` or `AutoencoderTiny` in `folder/vae`; the decoder is never read."""
    encoder = hollow_vae(folder, part)
    files = weight_files(folder / part, WEIGHTS["vae"], variant)
    fill(encoder, files, dtype, folder / part, keep=("encoder.", "quant_conv."))
    return encoder


def load_drop_in_unet(name: str | Path, base: Path, *, dtype: torch.dtype, hub: HubOptions) -> Any:
    """A denoiser in place of the base model's.

    Args:
        name: A folder or hub id with `config.json` and weights, or with `unet/` (or `transformer/`); or a .safetensors
            file with the tensors of the base's U-Net under diffusers' names, here or on the hub
            ("CompVis/cleandift/cleandift_sd15_unet.safetensors").
        base: The base model's folder.
        dtype: Dtype of the weights.
        hub: Which weight files, and how they are downloaded.

    Raises:
        UnknownModelError, MissingFileError: If it is not to be had.
        ModelError: If a file does not fit the base's U-Net.
    """
    if str(name).endswith(_SUFFIX):
        path = local_file(name, hub=hub)
        try:
            return fill(hollow_denoiser(base), [path], dtype, path)
        except ModelError as error:
            raise ModelError(f"{path} does not hold the U-Net that {base} describes; {error}") from error
    return _part_or_root(name, PARTS, hub, lambda folder, part: load_denoiser(
        folder, part, variant=hub.variant, dtype=dtype
    ))  # fmt: skip


def load_drop_in_vae(name: str | Path, *, dtype: torch.dtype, hub: HubOptions) -> Any:
    """The encoder of a VAE in place of the base model's: an `AutoencoderKL` or an `AutoencoderTiny`.

    Args:
        name: A folder or hub id with `config.json` and weights ("madebyollin/taesd"), or with `vae/`.
        dtype: Dtype of the weights.
        hub: Which weight files, and how they are downloaded.

    Raises:
        UnknownModelError, MissingFileError, ModelError: If it is not to be had, or of another kind.
    """
    return _part_or_root(name, ("vae",), hub, lambda folder, part: load_vae(
        folder, variant=hub.variant, dtype=dtype, part=part
    ))  # fmt: skip


def load_text_adapter(adapter: nn.Module, folder: Path, *, dtype: torch.dtype) -> None:
    """Fill a text adapter from a saved backbone.

    Raises:
        MissingFileError: If the backbone was saved without.
    """
    path = folder / ADAPTER_NAME
    if not path.exists():
        raise MissingFileError(f"no {path.name} in {folder}, whose {CONFIG_NAME} promises it; get the model again.")
    check_readable(path)
    fill(adapter, [path], dtype, path)


def _denoiser_in(folder: Path) -> str:
    """The part that is there, "unet" if none is."""
    return next((part for part in PARTS if (folder / part).is_dir()), PARTS[0])


def _hollow(folder: Path, part: str) -> nn.Module:
    """A denoiser without storage, from its config."""
    config = read_config(folder, part)
    family = family_of_config(config, folder / part)
    return _built(family.build, config, folder / part)


def _built(build: Callable[[Mapping[str, Any]], Any], config: Mapping[str, Any], where: Path) -> Any:
    try:
        with torch.device("meta"):
            return build(config)
    except (TypeError, ValueError, LookupError) as error:
        kind = config["_class_name"]
        raise ModelError(f"{where / 'config.json'} does not describe a {kind}: {error}") from error


def _part_or_root(name: str | Path, parts: tuple[str, ...], hub: HubOptions, load: Any):
    base, variant = WEIGHTS[parts[0]], hub.variant
    names = ("config.json", weight_name(base, variant), weight_name(base, variant, "-*"), index_name(base, variant))
    folder = local_folder(
        name,
        patterns=[f"{prefix}{one}" for prefix in ("", *(f"{part}/" for part in parts)) for one in names],
        known=f"Pass a folder or hub id with config.json and weights, or with {parts[0]}/, or a {_SUFFIX} file.",
        hub=hub,
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
