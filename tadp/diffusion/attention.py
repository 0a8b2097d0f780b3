"""Record cross-attention while a U-Net runs, and attach it to the features.

Each call of the U-Net has its own recorder, which reaches the attention layers through diffusers'
`cross_attention_kwargs`. Nothing is stored on a module, so two threads can share one U-Net.
"""

import itertools
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tadp.files.diffusers_hooks import compute_dtype
from tadp.files.inference import autocasts, shallow_copy, without_autocast

BLOCK = 512  # rows of attention that `blockwise_attention` computes at a time
HeadMaps: TypeAlias = Float[Tensor, "b n l"] | Float[Tensor, "b _k n l"]  # see `over_heads`


class AttentionRecorder:
    """Collects cross-attention at chosen levels during one pass, averaged over heads and, if asked for, of each head.

    Args:
        levels: The levels to keep; 0 is the finest.
        keep_heads: Whether to also keep the map of every head.
        keep_queries: Whether to also keep queries and keys; see `store_queries`.
    """

    def __init__(self, levels: Collection[int], *, keep_heads: bool = False, keep_queries: bool = False):
        self.levels, self.keep_heads, self.keep_queries = frozenset(levels), keep_heads, keep_queries
        self._maps: dict[str, tuple[int, Tensor]] = {}
        self._queries: dict[str, tuple[int, Tensor]] = {}
        self._closed = False

    def store(self, layer: str, level: int, probabilities: HeadMaps) -> None:
        """Keep one layer's map. After `close` this does nothing: checkpointing runs layers again during backward.

        Args:
            layer: The layer's name.
            level: The layer's level.
            probabilities: The map as `over_heads` returns it.
        """
        if not self._closed:
            self._maps[layer] = (level, probabilities)

    def store_queries(self, layer: str, level: int, channels: Float[Tensor, "b n c"]) -> None:
        """Keep the queries of a cross-attention layer, or queries and keys of a self-attention layer.

        After `close` this does nothing.
        """
        if not self._closed:
            self._queries[layer] = (level, channels)

    def close(self, sizes: dict[int, tuple[int, int]]) -> dict[int, Float[Tensor, "_b _l _h _w"]]:
        """End the recording and return the attention of each level.

        Args:
            sizes: Height and width of each level's map, in cells.

        Returns:
            By level, the mean over the level's layers, (B, L, h, w). With `keep_heads`, it is followed by the L
            channels of each head, the layers in the order in which they ran: (B, (1 + heads) L, h, w). With
            `keep_queries`, the queries and keys of the layers follow, in the order in which they ran.
        """
        self._closed = True
        maps, self._maps = self._maps, {}
        attention = {}
        for level in sorted(self.levels):
            layers = [probabilities for layer_level, probabilities in maps.values() if layer_level == level]
            means = [layer[:, 0] for layer in layers] if self.keep_heads else layers
            mean = torch.stack(means).mean(dim=0) if len(means) > 1 else means[0]
            height, width = sizes[level]
            attention[level] = rearrange(mean, "b (h w) l -> b l h w", h=height, w=width)
            if self.keep_heads:
                heads = torch.cat([layer[:, 1:] for layer in layers], dim=1)
                channels = rearrange(heads, "b k (h w) l -> b (k l) h w", h=height, w=width)
                attention[level] = torch.cat([attention[level], channels], dim=1)
            queries = [layer for layer_level, layer in self._queries.values() if layer_level == level]
            if queries:
                channels = rearrange(torch.cat(queries, dim=-1), "b (h w) c -> b c h w", h=height, w=width)
                attention[level] = torch.cat([attention[level], channels.to(mean.dtype)], dim=1)
        return attention


