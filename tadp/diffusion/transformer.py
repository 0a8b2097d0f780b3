"""Transformers with joint attention (Stable Diffusion 3, FLUX): where their levels are, and a pass that returns them.

All blocks of such a transformer work at one stride, 16 pixels. The map of a level is the output of one block, resampled
to the level's stride without parameters. The pass calls the model's own blocks, and a test compares it with the model's
`forward`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tadp.diffusion.attention import AttentionRecorder
from tadp.errors import ModelError

PATCH = 2  # latent cells per token, in each direction
REDUCTION = (PATCH // 2, PATCH, PATCH * 2)
# Depth of each level's block as a fraction of all blocks, finest level first. Seg4Diff (arXiv:2509.18096, Fig. 8) finds
# that image-to-text attention segments best in the middle blocks, best of all in the 9th of Stable Diffusion 3's 24. As
# in a U-Net's decoder, the coarsest level comes from the earliest block.
DEPTHS = (2 / 3, 1 / 2, 3 / 8)


def joint_taps(names: Sequence[str]) -> tuple[str, ...]:
    """Choose the blocks that become the levels with strides 8, 16 and 32, by their depth in the transformer (`DEPTHS`).

    Args:
        names: Names of the transformer's blocks, in the order in which they run.

    Returns:
        The names of the three blocks, finest level first.

    Raises:
        ModelError: If the transformer has too few blocks.
    """
    count = len(names)
    numbers = [round(depth * count) - 1 for depth in DEPTHS]
    if len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise ModelError(
            f"the transformer has {count} blocks; it needs 6 or more, because tadp takes its levels from three."
        )
    return tuple(names[number] for number in numbers)


def chosen_taps(names: Sequence[str], blocks: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the blocks that the user chose by number.

    Args:
        names: Names of the transformer's blocks, in the order in which they run.
        blocks: Numbers of the three chosen blocks, counted from 0, finest level first.

    Raises:
        ValueError: If a block does not exist, or `blocks` are not three different numbers.
    """
    for number in blocks:
        if number not in range(len(names)):
            kinds = [name.partition(".")[0] for name in names]
            parts = "" if kinds[-1] == kinds[0] else f"; those from {kinds.index(kinds[-1])} on are {kinds[-1]}"
            raise ValueError(f"no block {number!r}; this transformer has blocks 0 to {len(names) - 1}{parts}.")
    if len(blocks) != len(DEPTHS) or len(set(blocks)) != len(DEPTHS):
        raise ValueError(
            f"blocks must be {len(DEPTHS)} different numbers, for strides 8, 16 and 32; got {tuple(blocks)}."
        )
    return tuple(names[number] for number in blocks)


def joint_pass(
    blocks: Mapping[str, nn.Module],
    image: Float[Tensor, "b n c"],
    context: Float[Tensor, "b l c"],
    arguments: tuple[Any, ...],
    *,
    taps: Sequence[str],
    levels: Sequence[int],
    size: tuple[int, int],
    options: dict[str, Any],
    record_levels: Collection[int],
    record_heads: bool = False,
    is_checkpointed: bool,
) -> tuple[tuple[Float[Tensor, "_b _c _h _w"], ...], dict[int, Float[Tensor, "_b _l _h _w"]]]:
    """Run a transformer's blocks up to the last one that is needed, and return the maps of the levels.

    Args:
        blocks: The transformer's blocks by name, in the order in which they run. If any level is recorded, their
            attention processors must be able to record.
        image: Tokens of the image, (B, N, C).
        context: Tokens of the text, (B, L, C).
        arguments: Further positional arguments of each block.
        taps: Names of the blocks that become levels, finest level first.
        levels: Levels whose maps are returned, finest first.
        size: (height, width) of the image in tokens, so that N = height · width.
        options: Further arguments of the attention processors. They are only passed if a level is recorded,
            together with the recorder.
        record_levels: Levels at which attention is recorded.
        record_heads: Whether to also record every head.
        is_checkpointed: Whether to use gradient checkpointing, which runs each block again in the backward pass.

    Returns:
        The maps, finest first, which are outputs of blocks, enlarged bilinearly for stride 8 and averaged for stride
        32. The second value has, for each recorded level, the attention of its block from image to text, averaged over
        heads, (B, L, h, w), resampled in the same way. If `record_heads` is set, the channels of each head follow in
        the same tensor, (B, (1 + heads) L, h, w). The values of a cell sum to the share of attention that it gives to
        the text, at most 1.
    """
    recorder = AttentionRecorder(record_levels, keep_heads=record_heads)
    kwargs: dict[str, Any] = {"recorder": recorder} | options if record_levels else {}
    wanted = {level: taps[level] for level in levels}
    outputs: dict[str, Tensor] = {}
    for name, block in blocks.items():
        if len(outputs) == len(wanted):
            break
        inputs = (image, context, *arguments, kwargs)
        context, image = checkpoint(block, *inputs, use_reentrant=False) if is_checkpointed else block(*inputs)
        if name in set(wanted.values()):  # torch.compile of torch 2.8 cannot trace `in` on `values()`
            outputs[name] = image
    recorded = recorder.close(dict.fromkeys(record_levels, size))
    maps = tuple(
        _to_stride(rearrange(outputs[tap], "b (h w) c -> b c h w", h=size[0], w=size[1]), REDUCTION[level])
        for level, tap in wanted.items()
    )
    return maps, {level: _to_stride(attention, REDUCTION[level]) for level, attention in recorded.items()}


def _to_stride(feature: Float[Tensor, "b c h w"], cells: int) -> Float[Tensor, "b c _h _w"]:
    if cells < PATCH:
        return F.interpolate(feature, scale_factor=PATCH // cells, mode="bilinear")
    return F.avg_pool2d(feature, cells // PATCH) if cells > PATCH else feature
