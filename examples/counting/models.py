"""The denoiser, VAE encoder and text encoders of a family, built from its public configuration, and a pass of them."""

from collections.abc import Collection
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tadp import Conditioning
from tadp.diffusion.families import family_of
from tadp.diffusion.vae import encoder_of

DENOISERS = {kind.__name__: kind for kind in (UNet2DConditionModel, SD3Transformer2DModel, FluxTransformer2DModel)}
ENCODERS = {"clip": CLIPTextModel, "clip projected": CLIPTextModelWithProjection, "t5": T5EncoderModel}
LEVELS = (1, 2)  # levels whose attention is recorded


def build(family: dict[str, Any]) -> tuple[Any, Any]:
    """Build the VAE encoder and the denoiser."""
    denoiser: Any = DENOISERS[family["denoiser"]](**family["config"]).requires_grad_(False)
    base = family_of(denoiser)
    base.prepare(denoiser, base.layout(denoiser))
    return encoder_of(AutoencoderKL(**family["vae"])).requires_grad_(False), denoiser


def inputs(
    family: dict[str, Any], vae: Any, denoiser: Any, side_px: int
) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    """Pixels, latents and a text, all filled with zeros."""
    layout, cells = family_of(denoiser).layout(denoiser), side_px // vae.reduction
    pooled = None if layout.pooled_width is None else torch.zeros(1, layout.pooled_width)
    text = Conditioning(torch.zeros(1, family["tokens"], layout.text_width), pooled=pooled)
    return torch.zeros(1, 3, side_px, side_px), torch.zeros(1, layout.latent_channels, cells, cells), text


def run(
    denoiser: Any,
    latents: torch.Tensor,
    text: Conditioning,
    side_px: int,
    *,
    levels: Collection[int] | None = None,
    attention: Collection[int] = LEVELS,
) -> tuple[torch.Tensor, ...]:
    """A pass for all levels, or only for `levels`, with the attention of those of them that are in `attention`."""
    recorded = [level for level in attention if levels is None or level in levels]
    options: Any = {"timestep": 0, "image_size": (side_px, side_px), "record_levels": recorded, "levels": levels}
    family = family_of(denoiser)
    return family.run_once(denoiser, family.layout(denoiser), latents, text=text, **options)[0]


def text_encoder(options: dict[str, Any]) -> torch.nn.Module:
    kind = ENCODERS[options["kind"]]
    config = T5Config if options["kind"] == "t5" else CLIPTextConfig
    return kind(config(**options["config"]))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    """All parameters and buffers, such as the position tables of Stable Diffusion 3."""
    return [*module.parameters(), *module.buffers()]