class RecordingAttnProcessor(AttnProcessor2_0):
    """diffusers' fused attention, which can also pass the layer's attention probabilities to a recorder.

    It does so if the call of the U-Net has a recorder. The output is computed in the same way with and without a
    recorder, so recording never changes the features.

    Args:
        layer: The layer's name in the U-Net.
        level: The layer's level; None for self-attention and the middle block, whose attention is never recorded.
        self_level: The level of a self-attention layer whose queries and keys can be recorded; None for other layers.
    """

    def __init__(self, layer: str = "", level: int | None = None, self_level: int | None = None):
        super().__init__()
        self.layer, self.level, self.self_level = layer, level, self_level

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
        layer: Any = attn
        if recorder is not None and encoder_hidden_states is not None:
            layer = self.record(attn, hidden_states, encoder_hidden_states, attention_mask, recorder)
        elif recorder is not None and recorder.keep_queries and self.self_level in recorder.levels:
            layer = projected(attn, {"to_q": hidden_states, "to_k": hidden_states})
            queries, keys = project(layer.to_q, hidden_states), project(layer.to_k, hidden_states)
            recorder.store_queries(self.layer, self.self_level, torch.cat([queries, keys], dim=-1))
        if (
            encoder_hidden_states is None
            and attention_mask is None
            and wants_blocks(hidden_states, tokens=hidden_states.shape[1])
        ):
            return _self_attention(layer, hidden_states)
        return super().__call__(layer, hidden_states, encoder_hidden_states, attention_mask, temb)

    def record(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None,
        recorder: AttentionRecorder,
    ) -> Any:
        """Pass the layer's attention probabilities to the recorder if that keeps those of the layer's level.

        Returns:
            The layer for diffusers' processor, which does not project queries and keys again.
        """
        if self.level is None or self.level not in recorder.levels:
            return attn
        layer = projected(attn, {"to_q": hidden_states, "to_k": encoder_hidden_states})
        probabilities = head_averaged_probabilities(
            layer, hidden_states, encoder_hidden_states, attention_mask, keep_heads=recorder.keep_heads
        )
        recorder.store(self.layer, self.level, probabilities)
        if recorder.keep_queries:
            recorder.store_queries(self.layer, self.level, project(layer.to_q, hidden_states))
        return layer


class ProjectedLayer:
    """An attention layer some of whose projections are computed already. diffusers' processors take it as a layer.

    Args:
        attn: The layer.
        outputs: The outputs of its projections, by the name of the projection.
    """

    def __init__(self, attn: Any, outputs: Mapping[str, Tensor]):
        self.attn, self.outputs = attn, outputs

    def __getattr__(self, name: str) -> Any:
        if name not in self.outputs:
            return getattr(self.attn, name)
        output = self.outputs[name]
        return lambda tokens: output


def projected(attn: Any, inputs: Mapping[str, Tensor]) -> Any:
    """A layer that shares its projections between the recorded map and the output, in the forward and backward pass.

    In float16 the map needs projections of its own, in float32, so the layer itself is returned.

    Args:
        attn: The attention layer.
        inputs: The tokens that each of the shared projections takes, by the name of the projection.
    """
    if any(map(is_float16, inputs.values())):
        return attn
    return ProjectedLayer(attn, {name: getattr(attn, name)(tokens) for name, tokens in inputs.items()})


def record_only(
    layer: Any,
    hidden: Float[Tensor, "b c h w"],
    *,
    encoder_hidden_states: Float[Tensor, "b l d"],
    encoder_attention_mask: Float[Tensor, "b 1 l"] | None,
    cross_attention_kwargs: dict[str, AttentionRecorder],
) -> None:
    """Run a `Transformer2DModel` of a U-Net up to its last cross-attention, only for the attention map.

    The arguments are those of its `forward`. The last block runs as in diffusers' `BasicTransformerBlock`, and a test
    compares the map with that of the whole layer bit for bit.
    """
    tokens, _ = layer._operate_on_continuous_inputs(hidden)
    *blocks, last = layer.transformer_blocks
    for block in blocks:
        inputs = (tokens, None, encoder_hidden_states, encoder_attention_mask, None, cross_attention_kwargs)
        is_checkpointed = torch.is_grad_enabled() and layer.gradient_checkpointing
        tokens = checkpoint(block, *inputs, use_reentrant=False) if is_checkpointed else block(*inputs)
    text = encoder_hidden_states if last.only_cross_attention else None
    tokens = last.attn1(last.norm1(tokens), encoder_hidden_states=text, **cross_attention_kwargs) + tokens
    record, recorder = last.attn2.processor.record, cross_attention_kwargs["recorder"]
    record(last.attn2, last.norm2(tokens), encoder_hidden_states, encoder_attention_mask, recorder)


