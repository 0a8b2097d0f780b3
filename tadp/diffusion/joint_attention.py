"""Record the attention of image cells to text tokens in joint attention, where one softmax covers image and text.

The processors compute their output as diffusers does, with its fused kernel. The recorded map is a second, smaller
computation: of the attention matrix, only the rows of the image and the columns of the text, a few rows at a time.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxAttnProcessor
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tadp.diffusion.attention import (
    AttentionRecorder,
    HeadMaps,
    in_float32,
    is_float16,
    logits_in_float32,
    over_heads,
    project,
    projected,
)

ROWS = 256  # image cells that `text_columns` computes at a time


class RecordingJointProcessor(JointAttnProcessor2_0):
    """diffusers' joint attention for Stable Diffusion 3, which can also pass its attention map to a recorder.

    Args:
        layer: The layer's name in the transformer.
        level: The level that the map belongs to; None for layers that are never recorded.
    """

    def __init__(self, layer: str, level: int | None):
        super().__init__()
        self.layer, self.level = layer, level

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        recorder: AttentionRecorder | None = None,
    ) -> Any:
        """Attend as diffusers does; see `JointAttnProcessor2_0`."""
        layers: Any = attn
        if recorder is not None and self.level in recorder.levels and encoder_hidden_states is not None:
            inputs = {"to_q": hidden_states, "to_k": hidden_states, "add_k_proj": encoder_hidden_states}
            layers = projected(attn, inputs)
            query = _heads(layers.to_q, hidden_states, attn.heads, attn.norm_q)
            image = _heads(layers.to_k, hidden_states, attn.heads, attn.norm_k)
            text = _heads(layers.add_k_proj, encoder_hidden_states, attn.heads, attn.norm_added_k)
            columns = text_columns(query, text, image, keep_heads=recorder.keep_heads)
            recorder.store(self.layer, self.level, columns.to(hidden_states.dtype))
        attend: Any = super().__call__  # diffusers types tensors as FloatTensor
        return attend(layers, hidden_states, encoder_hidden_states, attention_mask)


class RecordingFluxProcessor(FluxAttnProcessor):
    """diffusers' joint attention for FLUX, which can also pass its attention map to a recorder.

    Args:
        layer: The layer's name in the transformer.
        level: The level that the map belongs to; None for layers that are never recorded.
    """

    def __init__(self, layer: str, level: int | None):
        super().__init__()
        self.layer, self.level = layer, level

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        recorder: AttentionRecorder | None = None,
        text_length: int = 0,
    ) -> Any:
        """Attend as diffusers does; see `FluxAttnProcessor`.

        Args:
            attn: The attention layer.
            hidden_states: The image tokens in a double block; text tokens followed by image tokens in a single block.
            encoder_hidden_states: The text tokens in a double block; None in a single block.
            attention_mask: The mask that diffusers' processor takes; None for no mask.
            image_rotary_emb: The positions of text and image tokens, as cosines and sines.
            recorder: The recorder that stores the attention map; None records nothing.
            text_length: Number of text tokens, which is needed in a single block.
        """
        layers: Any = attn
        if recorder is not None and self.level in recorder.levels:
            inputs = {"to_q": hidden_states, "to_k": hidden_states}
            if encoder_hidden_states is not None:
                inputs |= {"add_q_proj": encoder_hidden_states, "add_k_proj": encoder_hidden_states}
            layers = projected(attn, inputs)
            query: Any = _heads(layers.to_q, hidden_states, attn.heads, attn.norm_q)
            key: Any = _heads(layers.to_k, hidden_states, attn.heads, attn.norm_k)
            if encoder_hidden_states is not None:
                queries = _heads(layers.add_q_proj, encoder_hidden_states, attn.heads, attn.norm_added_q)
                keys = _heads(layers.add_k_proj, encoder_hidden_states, attn.heads, attn.norm_added_k)
                query, key = torch.cat([queries, query], dim=2), torch.cat([keys, key], dim=2)
            if image_rotary_emb is not None:
                query, key = (apply_rotary_emb(tensor, image_rotary_emb, sequence_dim=2) for tensor in (query, key))
            text, image = key.split([text_length, key.shape[2] - text_length], dim=2)
            columns = text_columns(query[:, :, text_length:], text, image, keep_heads=recorder.keep_heads)
            recorder.store(self.layer, self.level, columns.to(hidden_states.dtype))
        attend: Any = super().__call__
        return attend(layers, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)


def text_columns(
    query: Float[Tensor, "b h n d"],
    text: Float[Tensor, "b h l d"],
    image: Float[Tensor, "b h m d"],
    *,
    keep_heads: bool = False,
) -> HeadMaps:
    """Compute the joint attention of image cells to text tokens, averaged over heads.

    The softmax is over all keys, text and image, but only the columns of the text are returned. A row sums to the share
    of attention that its cell gives to the text, at most 1. `ROWS` rows are computed at a time, and again in the
    backward pass, so that the whole matrix is never in memory.

    Args:
        query: Queries of the N image cells, (B, heads, N, d), normalised and rotated by their positions as in the
            layer.
        text: Keys of the L text tokens, (B, heads, L, d).
        image: Keys of the image cells, (B, heads, M, d).
        keep_heads: Whether to also return the attention of each head, after the mean.
    """
    key, length = torch.cat([text, image], dim=2), text.shape[2]
    chunks = query.split(ROWS, dim=2)
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad):
        parts: list[Any] = [checkpoint(_columns, rows, key, length, keep_heads, use_reentrant=False) for rows in chunks]
    else:
        parts = [_columns(rows, key, length, keep_heads) for rows in chunks]
    return torch.cat(parts, dim=-2)


def _columns(query: Tensor, key: Tensor, length: int, keep_heads: bool) -> Tensor:
    with logits_in_float32(query):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    precision = torch.promote_types(scores.dtype, torch.float32)
    return over_heads(scores.softmax(dim=-1, dtype=precision)[..., :length], keep_heads=keep_heads)


def _heads(layer: Any, tokens: Tensor, heads: int, norm: Any) -> Tensor:
    """Queries or keys by head, in the precision of `project`."""
    split = rearrange(project(layer, tokens), "b n (h d) -> b h n d", h=heads)
    if norm is None:
        return split
    return in_float32(norm, split) if is_float16(tokens) else norm(split)
