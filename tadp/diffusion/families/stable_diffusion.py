"""Stable Diffusion 1.x and 2.x: one U-Net, one CLIP text encoder."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.upsampling import Upsample2D
from jaxtyping import Float
from torch import Tensor, nn

from tadp.diffusion.attention import RecordingAttnProcessor, install_recording
from tadp.diffusion.families.family import DiffusersFamily, LoraLoader
from tadp.diffusion.families.layout import Layout
from tadp.diffusion.unet import (
    layers_after,
    partly_run_layers,
    unet_attention_layers,
    unet_pass,
    unet_taps,
)
from tadp.diffusion.unet_names import check_unet
from tadp.errors import ModelError
from tadp.text.conditioning import Conditioning


class StableDiffusion(DiffusersFamily):
    """Stable Diffusion 1.x and 2.x, and models distilled or fine-tuned from them."""

    name = "Stable Diffusion 1.x and 2.x"
    denoiser_class = UNet2DConditionModel
    recorder_class = RecordingAttnProcessor
    repeated = (ResnetBlock2D, BasicTransformerBlock)
    samplers = (Downsample2D, Upsample2D)
    records_heads = True
    records_queries = True

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Match every U-Net except Stable Diffusion XL's; `layout` refuses those it cannot read."""
        return config.get("addition_embed_type") != "text_time"

    def layout(self, model: UNet2DConditionModel) -> Layout:
        """Each up block is a level; see `unet_taps`."""
        config = model.config
        check_unet(config)
        return Layout(
            channels=tuple(config["block_out_channels"]),
            reduction=tuple(2**level for level in range(len(config["up_block_types"]))),
            taps=unet_taps(model),
            attention_layers=unet_attention_layers(model),
            latent_channels=config["in_channels"],
            text_width=config["cross_attention_dim"],
        )

    def layout_at(self, model: UNet2DConditionModel, blocks: Sequence[int]) -> Layout:
        """Refuse the choice of blocks: the levels of a U-Net are its up blocks."""
        raise ValueError(
            "blocks= selects the levels of a transformer (Stable Diffusion 3, FLUX); the levels of a U-Net are its "
            f"{len(model.config['up_block_types'])} up blocks. Omit it."
        )

    def install_recording(self, model: UNet2DConditionModel, layout: Layout) -> None:
        """Install a processor in every attention layer; only layers with a level record."""
        install_recording(model, layout.attention_layers)

    def check_unchanged(self, model: UNet2DConditionModel, layout: Layout) -> None:
        """Refuse a U-Net whose attention processors were replaced, or whose blocks have FreeU, which a pass ignores."""
        super().check_unchanged(model, layout)
        if any(getattr(block, "s1", None) is not None for block in model.up_blocks):
            raise ModelError("FreeU is on in the U-Net, but features are computed without it; call disable_freeu().")

    def unused(self, model: UNet2DConditionModel, layout: Layout) -> list[nn.Module]:
        """The layers after the last one that is needed, up to the convolution that computes the prediction."""
        finest = min(layout.wanted)
        rest = layers_after(model, finest, is_recorded=finest in layout.attention_levels)
        return [module for module in (*rest, model.conv_norm_out, model.conv_out) if module is not None]

    def uncalled(self, model: UNet2DConditionModel) -> list[nn.Module]:
        """The U-Net, its up blocks, and the layers of which a pass may only run the part that is recorded."""
        return [model, *model.up_blocks, *partly_run_layers(model)]

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
        """Run the U-Net once; see `unet_pass`."""
        return unet_pass(
            model,
            latents,
            taps=layout.taps,
            levels=layout.wanted,
            timestep=timestep,
            embeddings=text.embeddings,
            mask=text.mask,
            record_levels=record_levels,
            record_heads=record_heads,
            record_queries=record_queries,
        )

    def denoise(
        self,
        model: UNet2DConditionModel,
        noisy: Float[Tensor, "b c h w"],
        timesteps: Tensor,
        embeddings: Float[Tensor, "b l d"],
    ) -> Float[Tensor, "b c h w"]:
        """The noise, or the velocity, depending on how the model was trained."""
        unet: Any = model
        return unet(noisy, timesteps, embeddings).sample

    def lora(self, model: UNet2DConditionModel) -> LoraLoader:
        """The loader of diffusers' `StableDiffusionPipeline`."""
        from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin

        return LoraLoader(StableDiffusionLoraLoaderMixin)