def after_recording(layer: Any) -> list[nn.Module]:
    """The parts of a `Transformer2DModel` that `record_only` does not run."""
    last = layer.transformer_blocks[-1]
    return [last.attn2.to_v, last.attn2.to_out, last.norm3, last.ff, layer.proj_out]


def wants_blocks(hidden: Tensor, *, tokens: int) -> bool:
    """Whether `blockwise_attention` is faster: bfloat16 on a CPU, many tokens, no gradient, not being compiled."""
    return (
        not torch.compiler.is_compiling()  # first, so that code is not compiled for a number of tokens
        and hidden.device.type == "cpu"
        and hidden.dtype == torch.bfloat16
        and tokens >= BLOCK
        and not torch.is_grad_enabled()
    )


def blockwise_attention(
    query: Float[Tensor, "b n h d"], key: Float[Tensor, "b m h d"], value: Float[Tensor, "b m h d"]
) -> Float[Tensor, "b n h d"]:
    """Compute attention, softmax(QKᵀ/√d)V, head by head and in blocks of rows, with two matrix products per block.

    With many tokens, this is faster than PyTorch's fused CPU kernel, because both products run entirely in bfloat16.
    """
    out = torch.empty_like(query)
    scale = query.shape[-1] ** -0.5
    for row, head in itertools.product(range(query.shape[0]), range(query.shape[2])):
        queries, keys, values = (tensor[row, :, head].contiguous() for tensor in (query, key, value))
        for start in range(0, len(queries), BLOCK):
            rows = queries[start : start + BLOCK]
            scores = torch.addmm(rows.new_empty(()), rows, keys.t(), beta=0, alpha=scale)
            out[row, start : start + BLOCK, head] = scores.softmax(dim=-1) @ values
    return out


def _self_attention(attn: Attention, hidden: Tensor) -> Tensor:
    layers: Any = (attn.to_q, attn.to_k, attn.to_v)
    query, key, value = (rearrange(layer(hidden), "b n (h d) -> b n h d", h=attn.heads) for layer in layers)
    to_out: Any = attn.to_out
    return to_out[0](rearrange(blockwise_attention(query, key, value), "b n h d -> b n (h d)"))


def head_averaged_probabilities(
    attn: "Attention | ProjectedLayer",
    hidden_states: Float[Tensor, "b n c"],
    encoder_hidden_states: Float[Tensor, "b l d"],
    attention_mask: Float[Tensor, "b 1 l"] | None = None,
    *,
    keep_heads: bool = False,
) -> HeadMaps:
    """softmax(QKᵀ/√d) of a cross-attention layer, averaged over its heads; each row sums to one.

    The softmax is computed in float32 or higher precision, and so is everything before it in a model that computes in
    float16. The result has the layer's dtype. With `keep_heads`, the
    attention of each head follows the mean.
    """
    to_k: Any = attn.to_k  # diffusers types it as optional
    query = rearrange(project(attn.to_q, hidden_states), "b n (h d) -> b n h d", h=attn.heads)
    key = rearrange(project(to_k, encoder_hidden_states), "b l (h d) -> b l h d", h=attn.heads)
    with logits_in_float32(query):
        scores = torch.einsum("bnhd,blhd->bhnl", query * query.shape[-1] ** -0.5, key)
    if attention_mask is not None:
        scores = scores + attention_mask.unsqueeze(1)
    precision = torch.promote_types(scores.dtype, torch.float32)
    return over_heads(scores.softmax(dim=-1, dtype=precision), keep_heads=keep_heads).to(hidden_states.dtype)


