"""The parts of a backbone from a folder in diffusers layout, and back: safetensors and JSON."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tadp.diffusion.families import family_of
from tadp.diffusion.loading.lora_fusion import fuse_lora
from tadp.diffusion.loading.networks import load_drop_in_unet, load_drop_in_vae, load_text, load_unet, load_vae
from tadp.diffusion.noise import SCHEDULER, read_scheduler
from tadp.diffusion.vae import AnyVAE
from tadp.errors import MissingFileError
from tadp.files.fingerprint import WeightSample, sample_weights
from tadp.files.hub import HubOptions, read_json
from tadp.files.model_folder import ADAPTER_NAME, CONFIG_NAME, WEIGHTS, read_config, save_weights, tokenizer_part
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
) -> tuple[dict[str, Any], dict[str, Any], dict[str, WeightSample]]:
    """What a folder in diffusers layout holds of a backbone.

    Args:
        folder: The model's.
        dtype: Of what is loaded.
        given: Parts in place of the folder's; None is none. U-Net and VAE may be names, which are loaded.
        lora: A LoRA that is added to the weights of the U-Net and of text encoders.
        lora_scale: How much of it.
        hub: Which weight files, and how parts and a LoRA are downloaded; the revision is the folder's own, and
            theirs are their default branches. None is `HubOptions()`.
        load_t5: Whether Stable Diffusion 3's T5 is loaded, if the folder has it.

    Returns:
        U-Net, VAE, text encoder, tokenizer and scheduler as `TADPBackbone` takes them; the options saved with them, if
        any; and samples of the weights of "unet", "vae" and "text_encoder" that are the folder's own.

    Raises:
        ModelError: As `load_unet`, `load_vae` and `load_text`.
    """
    saved = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).exists() else {}
    parts: dict[str, Any] = {name: part for name, part in (given or {}).items() if part is not None}
    weights: dict[str, WeightSample] = {}
    hub = (hub or HubOptions()).at(None)
    how: dict[str, Any] = {"variant": hub.variant, "dtype": dtype}
    if "unet" not in parts:
        parts["unet"] = load_unet(folder, **how)
    elif isinstance(parts["unet"], str | Path):
        parts["unet"] = load_drop_in_unet(parts["unet"], folder, dtype=dtype, hub=hub)
    if "vae" not in parts:
        vae_dtype = family_of(parts["unet"]).vae_dtype(read_config(folder, "vae"), dtype)
        parts["vae"] = load_vae(folder, variant=hub.variant, dtype=vae_dtype)
    elif isinstance(parts["vae"], str | Path):
        parts["vae"] = load_drop_in_vae(parts["vae"], dtype=dtype, hub=hub)
    if "text_encoder" not in parts and saved.get("has_text_encoder", True):
        try:
            text = load_text(folder, parts["unet"], **how, load_t5=load_t5)
        except MissingFileError as error:
            if (given or {}).get("unet") is None:
                raise
            raise MissingFileError(
                f"what was passed as unet= takes text that this model may not make: {error} Pass one of the model's "
                "own family."
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
                parts[name] = copy.deepcopy(parts[name])  # the caller keeps theirs as it is
        fuse_lora(parts["unet"], _encoders(parts.get("text_encoder")), lora, scale=lora_scale, hub=hub)
    return parts | {"scheduler": read_scheduler(folder)}, saved.get("options", {}), weights


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
    """Write into an empty folder; the VAE goes without its decoder.

    Raises:
        OSError: If the disk is full.
    """
    family = family_of(unet)
    family.save(unet, folder / family.part)
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
    config = {"has_text_encoder": text_encoder is not None, "options": options}
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2))


def save_text_encoder(text_encoder: AnyText, folder: Path) -> None:
    """Write `text_encoder/` and `tokenizer/`, and the further ones of a stack."""
    parts: Any = text_encoder.parts if isinstance(text_encoder, TextStack) else {"text_encoder": text_encoder}
    for part, encoder in parts.items():
        encoder.model.save_pretrained(folder / part)
        _save_tokenizer(encoder.tokenizer, folder / tokenizer_part(part))


def _encoders(text: Any) -> dict[str, Any]:
    """The models of text encoders by the name of their folder; T5, which no LoRA changes, is among them."""
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
        # what the tokenizers library raises when the disk is full
        raise OSError(str(error)) from error
