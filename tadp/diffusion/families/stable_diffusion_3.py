"""Stable Diffusion 3.x: a transformer with joint attention, two CLIPs and one T5."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from tadp.diffusion.families.family import LoraLoader
from tadp.diffusion.families.joint_transformer import JointTransformerFamily
from tadp.diffusion.joint_attention import RecordingJointProcessor
from tadp.diffusion.transformer import PATCH
from tadp.text.conditioning import Conditioning
from tadp.text.encoder import TextEncoder
from tadp.text.encoder_files import TextFiles
from tadp.text.stack import T5_TOKENS, TextStack, check_clips, encode_side_by_side, projected_width


class StableDiffusion3(JointTransformerFamily):
    """Stable Diffusion 3 and 3.5."""

    name = "Stable Diffusion 3.x"
    denoiser_class = SD3Transformer2DModel
    text_parts = ("text_encoder", "text_encoder_2", "text_encoder_3")
    processor = recorder_class = RecordingJointProcessor
    repeated = (JointTransformerBlock,)
    patch_size = PATCH

    def blocks(self, model: SD3Transformer2DModel) -> dict[str, nn.Module]:
        """The blocks that read image and text, which are all of them."""
        return {f"transformer_blocks.{number}": block for number, block in enumerate(model.transformer_blocks)}

    def start(
        self, model: Any, latents: Float[Tensor, "b c h w"], time: Float[Tensor, " b"], text: Conditioning
    ) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
        """Image tokens with positions, and the embedded time and pooled text."""
        side = model.pos_embed.pos_embed_max_size * PATCH
        if max(latents.shape[2:]) > side:
            raise ValueError(
                f"this transformer has positions for at most {side}x{side} latent cells; got "
                f"{latents.shape[2]}x{latents.shape[3]}. Use smaller images, or tiles."
            )
        return model.pos_embed(latents).contiguous(), (model.time_text_embed(time, text.pooled),), {}

    def text_layers(self, block: Any) -> tuple[nn.Module | None, ...]:
        """The text's own query and output layers."""
        return block.attn.add_q_proj, block.attn.norm_added_q, block.attn.to_add_out, block.ff_context

    def text(self, files: TextFiles, model: SD3Transformer2DModel) -> "SD3Text":
        """XL's two CLIPs, both with pooled embeddings, and T5 if the folder has it and it was asked for."""
        first, second, third = self.text_parts
        parts: dict[str, TextEncoder] = {
            part: files.clip(part, projected=True, hidden="last but one") for part in (first, second)
        }
        if files.has_t5(third):
            parts[third] = files.t5(third)
        return SD3Text(parts, width=model.config["joint_attention_dim"])

    def lora(self, model: SD3Transformer2DModel) -> LoraLoader:
        """The loader of diffusers' `StableDiffusion3Pipeline`, which takes no separate alphas."""
        from diffusers.loaders.lora_pipeline import SD3LoraLoaderMixin

        return LoraLoader(SD3LoraLoaderMixin, takes_alphas=False)


class SD3Text(TextStack):
    """Stable Diffusion 3's text encoders: the tokens of two CLIP encoders, followed by those of T5.

    Args:
        parts: The encoders by folder name: "text_encoder" and "text_encoder_2", each a CLIPTextModelWithProjection, and
            optionally "text_encoder_3", a T5. Without T5, its embeddings are zero, as in diffusers.
        width: D, the width to which CLIP's embeddings are padded with zeros.

    Raises:
        ModelError: If the two CLIP tokenizers split text differently.
    """

    def __init__(self, parts: Mapping[str, TextEncoder], *, width: int):
        super().__init__(parts)
        self._width = width
        check_clips(self.parts)

    @property
    def leader(self) -> TextEncoder:
        """CLIP-L, which takes the fewest tokens: a caption that fits it is read whole by all encoders."""
        return self._part("text_encoder")

    @property
    def width(self) -> int:
        """4096, the width of T5."""
        return self._width

    @property
    def length(self) -> int:
        """77 + 256."""
        return self.leader.length + (
            self._part("text_encoder_3").length if "text_encoder_3" in self.parts else T5_TOKENS
        )

    @property
    def pooled_width(self) -> int:
        """768 + 1280."""
        return projected_width(self.leader) + projected_width(self._part("text_encoder_2"))

    def encode(self, texts: list[str], *, mask_padding: bool = False) -> Conditioning:
        """Embeddings (B, 333, 4096) and pooled embeddings (B, 2048); each word occurs in CLIP's tokens and in T5's."""
        second = self._part("text_encoder_2")
        clip = encode_side_by_side(self.leader, second, texts, mask_padding=mask_padding, both_pooled=True)
        clip = replace(clip, embeddings=F.pad(clip.embeddings, (0, self._width - clip.embeddings.shape[2])))
        if "text_encoder_3" in self.parts:
            return clip.join(self._part("text_encoder_3").encode(texts, mask_padding=mask_padding))
        return clip.join(Conditioning(clip.embeddings.new_zeros(len(texts), T5_TOKENS, self._width)))
