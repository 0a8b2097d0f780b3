"""Write the parts of a backbone as `loading` reads them: a folder in diffusers layout, safetensors and JSON."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor, nn

from tadp.loading import ADAPTER_NAME, CONFIG_NAME
from tadp.text import TextAdapter, TextEncoder
from tadp.vae import VAEEncoder

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTokenizer


def save_parts(
    folder: Path,
    *,
    unet: "UNet2DConditionModel",
    vae: VAEEncoder,
    text_encoder: TextEncoder | None,
    text_adapter: TextAdapter | None,
    options: dict[str, Any],
) -> None:
    """Write into an empty folder; the VAE goes without its decoder.

    Raises:
        OSError: If the disk is full.
    """
    unet.save_pretrained(folder / "unet")
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text(json.dumps(vae.config, indent=2))
    save_file(_contiguous(vae), folder / "vae" / "diffusion_pytorch_model.safetensors")
    if text_encoder is not None:
        save_text_encoder(text_encoder, folder)
    if text_adapter is not None:
        save_file(_contiguous(text_adapter), folder / ADAPTER_NAME)
    config = {"has_text_encoder": text_encoder is not None, "options": options}
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2))


def save_text_encoder(text_encoder: TextEncoder, folder: Path) -> None:
    """Write `text_encoder/` and `tokenizer/`."""
    text_encoder.model.save_pretrained(folder / "text_encoder")
    _save_tokenizer(text_encoder.tokenizer, folder / "tokenizer")


def _save_tokenizer(tokenizer: "CLIPTokenizer", folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if type(error) is not Exception:
            raise
        # what the tokenizers library raises when the disk is full
        raise OSError(str(error)) from error


def _contiguous(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
