"""The U-Net of Stable Diffusion 1.x, 2.x and XL: where its levels are, and a pass that returns them.

The pass calls the U-Net's own blocks in the same order as `UNet2DConditionModel.forward` and keeps each level's map on
the way. It uses no hooks, so it works with threads, gradient checkpointing and `torch.compile`. A test checks that its
result equals that of `forward` bit for bit.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tadp.diffusion.attention import AttentionRecorder, after_recording, record_only
from tadp.diffusion.unet_names import attention_names, tapped_layer


def unet_taps(unet: UNet2DConditionModel) -> tuple[str, ...]:
    """Return the names of the layers whose outputs are the maps, finest level first.

    Each up block of the U-Net is a level. Its map is the output of the block's second-to-last layer or, at the finest
    level, of its last layer. Both come before the upsampler.

    Source:
        VPD's output blocks 1, 4, 7 and 11 (in LDM's numbering), which TADP also uses. U-Nets whose `layers_per_block`
        is 2 have these.
    """
    blocks: Any = unet.up_blocks
    return tuple(
        _layer_name(len(blocks) - 1 - level, block, tapped_layer(len(block.resnets), level))
        for level, block in enumerate(reversed(blocks))
    )


def unet_attention_layers(unet: UNet2DConditionModel) -> dict[str, int]:
    """The level of each cross-attention layer by name, without the middle block, which has no level."""
    layers = [name.removesuffix(".processor") for name in unet.attn_processors]
    return attention_names(layers, depth=len(unet.config["up_block_types"]))


def unet_pass(
    unet: UNet2DConditionModel,
    latents: Float[Tensor, "b c h w"],
    *,
    taps: Sequence[str],
    levels: Sequence[int] | None = None,
    timestep: int | Tensor,
    embeddings: Float[Tensor, "b l d"],
    mask: Bool[Tensor, "b l"] | None = None,
    added: dict[str, Tensor] | None = None,
    record_levels: Collection[int] = (),
    record_heads: bool = False,
    record_queries: bool = False,
) -> tuple[tuple[Float[Tensor, "_b _c _h _w"], ...], dict[int, Float[Tensor, "_b _l _h _w"]]]:
    """Run a U-Net up to the last layer that is needed, and return the maps of its levels.

    Args:
        unet: The U-Net. To record attention, it needs the processors that `install_recording` sets.
        latents: Latents with their noise, (B, C, H, W). Height and width are multiples of the coarsest level's
            reduction.
        taps: Names of the layers whose outputs are the maps, finest level first, as `unet_taps` returns them.
        levels: Levels whose maps are returned, finest first; None is all of them.
        timestep: Diffusion timestep, 0 to 999, or one per row, (B,).
        embeddings: Embeddings of the text, (B, L, D).
        mask: Whether each token can be attended to, (B, L), bool; None for all tokens.
        added: Inputs that Stable Diffusion XL embeds in addition to the timestep, under diffusers' names; None for
            other models.
        record_levels: Levels at which cross-attention is recorded, among `levels`.
        record_heads: Whether to also record every head of every layer.
        record_queries: Whether to also record queries and keys; see `AttentionRecorder.close`.

    Returns:
        The maps, finest first; and for each recorded level its attention, averaged over heads and layers, (B, L, h, w).
        If `record_heads` is set, the channels of each head follow in the same tensor, (B, (1 + heads) L, h, w); see
        `AttentionRecorder.close`.
    """
    recorder = AttentionRecorder(record_levels, keep_heads=record_heads, keep_queries=record_queries)
    text: dict[str, Any] = {
        "encoder_hidden_states": embeddings,
        "cross_attention_kwargs": {"recorder": recorder} if record_levels else None,
        # the bias that diffusers adds for masked tokens
        "encoder_attention_mask": None if mask is None else ((1 - mask.to(latents.dtype)) * -10000.0).unsqueeze(1),
    }
    if unet.config["center_input_sample"]:
        latents = 2 * latents - 1
    time = unet.time_embedding(unet.get_time_embed(latents, timestep))
    if added is not None:
        time = time + unet.get_aug_embed(time, embeddings, added)
    if unet.time_embed_act is not None:
        time = unet.time_embed_act(time)

    hidden = unet.conv_in(latents)
    skips = [hidden]
    for block in unet.down_blocks:
        hidden, outputs = block(hidden_states=hidden, temb=time, **(text if _has_text(block) else {}))
        skips.extend(outputs)
    if unet.mid_block is not None:
        hidden = unet.mid_block(hidden, time, **(text if _has_text(unet.mid_block) else {}))
    levels = range(len(taps)) if levels is None else levels
    wanted = [taps[level] for level in levels]
    end = _end(unet, min(levels), is_recorded=min(levels) in record_levels)
    outputs: dict[str, Tensor] = {}
    up_blocks: Any = unet.up_blocks
    for number, block in enumerate(up_blocks):
        if number > end.block:
            break
        block_skips = [skips.pop() for _ in block.resnets]
        tapped = [layer for layer in range(len(block_skips)) if _layer_name(number, block, layer) in wanted]
        hidden, kept = _up_block(block, hidden, block_skips, time, text, tapped, end if number == end.block else None)
        outputs |= {_layer_name(number, block, layer): output for layer, output in kept.items()}
    maps = tuple(outputs[tap] for tap in wanted)
    sizes = {level: (feature.shape[2], feature.shape[3]) for level, feature in zip(levels, maps, strict=True)}
    return maps, recorder.close(sizes)


def _up_block(
    block: Any,
    hidden: Tensor,
    skips: list[Tensor],
    time: Tensor,
    text: dict[str, Any],
    tapped: Collection[int],
    end: "_End | None",
) -> tuple[Tensor, dict[int, Tensor]]:
    """Run one up block, up to `end` if the pass ends in it.

    Returns:
        The block's output, which is not needed if the pass ends in the block, and the outputs of the tapped layers by
        number.
    """
    kept, layers = {}, len(skips) if end is None else end.layers
    for number, skip in enumerate(skips[:layers]):
        hidden = _resnet(block, number, hidden, skip, time)
        if _has_text(block):
            hidden = block.attentions[number](hidden, **text, return_dict=False)[0]
        if number in tapped:
            kept[number] = hidden
    if end is None:
        for upsampler in block.upsamplers or ():
            hidden = upsampler(hidden)
    elif end.records:
        hidden = _resnet(block, end.layers, hidden, skips[end.layers], time)
        record_only(block.attentions[end.layers], hidden, **text)
    return hidden, kept


def _resnet(block: Any, number: int, hidden: Tensor, skip: Tensor, time: Tensor) -> Tensor:
    """Run one resnet of an up block."""
    hidden = torch.cat([hidden, skip], dim=1)
    if torch.is_grad_enabled() and block.gradient_checkpointing:
        return checkpoint(block.resnets[number], hidden, time, use_reentrant=False)
    return block.resnets[number](hidden, time)


@dataclass(frozen=True)
class _End:
    """Where a pass ends.

    Attributes:
        block: Number of the last up block that runs.
        layers: Number of its layers that run completely.
        records: Whether the next layer, which is the block's last, runs up to its last cross-attention, whose map is
            recorded.
    """

    block: int
    layers: int
    records: bool


def _end(unet: UNet2DConditionModel, finest: int, *, is_recorded: bool) -> _End:
    """Where a pass ends that returns the map of the level `finest`, perhaps with its attention, and coarser levels."""
    number = len(unet.up_blocks) - 1 - finest
    block: Any = unet.up_blocks[number]
    last, tapped = len(block.resnets) - 1, tapped_layer(len(block.resnets), finest)
    if is_recorded and _has_text(block) and tapped < last:
        return _End(number, last, records=True)
    return _End(number, tapped + 1, records=False)


def layers_after(unet: UNet2DConditionModel, finest: int, *, is_recorded: bool) -> list[nn.Module]:
    """The layers of the up blocks that do not run if no finer level is needed.

    Args:
        unet: The U-Net.
        finest: The finest level that is needed.
        is_recorded: Whether the attention of this level is needed, too.
    """
    end = _end(unet, finest, is_recorded=is_recorded)
    blocks: Any = unet.up_blocks
    block, begun = blocks[end.block], end.layers + end.records
    rest = [*blocks[end.block + 1 :], *block.resnets[begun:], *(block.upsamplers or ())]
    if _has_text(block):
        rest += block.attentions[begun:]
    return rest + (after_recording(block.attentions[end.layers]) if end.records else [])


def partly_run_layers(unet: UNet2DConditionModel) -> list[nn.Module]:
    """The layers of which `record_only` runs only a part: the last attention of each up block, and its last block."""
    blocks: Any = unet.up_blocks
    layers = [block.attentions[-1] for block in blocks if _has_text(block)]
    return layers + [layer.transformer_blocks[-1] for layer in layers]


def _layer_name(number: int, block: nn.Module, layer: int) -> str:
    """The name of a layer in an up block: its attention, or its resnet if the block has no attention."""
    return f"up_blocks.{number}.{'attentions' if _has_text(block) else 'resnets'}.{layer}"


def _has_text(block: nn.Module) -> bool:
    # UpBlock2D, DownBlock2D and UNetMidBlock2D lack the attribute that the others set to True.
    return getattr(block, "has_cross_attention", False)
