"""Transformers with joint attention (Stable Diffusion 3, FLUX): where their levels are, and one pass that keeps them.

All blocks of such a transformer work at one stride, 16 pixels. A level is the output of one block, brought to its
stride without parameters. As for U-Nets, the pass calls the model's own blocks, and a test holds it to the model's
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

PATCH = 2  # latent cells a token, each way
REDUCTION = (PATCH // 2, PATCH, PATCH * 2)
# Depth of each level's block, as a share of all blocks, finest first. Seg4Diff (arXiv:2509.18096, Fig. 8) finds that
# image-to-text attention segments best in the middle blocks, most of all in the 9th of Stable Diffusion 3's 24. As in a
# U-Net's decoder, the coarse level comes first.
DEPTHS = (2 / 3, 1 / 2, 3 / 8)


def joint_taps(names: Sequence[str]) -> tuple[str, ...]:
    """The blocks that become levels of strides 8, 16 and 32, by `DEPTHS`.

    Args:
        names: Names of a transformer's blocks in their order.

    Raises:
        ModelError: If it has too few blocks.
    """
    count = len(names)
    numbers = [round(depth * count) - 1 for depth in DEPTHS]
    if len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise ModelError(
            f"the transformer has {count} blocks; tadp takes its levels from three, so it needs 5 or more."
        )
    return tuple(names[number] for number in numbers)


def chosen_taps(names: Sequence[str], blocks: Sequence[int]) -> tuple[str, ...]:
    """The blocks of the caller's choice, by name.

    Args:
        names: Names of a transformer's blocks in their order.
        blocks: Their numbers, finest level first.

    Raises:
        ValueError: If a block does not exist, or there are not three different ones.
    """
    for number in blocks:
        if number not in range(len(names)):
            kinds = [name.partition(".")[0] for name in names]
            parts = "" if kinds[-1] == kinds[0] else f"; those from {kinds.index(kinds[-1])} on are {kinds[-1]}"
            raise ValueError(f"no block {number!r}; this transformer has blocks 0 to {len(names) - 1}{parts}.")
    if len(blocks) != len(DEPTHS) or len(set(blocks)) != len(DEPTHS):
        raise ValueError(f"blocks are {len(DEPTHS)} different ones, for strides 8, 16 and 32; got {tuple(blocks)}.")
    return tuple(names[number] for number in blocks)


def joint_pass(
    blocks: Mapping[str, nn.Module],
    image: Float[Tensor, "b n c"],
    context: Float[Tensor, "b l c"],
    more: tuple[Any, ...],
    *,
    taps: Sequence[str],
    size: tuple[int, int],
    options: dict[str, Any],
    record_levels: Collection[int],
    is_checkpointed: bool,
) -> tuple[tuple[Float[Tensor, "_b _c _h _w"], ...], dict[int, Float[Tensor, "_b _l _h _w"]]]:
    """Run blocks up to the last level, and keep the levels.

    Args:
        blocks: A transformer's blocks in their order, by name. Their processors can record if any level is recorded.
        image: Tokens of the image.
        context: Tokens of the text.
        more: Further arguments of each block.
        taps: Names of the blocks that become levels, finest first.
        size: (height, width) of the image in tokens.
        options: What the processors receive besides the recorder where a level is recorded.
        record_levels: Levels whose attention is kept.
        is_checkpointed: Whether blocks run again in backward.

    Returns:
        The maps, finest first: block outputs, bilinearly enlarged for stride 8 and averaged for stride 32. For each
        recorded level, the head-averaged attention of its block from image to text, (B, L, h, w), resampled the same
        way; a cell's values sum to what it pays to the text, at most one.
    """
    recorder = AttentionRecorder(record_levels)
    kwargs: dict[str, Any] = {"recorder": recorder} | options if record_levels else {}
    outputs: dict[str, Tensor] = {}
    for name, block in blocks.items():
        if len(outputs) == len(taps):
            break
        arguments = (image, context, *more, kwargs)
        context, image = checkpoint(block, *arguments, use_reentrant=False) if is_checkpointed else block(*arguments)
        if name in taps:
            outputs[name] = image
    recorded = recorder.close(dict.fromkeys(record_levels, size))
    maps = tuple(
        _to_stride(rearrange(outputs[tap], "b (h w) c -> b c h w", h=size[0], w=size[1]), cells)
        for tap, cells in zip(taps, REDUCTION, strict=True)
    )
    return maps, {level: _to_stride(one, REDUCTION[level]) for level, one in recorded.items()}


def _to_stride(one: Float[Tensor, "b c h w"], cells: int) -> Float[Tensor, "b c _h _w"]:
    if cells < PATCH:
        return F.interpolate(one, scale_factor=PATCH // cells, mode="bilinear")
    return F.avg_pool2d(one, cells // PATCH) if cells > PATCH else one
