"""Load the parts of a backbone from a folder in diffusers layout, and save them as safetensors and JSON."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import nn

from tadp.diffusion.families import family_of, family_of_config
from tadp.diffusion.loading.lora_fusion import fuse_lora
from tadp.diffusion.loading.networks import (
    denoiser_in,
    load_drop_in_unet,
    load_drop_in_vae,
    load_text,
    load_unet,
    load_vae,
    save_denoiser,
)
from tadp.diffusion.loading.quantized import by_part
from tadp.diffusion.noise import SCHEDULER, read_scheduler
from tadp.diffusion.vae import AnyVAE, encoder_of
from tadp.errors import MissingFileError, ModelError
from tadp.files.fingerprint import WeightSample, sample_weights
from tadp.files.hub import HubOptions, read_json
from tadp.files.inference import uncompiled
from tadp.files.model_folder import (
    ADAPTER_NAME,
    CONFIG_NAME,
    WEIGHTS,
    check_savable,
    read_config,
    save_weights,
    tokenizer_part,
)
from tadp.files.schema import check_types
from tadp.files.weight_ids import add_id, weight_ids
from tadp.text.conditioning import TextAdapter
from tadp.text.encoder import TextEncoder
from tadp.text.stack import AnyText, TextStack


def load_parts(
    folder: Path,
    *,
    dtype: torch.dtype,
    given: Mapping[str, Any] | None = None,
    lora: str | Path | None = None,
    lora_scale: float = 1.0,
    hub: HubOptions | None = None,
    load_t5: bool = True,
    quantization: Any = None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, WeightSample]]:
    """Load the parts of a backbone from a folder in diffusers layout.

    Args:
        folder: The model folder.
        dtype: The dtype of the loaded parts.
        given: Parts that replace those of the folder, by name ("unet", "vae", …). For "unet" and "vae", a value can be
            the name of a model, which is then loaded. None, as a value or as the whole argument, replaces nothing.
        lora: A LoRA to add to the weights of the U-Net and the text encoders; None adds nothing.
        lora_scale: Factor by which the LoRA's change of the weights is multiplied; 1 by default.
        hub: The variant of the weight files, and how replacing parts and the LoRA are downloaded. They come from their
            default branches: `hub.revision` is the revision of the folder. None is `HubOptions()`.
        load_t5: Whether to load T5, the third text encoder of Stable Diffusion 3, if the folder has it.
        quantization: How weights are quantized: a config for the denoiser, or configs by part; None quantizes nothing.

    Returns:
        Three dictionaries. The first has the parts, which are U-Net, VAE, text encoder, tokenizer and scheduler, as
        arguments of `TADPBackbone`. The second has the backbone's options that were saved in the folder,
        if any. The third has samples of the weights of those of "unet", "vae" and "text_encoder" that were
        loaded from the folder.

    Raises:
        ModelError: If a part is missing, is of an unknown kind, or does not fit its config.
    """
    saved = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).exists() else {}
    check_types(saved, _saved_entries, folder / CONFIG_NAME)
    parts: dict[str, Any] = {name: part for name, part in (given or {}).items() if part is not None}
    weights: dict[str, WeightSample] = {}
    hub = (hub or HubOptions()).at(None)
    options: dict[str, Any] = {"variant": hub.variant, "dtype": dtype}
    configs = _quantization(quantization, folder, parts, lora)
    if "unet" not in parts:
        parts["unet"] = load_unet(folder, **options, quantization=configs.pop("unet", None))
    elif isinstance(parts["unet"], str | Path):
        parts["unet"] = load_drop_in_unet(
            parts["unet"], folder, dtype=dtype, hub=hub, quantization=configs.pop("unet", None)
        )
    if "vae" not in parts:
        vae_dtype = family_of(parts["unet"]).vae_dtype(read_config(folder, "vae"), dtype)
        parts["vae"] = load_vae(folder, variant=hub.variant, dtype=vae_dtype)
    elif isinstance(parts["vae"], str | Path):
        parts["vae"] = load_drop_in_vae(parts["vae"], dtype=dtype, hub=hub)
    if "text_encoder" not in parts and saved.get("has_text_encoder", True):
        try:
            text = load_text(folder, parts["unet"], **options, load_t5=load_t5, quantization=configs)
        except MissingFileError as error:
            if (given or {}).get("unet") is None:
                raise
            raise MissingFileError(
                f"the denoiser passed as unet= may need a text encoder that this model does not have: {error} Pass a "
                "denoiser of the model's own family."
            ) from error
        weights["text_encoder"] = sample_weights(text)
        if isinstance(text, TextEncoder):
            parts |= {"text_encoder": text.model, "tokenizer": text.tokenizer}
        else:
            parts["text_encoder"] = text
    weights |= {name: sample_weights(parts[name]) for name in ("unet", "vae") if (given or {}).get(name) is None}
    if lora is not None:
        weights.pop("unet", None)
        for name in ("unet", "text_encoder"):
            if name in parts and parts[name] is (given or {}).get(name):
                parts[name] = copy.deepcopy(parts[name])  # the caller's part stays unchanged
        fuse_lora(parts["unet"], _encoders(parts.get("text_encoder")), lora, scale=lora_scale, hub=hub)
    return parts | {"scheduler": read_scheduler(folder)}, saved.get("options", {}), weights


def _quantization(quantization: Any, folder: Path, given: Mapping[str, Any], lora: Any) -> dict[str, Any]:
    """The quantization config of each part that is loaded from a folder; that of the denoiser is called "unet".

    Raises:
        ModelError: If a part is not read from files, or a LoRA should be added to quantized weights.
    """
    if quantization is None:
        return {}
    denoiser = denoiser_in(folder)
    encoders = family_of_config(read_config(folder, denoiser), folder / denoiser).text_parts
    configs = by_part(quantization, denoiser, encoders)
    if lora is not None:
        raise ModelError(
            "lora= changes weights, and quantized weights cannot change. Load the model with lora= only, call "
            "save_pretrained, and load that folder with quantization_config=."
        )
    modules = {denoiser: given.get("unet"), encoders[0]: given.get("text_encoder")}
    for part, module in modules.items():
        if part in configs and isinstance(module, nn.Module):
            raise ModelError(
                f"quantization_config quantizes the {part} while it is read, but you passed a module. Pass the "
                "folder of its files instead, or quantize the module before you pass it."
            )
    return {"unet" if part == denoiser else part: config for part, config in configs.items()}


def _saved_entries(*, has_text_encoder: bool, options: Mapping[str, Any]) -> None:
    """The entries of a saved backbone's config, as a schema."""