def over_heads(probabilities: Float[Tensor, "b k n l"], *, keep_heads: bool) -> HeadMaps:
    """The mean over heads, (B, N, L); with `keep_heads` followed by the heads themselves, (B, 1 + heads, N, L)."""
    mean = probabilities.mean(dim=1)
    return torch.cat([mean.unsqueeze(1), probabilities], dim=1) if keep_heads else mean


def project(layer: Any, tokens: Tensor) -> Tensor:
    """The queries or keys of an attention layer, in float32 if the model computes in float16.

    The largest number of float16 is 65,504, which logits exceed. At such logits, rounding queries and keys to float16
    already changes the softmax. bfloat16 does not overflow, so it is kept.
    """
    return in_float32(layer, tokens) if is_float16(tokens) else layer(tokens)


def in_float32(module: Any, values: Tensor) -> Tensor:
    """The output of a module that computes in float32, even if its weights are float16. The module does not change."""
    values = values.float()
    with without_autocast(values.device):
        if type(module) is nn.Linear and "forward" not in module.__dict__:
            return F.linear(values, module.weight.float(), None if module.bias is None else module.bias.float())
        parts = list(module.modules())
        if torch.compiler.is_compiling() or any("forward" in part.__dict__ for part in parts):  # hooks of others
            return module(values.to(compute_dtype(module))).float()
        twin = shallow_copy(module)  # of a LoRA's layer, or of a norm
        for part, copied in zip(parts, twin.modules(), strict=True):
            weights = {name: None if weight is None else weight.float() for name, weight in part._parameters.items()}
            copied.__dict__.update(_parameters=weights, training=part.training)
        return twin(values)


def logits_in_float32(query: Tensor) -> AbstractContextManager[Any]:
    """A block in which products of float32 queries and keys stay in float32, also under autocast to float16."""
    return without_autocast(query.device) if is_float16(query) else nullcontext()


def is_float16(tokens: Tensor) -> bool:
    """Whether a layer computes in float16 on these tokens."""
    if autocasts(tokens.device):
        return torch.get_autocast_dtype(tokens.device.type) == torch.float16
    return tokens.dtype == torch.float16


def install_recording(unet: UNet2DConditionModel, attention_layers: Mapping[str, int]) -> None:
    """Set a processor that can record attention in every attention layer of a U-Net.

    Args:
        unet: The U-Net to change. Its weights do not change.
        attention_layers: The level of each cross-attention layer that can be recorded, by layer name.
    """
    layers = {name: name.removesuffix(".processor") for name in unet.attn_processors}
    self_levels = {layer.removesuffix("attn2") + "attn1": level for layer, level in attention_layers.items()}
    unet.set_attn_processor(
        {
            name: RecordingAttnProcessor(layer, attention_layers.get(layer), self_levels.get(layer))
            for name, layer in layers.items()
        }
    )


def attach_attention(
    feature: Float[Tensor, "b c h w"], attention: Float[Tensor, "b l h w"], *, detach: bool = False
) -> Float[Tensor, "b cl h w"]:
    """Concatenate token attention onto a feature map.

    Args:
        feature: Feature map of the U-Net, (B, C, H, W).
        attention: Attention averaged over heads, with one channel per token, (B, L, H, W), in [0, 1].
        detach: Whether to stop the gradient at the attention. The gradient checkpointing of the paper's released code
            has this effect.

    Returns:
        The feature map followed by the attention, (B, C + L, H, W).

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
    # Under autocast the attention is float32 and the features are not.
    attention = attention.to(feature.dtype)
    return torch.cat([feature, attention.detach() if detach else attention], dim=1)
