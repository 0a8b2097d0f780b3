"""Stable Diffusion XL: a U-Net that also receives the pooled text and the image's size, and two CLIPs."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from tadp.diffusion.families.family import Layout, LoraLoader
from tadp.diffusion.families.stable_diffusion import StableDiffusion
from tadp.diffusion.unet import unet_pass
from tadp.text.conditioning import Conditioning
from tadp.text.encoder import TextEncoder
from tadp.text.encoder_files import TextFiles
from tadp.text.stack import TextStack, beside, check_clips, projected_width

TIME_IDS = 6  # height and width of the original, top and left of the crop, height and width of the target


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL, and what was distilled or fine-tuned from it."""

    name = "Stable Diffusion XL"
    text_parts = ("text_encoder", "text_encoder_2")
    takes_any_size = False

    def matches(self, config: Mapping[str, Any]) -> bool:
        """U-Nets with text and sizes beside the time."""
        return config.get("addition_embed_type") == "text_time"

    def layout(self, model: UNet2DConditionModel) -> Layout:
        """As in Stable Diffusion 1.x, with pooled text."""
        config = model.config
        pooled = config["projection_class_embeddings_input_dim"] - TIME_IDS * config["addition_time_embed_dim"]
        return replace(super().layout(model), pooled_width=pooled)

    def one_pass(
        self,
        model: UNet2DConditionModel,
        layout: Layout,
        latents: Float[Tensor, "b c h w"],
        *,
        timestep: int,
        text: Conditioning,
        image_size: tuple[int, int],
        record_levels: Collection[int],
    ) -> tuple[tuple[Float[Tensor, "_b _c _h _w"], ...], dict[int, Float[Tensor, "_b _l _h _w"]]]:
        """The U-Net's pass; the original is as large as the image and uncropped, and so is the target."""
        if text.pooled is None:
            raise ValueError(f"{self.name} takes the pooled text; pass Conditioning(…, pooled=…).")
        # float32, as bfloat16 cannot count pixels
        ids = torch.tensor([*image_size, 0, 0, *image_size], device=latents.device, dtype=torch.float32)
        return unet_pass(
            model,
            latents,
            taps=layout.taps,
            timestep=timestep,
            embeddings=text.embeddings,
            mask=text.mask,
            added={"text_embeds": text.pooled, "time_ids": ids.expand(latents.shape[0], -1)},
            record_levels=record_levels,
        )

    def text(self, files: TextFiles, model: UNet2DConditionModel) -> "XLText":
        """The last hidden state but one of two CLIPs."""
        first, second = self.text_parts
        clip = files.clip(first, hidden="last but one")
        return XLText({first: clip, second: files.clip(second, projected=True, hidden="last but one")})

    def vae_dtype(self, config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
        """float32 in place of float16, in which the VAE overflows: its config's `force_upcast`."""
        return torch.float32 if dtype == torch.float16 and config.get("force_upcast", True) else dtype

    def lora(self, model: UNet2DConditionModel) -> LoraLoader:
        """That of diffusers' `StableDiffusionXLPipeline`."""
        from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin

        return LoraLoader(StableDiffusionXLLoraLoaderMixin, {"unet_config": model.config})


class XLText(TextStack):
    """Stable Diffusion XL: two CLIPs beside each other, and what the second one pools.

    Args:
        parts: "text_encoder", a CLIPTextModel, and "text_encoder_2", a CLIPTextModelWithProjection; each gives its last
            hidden state but one.

    Raises:
        ModelError: If the tokenizers split text differently.
    """

    def __init__(self, parts: Mapping[str, TextEncoder]):
        super().__init__(parts)
        check_clips(self.parts)

    @property
    def leader(self) -> TextEncoder:
        """CLIP-L; both read the same tokens."""
        return self._part("text_encoder")

    @property
    def width(self) -> int:
        """768 + 1280."""
        return self.leader.width + self._part("text_encoder_2").width

    @property
    def length(self) -> int:
        """77."""
        return self.leader.length

    @property
    def pooled_width(self) -> int:
        """1280."""
        return projected_width(self._part("text_encoder_2"))

    def encode(self, texts: list[str], *, mask_padding: bool = False) -> Conditioning:
        """Embeddings (B, 77, 2048), pooled (B, 1280)."""
        return beside(self.leader, self._part("text_encoder_2"), texts, mask_padding=mask_padding)
