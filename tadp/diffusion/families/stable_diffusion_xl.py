"""Stable Diffusion XL: a U-Net that also takes the pooled text and the image size, and two CLIPs."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from tadp.diffusion.families.family import LoraLoader
from tadp.diffusion.families.layout import Layout
from tadp.diffusion.families.stable_diffusion import StableDiffusion
from tadp.diffusion.unet import unet_pass
from tadp.text.conditioning import Conditioning
from tadp.text.encoder import TextEncoder
from tadp.text.encoder_files import TextFiles
from tadp.text.stack import TextStack, check_clips, encode_side_by_side, projected_width

TIME_IDS = 6  # height and width of the original, top and left of the crop, height and width of the target


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL, and models distilled or fine-tuned from it."""

    name = "Stable Diffusion XL"
    text_parts = ("text_encoder", "text_encoder_2")
    takes_any_size = False

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Match U-Nets that take pooled text and sizes in addition to the time."""
        return config.get("addition_embed_type") == "text_time"

    def layout(self, model: UNet2DConditionModel) -> Layout:
        """The layout of Stable Diffusion 1.x, with the width of the pooled text."""
        config = model.config
        pooled = config["projection_class_embeddings_input_dim"] - TIME_IDS * config["addition_time_embed_dim"]
        return replace(super().layout(model), pooled_width=pooled)

    def one_pass(
        self,
        model: UNet2DConditionModel,
        layout: Layout,
        latents: Float[Tensor, "b c h w"],
        *,
        timestep: int | Tensor,
        text: Conditioning,
        image_size: tuple[int, int],
        record_levels: Collection[int],
        record_heads: bool = False,
        record_queries: bool = False,
    ) -> tuple[tuple[Float[Tensor, "_b _c _h _w"], ...], dict[int, Float[Tensor, "_b _l _h _w"]]]:
        """Run the U-Net once. Original and target size are both the image size, and the crop starts at 0, 0."""
        if text.pooled is None:
            raise ValueError(f"{self.name} needs the pooled text; pass Conditioning(…, pooled=…).")
        # float32, because bfloat16 cannot represent every pixel count
        ids = torch.tensor([*image_size, 0, 0, *image_size], device=latents.device, dtype=torch.float32)
        return unet_pass(
            model,
            latents,
            taps=layout.taps,
            levels=layout.wanted,
            timestep=timestep,
            embeddings=text.embeddings,
            mask=text.mask,
            added={"text_embeds": text.pooled, "time_ids": ids.expand(latents.shape[0], -1)},
            record_levels=record_levels,
            record_heads=record_heads,
            record_queries=record_queries,
        )

    def text(self, files: TextFiles, model: UNet2DConditionModel) -> "XLText":
        """Two CLIPs, of which the last hidden state but one is used."""
        first, second = self.text_parts
        clip = files.clip(first, hidden="last but one")
        return XLText({first: clip, second: files.clip(second, projected=True, hidden="last but one")})

    def vae_dtype(self, config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
        """float32 instead of float16, where the VAE overflows, if its config has `force_upcast` or does not say."""
        return torch.float32 if dtype == torch.float16 and config.get("force_upcast", True) else dtype

    def lora(self, model: UNet2DConditionModel) -> LoraLoader:
        """The loader of diffusers' `StableDiffusionXLPipeline`."""
        from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin

        return LoraLoader(StableDiffusionXLLoraLoaderMixin, {"unet_config": model.config})


class XLText(TextStack):
    """Stable Diffusion XL's text encoders: two CLIP encoders, whose embeddings of a token are concatenated.

    The pooled embedding of a text is that of the second encoder.

    Args:
        parts: The encoders by folder name: "text_encoder", a CLIPTextModel, and "text_encoder_2", a
            CLIPTextModelWithProjection. The second-to-last hidden state of each is used.

    Raises:
        ModelError: If the two tokenizers split text differently.
    """

    def __init__(self, parts: Mapping[str, TextEncoder]):
        super().__init__(parts)
        check_clips(self.parts)

    @property
    def leader(self) -> TextEncoder:
        """CLIP-L; both encoders read the same tokens."""
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
        """Embeddings (B, 77, 2048) and pooled embeddings (B, 1280)."""
        return encode_side_by_side(self.leader, self._part("text_encoder_2"), texts, mask_padding=mask_padding)
