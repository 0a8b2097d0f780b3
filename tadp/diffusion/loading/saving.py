"""Write the parts of a backbone as `loading` reads them: a folder in diffusers layout, safetensors and JSON."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from tadp.diffusion.families import family_of
from tadp.diffusion.noise import SCHEDULER
from tadp.diffusion.vae import AnyVAE
from tadp.files.model_folder import ADAPTER_NAME, CONFIG_NAME, WEIGHTS, save_weights, tokenizer_part
from tadp.text.conditioning import TextAdapter
from tadp.text.stack import AnyText, TextStack

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


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


def _save_tokenizer(tokenizer: "CLIPTokenizer", folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if type(error) is not Exception:
            raise
        # what the tokenizers library raises when the disk is full
        raise OSError(str(error)) from error
