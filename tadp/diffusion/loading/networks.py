"""Load the networks of a model folder, with weights or only with shapes, and networks that replace them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import nn

from tadp.diffusion.families import family_of, family_of_config
from tadp.diffusion.families.family import PARTS, DiffusersFamily
from tadp.diffusion.loading.quantized import load_quantized
from tadp.diffusion.vae import AnyVAE, encoder_of
from tadp.errors import MissingFileError, ModelError
from tadp.files.building import build
from tadp.files.hub import (
    HubOptions,
    check_readable,
    has_weights_of,
    index_name,
    local_file,
    local_folder,
    part_variant,
    weight_files,
    weight_name,
)
from tadp.files.inference import uncompiled
from tadp.files.model_folder import ADAPTER_NAME, CONFIG_NAME, WEIGHTS, check_savable, fill, read_config
from tadp.files.schema import shown
from tadp.text.encoder_files import TextFiles
from tadp.text.stack import AnyText

_SUFFIX = ".safetensors"


def load_unet(folder: Path, *, variant: str | None, dtype: torch.dtype, quantization: Any = None) -> Any:
    """Load the denoiser of a model folder, from `unet/` or `transformer/`. See `load_denoiser`.

    Raises:
        ModelError: If the denoiser belongs to no known family, or its weights do not fit its config.
    """
    return load_denoiser(folder, denoiser_in(folder), variant=variant, dtype=dtype, quantization=quantization)


def load_denoiser(folder: Path, part: str, *, variant: str | None, dtype: torch.dtype, quantization: Any = None) -> Any:
    """Load a denoiser from a subfolder of a model folder.

    Args:
        folder: The model folder.
        part: The subfolder; "" if the denoiser is in the folder itself.
        variant: Variant of the weight files, such as "fp16"; None for files without a variant.
        dtype: The dtype of the loaded weights.
        quantization: A quantization config of diffusers; None does not quantize.

    Raises:
        ModelError: If the denoiser belongs to no known family, or its weights do not fit its config.
    """
    denoiser = _hollow(folder, part)
    if quantization is not None:
        if not isinstance(family_of(denoiser), DiffusersFamily):
            raise ModelError(f"{type(denoiser).__name__} is not a model of diffusers; pass no quantization_config.")
        return load_quantized(denoiser, folder / part, config=quantization, variant=variant, dtype=dtype)
    fill(denoiser, weight_files(folder / part, WEIGHTS["unet"], variant), dtype, folder / part)
    for name, buffer in denoiser.named_buffers():
        if buffer.is_meta:
            raise ModelError(
                f"{folder / part} has no values for {name}, a buffer that {type(denoiser).__name__} does not save. "
                "Register it with persistent=True, or compute it in the pass."
            )
    return denoiser


def hollow_denoiser(folder: Path) -> Any:
    """Build the denoiser that a model folder describes, with shapes but without weights.

    Raises:
        ModelError: If the config belongs to no known family or does not describe a denoiser.
    """
    return _hollow(folder, denoiser_in(folder))


def hollow_vae(folder: Path, part: str = "vae") -> AnyVAE:
    """Build the VAE encoder that a model folder describes, with shapes but without weights."""
    config = read_config(folder, part)
    kinds: dict[Any, Any] = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}
    kind = kinds.get(str(config.get("_class_name")))
    if kind is None:
        name = shown(config.get("_class_name"))
        raise ModelError(
            f"{folder / part} holds a {name}; tadp reads {', '.join(kinds)}. Check _class_name in its config.json."
        )
    return build(
        lambda values: encoder_of(kind.from_config(values)),
        config,
        folder / part / "config.json",
        what=f"a {kind.__name__}",
        reader=kind,
    )


def save_denoiser(model: nn.Module, folder: Path) -> None:
    """Write a denoiser's config and weights, after checking that they can be loaded again.

    Raises:
        ModelError: If the denoiser belongs to no known family, or other code has added weights to it.
    """
    model = uncompiled(model)
    family = family_of(model)
    check_savable(model, lambda: family.build(family.config(model)), family.part)
    family.save(model, folder)


def load_text(
    folder: Path,
    denoiser: Any,
    *,
    variant: str | None,
    dtype: torch.dtype,
    load_t5: bool = True,
    quantization: Mapping[str, Any] | None = None,
) -> AnyText:
    """Load the text encoder or encoders that belong to a denoiser.

    Args:
        folder: A model folder in diffusers' layout.
        denoiser: The denoiser. Its family determines which text encoders are loaded.
        variant: Variant of the weight files, such as "fp16"; None for files without a variant.
        dtype: The dtype of the loaded weights.
        load_t5: Whether to load T5, the third text encoder of Stable Diffusion 3, if the folder has it.
        quantization: Quantization configs of transformers, by subfolder; None quantizes nothing.

    Raises:
        MissingFileError: If an encoder, its tokenizer or one of their files is missing.
        ModelError: If an encoder is of a kind that the denoiser's family does not use.
    """
    files = TextFiles(folder, variant=variant, dtype=dtype, load_t5=load_t5, quantization=quantization)
    return family_of(denoiser).text(files, denoiser)


def hollow_text(folder: Path, denoiser: Any) -> AnyText:
    """Build the text encoders that a model folder describes, with shapes but without weights."""
    return family_of(denoiser).text(TextFiles(folder), denoiser)


def load_vae(folder: Path, *, variant: str | None, dtype: torch.dtype, part: str = "vae") -> AnyVAE:
    """Load the encoder half of the `AutoencoderKL` or `AutoencoderTiny` in `folder/vae`, never the decoder."""
    encoder = hollow_vae(folder, part)
    files = weight_files(folder / part, WEIGHTS["vae"], variant)
    fill(encoder, files, dtype, folder / part, keep=("encoder.", "quant_conv."))
    return encoder


def load_drop_in_unet(
    name: str | Path, base: Path, *, dtype: torch.dtype, hub: HubOptions, quantization: Any = None
) -> Any:
    """Load a denoiser that replaces the denoiser of a base model.

    Args:
        name: One of two: a folder or hub id with `config.json` and weights, either directly or in the subfolder `unet`
            or `transformer`; or a .safetensors file with tensors of the base model's U-Net under diffusers' names, on
            disk or on the hub ("CompVis/cleandift/cleandift_sd15_unet.safetensors").
        base: The base model's folder.
        dtype: The dtype of the loaded weights.
        hub: The variant of the weight files, the revision to download, and how to download it.
        quantization: A quantization config of diffusers; None does not quantize.

    Raises:
        UnknownModelError, MissingFileError: If the denoiser cannot be found or downloaded.
        ModelError: If the tensors of a .safetensors file do not fit the base model's U-Net.
    """
    if str(name).endswith(_SUFFIX):
        if quantization is not None:
            raise ModelError(
                f"{name} is a single file, which diffusers does not quantize. Load it without quantization_config=, "
                "call save_pretrained, and load that folder with it."
            )
        path = local_file(name, hub=hub)
        try:
            return fill(hollow_denoiser(base), [path], dtype, path)
        except ModelError as error:
            raise ModelError(f"{path} does not hold the U-Net that {base} describes; {error}") from error
    return _part_or_root(name, PARTS, hub, lambda folder, part: load_denoiser(
        folder, part, variant=_variant_of_drop_in(folder / part, hub), dtype=dtype, quantization=quantization
    ))  # fmt: skip


def load_drop_in_vae(name: str | Path, *, dtype: torch.dtype, hub: HubOptions) -> Any:
    """Load the encoder of a VAE that replaces the base model's VAE.

    Args:
        name: A folder or hub id with `config.json` and weights, either directly ("madebyollin/taesd") or in the
            subfolder `vae`.
        dtype: The dtype of the loaded weights.
        hub: The variant of the weight files, the revision to download, and how to download it.

    Raises:
        UnknownModelError, MissingFileError: If the VAE cannot be found or downloaded.
        ModelError: If the VAE is neither an `AutoencoderKL` nor an `AutoencoderTiny`.
    """
    return _part_or_root(name, ("vae",), hub, lambda folder, part: load_vae(
        folder, variant=_variant_of_drop_in(folder / part, hub), dtype=dtype, part=part
    ))  # fmt: skip


def load_text_adapter(adapter: nn.Module, folder: Path, *, dtype: torch.dtype) -> None:
    """Load the weights of a text adapter from the folder of a saved backbone.

    Raises:
        MissingFileError: If the folder has no text adapter.
    """
    path = folder / ADAPTER_NAME
    if not path.exists():
        raise MissingFileError(f"no {path.name} in {folder}, whose {CONFIG_NAME} lists it; get the model again.")
    check_readable(path)
    fill(adapter, [path], dtype, path)


def denoiser_in(folder: Path) -> str:
    """The subfolder that exists, or "unet" if neither does."""
    denoisers = [part for part in PARTS if (folder / part).is_dir()]
    if len(denoisers) > 1:
        raise ModelError(
            f"{folder} has two denoisers, {' and '.join(f'{part}/' for part in denoisers)}; a model has one. Remove "
            "the one that does not belong to it."
        )
    return denoisers[0] if denoisers else PARTS[0]


def _hollow(folder: Path, part: str) -> nn.Module:
    """A denoiser without storage, built from its config."""
    config = read_config(folder, part)
    family = family_of_config(config, folder / part)
    kind = family.denoiser_class

    def make(values: Mapping[str, Any]) -> nn.Module:
        denoiser = family.build(values)
        family.layout(denoiser)  # refuses what a pass cannot run, while the config's path is known
        return denoiser

    return build(
        make,
        config,
        folder / part / "config.json",
        what=f"a {kind.__name__}",
        reader=kind if isinstance(family, DiffusersFamily) else None,
    )


def _variant_of_drop_in(folder: Path, hub: HubOptions) -> str | None:
    return part_variant(folder, WEIGHTS["unet"], hub.variant, is_replacement=True)


def _part_or_root(name: str | Path, parts: tuple[str, ...], hub: HubOptions, load: Any):
    base, variant = WEIGHTS[parts[0]], hub.variant
    names = ("config.json", weight_name(base, variant), weight_name(base, variant, "-*"), index_name(base, variant))
    folder = local_folder(
        name,
        patterns=[f"{prefix}{file}" for prefix in ("", *(f"{part}/" for part in parts)) for file in names],
        known=f"Pass a folder or hub id with config.json and weights, or with {parts[0]}/, or a {_SUFFIX} file.",
        hub=hub,
    )
    folders = [part for part in parts if (folder / part).is_dir()]
    if len(folders) > 1 or (folders and has_weights_of(folder, base, variant) and (folder / "config.json").exists()):
        places = [*(f"in {part}/" for part in folders), *([] if len(folders) > 1 else ["directly"])]
        raise ModelError(f"{name} has two sets of weights, {' and '.join(places)}. Pass a folder that has only one.")
    if folders:
        return load(folder, folders[0])
    if not (folder / "config.json").exists():
        raise MissingFileError(
            f"neither config.json nor {parts[0]}/ in {name}. If it only contains weights, pass the path of the file: "
            f"{name}/….safetensors."
        )
    return load(folder, "")