def save_parts(
    folder: Path,
    *,
    unet: nn.Module,
    vae: AnyVAE,
    text_encoder: AnyText | None,
    text_adapter: TextAdapter | None,
    scheduler: dict[str, Any] | None,
    options: dict[str, Any],
) -> None:
    """Write the parts of a backbone into an empty folder; the VAE is saved without its decoder.

    Raises:
        OSError: If the disk is full.
    """
    vae = uncompiled(vae)
    kinds: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    check_savable(vae, lambda: encoder_of(kinds[vae.config["_class_name"]].from_config(vae.config)), "VAE")
    save_denoiser(unet, folder / family_of(uncompiled(unet)).part)
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text(json.dumps(vae.config, indent=2))
    save_weights(vae, folder / "vae" / f"{WEIGHTS['vae']}.safetensors")
    if text_encoder is not None:
        save_text_encoder(text_encoder, folder)
    if text_adapter is not None:
        save_weights(text_adapter, folder / ADAPTER_NAME)
    if scheduler is not None:
        (folder / SCHEDULER).parent.mkdir()
        (folder / SCHEDULER).write_text(json.dumps(scheduler, indent=2))
    has_text = text_encoder is not None
    config = {"has_text_encoder": has_text, "options": options, "weights": weight_ids(folder)}
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2))


def save_text_encoder(text_encoder: AnyText, folder: Path) -> None:
    """Write `text_encoder/` and `tokenizer/`, and for a stack also `text_encoder_2/`, `tokenizer_2/` and so on."""
    parts: Any = text_encoder.parts if isinstance(text_encoder, TextStack) else {"text_encoder": text_encoder}
    for part, encoder in parts.items():
        model: Any = uncompiled(encoder.model)
        check_savable(model, lambda model=model: type(model)(model.config), part.replace("_", " "))
        model.save_pretrained(folder / part)
        for path in (folder / part).glob("*.safetensors"):
            add_id(path)
        _save_tokenizer(encoder.tokenizer, folder / tokenizer_part(part))


def _encoders(text: Any) -> dict[str, Any]:
    """The models of the text encoders by folder name, including T5, which no LoRA changes."""
    if isinstance(text, TextStack):
        parts: Any = text.parts
        return {name: encoder.model for name, encoder in parts.items()}
    return {} if text is None else {"text_encoder": text.model if isinstance(text, TextEncoder) else text}


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if type(error) is not Exception:
            raise
        # The tokenizers library raises a plain Exception when the disk is full.
        raise OSError(str(error)) from error
