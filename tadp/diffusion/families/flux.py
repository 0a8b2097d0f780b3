"""FLUX: a transformer with joint attention in double and single blocks, one CLIP and one T5."""

from dataclasses import replace
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformer2DModel,
    FluxTransformerBlock,
)
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tadp.diffusion.families.family import LoraLoader
from tadp.diffusion.families.joint_transformer import JointTransformerFamily
from tadp.diffusion.joint_attention import RecordingFluxProcessor
from tadp.diffusion.transformer import PATCH
from tadp.text.conditioning import Conditioning
from tadp.text.encoder import TextEncoder
from tadp.text.encoder_files import TextFiles
from tadp.text.stack import T5_TOKENS, TextStack

GUIDANCE = 1.0  # for models distilled from guidance (FLUX.1-dev); 1 means no guidance
DEV_TOKENS = 512  # FLUX.1-schnell, which takes no guidance, was trained with 256


class Flux(JointTransformerFamily):
    """FLUX.1-dev and FLUX.1-schnell."""

    name = "FLUX"
    denoiser_class = FluxTransformer2DModel
    text_parts = ("text_encoder", "text_encoder_2")
    processor = recorder_class = RecordingFluxProcessor
    repeated = (FluxTransformerBlock, FluxSingleTransformerBlock)
    patch_size = 1  # latents are packed before they reach the transformer

    def blocks(self, model: FluxTransformer2DModel) -> dict[str, nn.Module]:
        """The double blocks, then the single blocks."""
        kinds: Any = (
            ("transformer_blocks", model.transformer_blocks),
            (
                "single_transformer_blocks",
                model.single_transformer_blocks,
            ),
        )
        return {f"{kind}.{number}": block for kind, blocks in kinds for number, block in enumerate(blocks)}

    def start(
        self, model: Any, latents: Float[Tensor, "b c h w"], time: Float[Tensor, " b"], text: Conditioning
    ) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
        """Packed image tokens; embedded time, guidance and pooled text; positions of text and image."""
        length = text.embeddings.shape[1]
        guidance = (torch.full_like(time, 1000 * GUIDANCE),) if model.config["guidance_embeds"] else ()
        embedded = model.time_text_embed(time, *guidance, text.pooled)
        positions = model.pos_embed(_positions(latents, length))
        return model.x_embedder(_packed(latents)), (embedded, positions), {"text_length": length}

    def text_layers(self, block: Any) -> tuple[nn.Module | None, ...]:
        """A double block's query and output layers for text; a single block has no separate layers for text."""
        if isinstance(block, FluxSingleTransformerBlock):
            return ()
        return block.attn.add_q_proj, block.attn.norm_added_q, block.attn.to_add_out, block.ff_context

    def text(self, files: TextFiles, model: FluxTransformer2DModel) -> "FluxText":
        """CLIP for the pooled embedding, T5 for the tokens."""
        first, second = self.text_parts
        tokens = DEV_TOKENS if model.config["guidance_embeds"] else T5_TOKENS
        return FluxText({first: files.clip(first), second: files.t5(second, max_tokens=tokens)})

    def lora(self, model: FluxTransformer2DModel) -> LoraLoader:
        """The loader of diffusers' `FluxPipeline`."""
        from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin

        return LoraLoader(FluxLoraLoaderMixin, {"return_alphas": True})


class FluxText(TextStack):
    """FLUX's text encoders: T5 provides the tokens, and CLIP only the pooled embedding.

    Args:
        parts: The encoders by folder name: "text_encoder", a CLIPTextModel, and "text_encoder_2", a T5.
    """

    @property
    def leader(self) -> TextEncoder:
        """T5. CLIP's pooled embedding covers the first 77 tokens of a caption."""
        return self._part("text_encoder_2")

    @property
    def width(self) -> int:
        """4096."""
        return self.leader.width

    @property
    def length(self) -> int:
        """512, or 256 for FLUX.1-schnell."""
        return self.leader.length

    @property
    def pooled_width(self) -> int:
        """768."""
        return self._part("text_encoder").width

    def encode(self, texts: list[str], *, mask_padding: bool = False) -> Conditioning:
        """Embeddings (B, 512, 4096) and pooled embeddings (B, 768)."""
        pooled = self._part("text_encoder").encode(texts, keep_pooled=True).pooled
        return replace(self.leader.encode(texts, mask_padding=mask_padding), pooled=pooled)


def _packed(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c4"]:
    """Pack each 2x2 square of latent cells into one token, channels first."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=PATCH, q=PATCH)


def _positions(latents: Tensor, text_length: int) -> Float[Tensor, "n 3"]:
    """Position ids: zero for text, (0, row, column) for the image."""
    height, width = latents.shape[2] // PATCH, latents.shape[3] // PATCH
    ids = latents.new_zeros(height, width, 3)
    ids[..., 1] = torch.arange(height, device=latents.device)[:, None]
    ids[..., 2] = torch.arange(width, device=latents.device)
    return torch.cat([latents.new_zeros(text_length, 3), rearrange(ids, "h w k -> (h w) k")])
