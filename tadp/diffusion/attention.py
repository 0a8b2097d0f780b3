"""Record cross-attention during one pass, and join it to the features.

The recorder is an object of the call: it travels to the attention layers through diffusers' `cross_attention_kwargs`,
so nothing is kept on a module and two threads can share one U-Net.
"""

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

BLOCK = 512  # rows of attention at a time, in `blockwise_attention`


class AttentionRecorder:
    """Collects head-averaged cross-attention of the levels asked for, during one pass.

    Args:
        levels: Levels to keep, 0 the finest.
    """

    def __init__(self, levels: Collection[int]):
        self.levels = frozenset(levels)
        self._maps: dict[str, tuple[int, Tensor]] = {}
        self._closed = False

    def store(self, layer: str, level: int, probabilities: Float[Tensor, "b n l"]) -> None:
        """Keep one layer's map. Gradient checkpointing runs a layer again during backward: that is not kept."""
        if not self._closed:
            self._maps[layer] = (level, probabilities)

    def close(self, sizes: dict[int, tuple[int, int]]) -> dict[int, Float[Tensor, "_b _l _h _w"]]:
        """End the recording; returns the mean over layers of each level, in the shape of its cells.

        Args:
            sizes: (h, w) of each level.
        """
        self._closed = True
        maps, self._maps = self._maps, {}
        means = {}
        for level in sorted(self.levels):
            layers = [probabilities for layer_level, probabilities in maps.values() if layer_level == level]
            mean = torch.stack(layers).mean(dim=0) if len(layers) > 1 else layers[0]
            height, width = sizes[level]
            means[level] = rearrange(mean, "b (h w) l -> b l h w", h=height, w=width)
        return means


class RecordingAttnProcessor(AttnProcessor2_0):
    """diffusers' fused attention that also hands the layer's probabilities to a recorder, when the call brings one.

    The output is computed the same way with and without a recorder, so features do not depend on what is recorded.

    Args:
        layer: The layer's name in the U-Net.
        level: The layer's level; None for self-attention and the middle block, which are never recorded.
    """

    def __init__(self, layer: str = "", level: int | None = None):
        super().__init__()
        self.layer, self.level = layer, level

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        recorder: AttentionRecorder | None = None,
    ) -> Tensor:
        """Attend as diffusers does; see `AttnProcessor2_0`."""
        if recorder is not None and self.level in recorder.levels and encoder_hidden_states is not None:
            probabilities = head_averaged_probabilities(attn, hidden_states, encoder_hidden_states, attention_mask)
            recorder.store(self.layer, self.level, probabilities)
        if (
            encoder_hidden_states is None
            and attention_mask is None
            and wants_blocks(hidden_states, tokens=hidden_states.shape[1])
        ):
            return _self_attention(attn, hidden_states)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def wants_blocks(hidden: Tensor, *, tokens: int) -> bool:
    """Whether `blockwise_attention` is the faster way: bfloat16 on a CPU, many tokens, no gradient, no graph of it."""
    return (
        hidden.device.type == "cpu"
        and hidden.dtype == torch.bfloat16
        and tokens >= BLOCK
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def blockwise_attention(
    query: Float[Tensor, "b n h d"], key: Float[Tensor, "b m h d"], value: Float[Tensor, "b m h d"]
) -> Float[Tensor, "b n h d"]:
    """softmax(QKᵀ/√d)V, head by head and a block of rows at a time, each by two matrix products.

    Faster than PyTorch's fused kernel for the CPU where tokens are many: the products run in bfloat16 as a whole.
    """
    out = torch.empty_like(query)
    scale = query.shape[-1] ** -0.5
    for text, head in itertools.product(range(query.shape[0]), range(query.shape[2])):
        queries, keys, values = (one[text, :, head].contiguous() for one in (query, key, value))
        for start in range(0, len(queries), BLOCK):
            rows = queries[start : start + BLOCK]
            scores = torch.addmm(rows.new_empty(()), rows, keys.t(), beta=0, alpha=scale)
            out[text, start : start + BLOCK, head] = scores.softmax(dim=-1) @ values
    return out


def _self_attention(attn: Attention, hidden: Tensor) -> Tensor:
    layers: Any = (attn.to_q, attn.to_k, attn.to_v)
    query, key, value = (rearrange(layer(hidden), "b n (h d) -> b n h d", h=attn.heads) for layer in layers)
    to_out: Any = attn.to_out
    return to_out[0](rearrange(blockwise_attention(query, key, value), "b n h d -> b n (h d)"))


def head_averaged_probabilities(
    attn: Attention,
    hidden_states: Float[Tensor, "b n c"],
    encoder_hidden_states: Float[Tensor, "b l d"],
    attention_mask: Float[Tensor, "b 1 l"] | None = None,
) -> Float[Tensor, "b n l"]:
    """softmax(QKᵀ/√d) of a cross-attention layer, averaged over its heads; each row sums to one.

    The softmax runs in float32 at least; the result has the layer's dtype.
    """
    to_k: Any = attn.to_k  # diffusers types it as optional
    query = rearrange(attn.to_q(hidden_states), "b n (h d) -> b n h d", h=attn.heads)
    key = rearrange(to_k(encoder_hidden_states), "b l (h d) -> b l h d", h=attn.heads)
    scores = torch.einsum("bnhd,blhd->bhnl", query * query.shape[-1] ** -0.5, key)
    if attention_mask is not None:
        scores = scores + attention_mask.unsqueeze(1)
    precision = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(dim=-1, dtype=precision).mean(dim=1).to(hidden_states.dtype)


def install_recording(unet: UNet2DConditionModel, attention_layers: Mapping[str, int]) -> None:
    """Give every attention layer of a U-Net a processor that can record.

    Args:
        unet: Its attention layers keep their weights.
        attention_layers: Level of each cross-attention layer that may be recorded, by the layer's name.
    """
    layers = {name: name.removesuffix(".processor") for name in unet.attn_processors}
    unet.set_attn_processor(
        {name: RecordingAttnProcessor(layer, attention_layers.get(layer)) for name, layer in layers.items()}
    )


def attach_attention(
    feature: Float[Tensor, "b c h w"], attention: Float[Tensor, "b l h w"], *, detach: bool = False
) -> Float[Tensor, "b cl h w"]:
    """Concatenate token attention onto a feature map.

    Args:
        feature: U-Net features, (B, C, H, W).
        attention: Head-averaged attention, one channel a token, (B, L, H, W), in [0, 1].
        detach: Stop the gradient at the attention, as the released code's checkpointing does.

    Returns:
        (B, C + L, H, W), features first.

    Raises:
        ValueError: If the two maps differ in batch, height or width.

    Source:
        TADP Sec. 3, V = A ⊕ F.
    """
    if feature.shape[0] != attention.shape[0] or feature.shape[2:] != attention.shape[2:]:
        raise ValueError(
            f"features {tuple(feature.shape)} and attention {tuple(attention.shape)} must agree in batch, height and "
            "width; take both from one level of one pass."
        )
    # Under autocast the attention is float32 and the feature is not.
    attention = attention.to(feature.dtype)
    return torch.cat([feature, attention.detach() if detach else attention], dim=1)
