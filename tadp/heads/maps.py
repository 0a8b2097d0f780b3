"""Functions that all heads share: check that maps fit the head, normalise them, and resize them."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from tadp.features import FeatureInfo, Features
from tadp.files.checks import check_choice, check_ordered
from tadp.files.inference import autocasts, check_process

Norm: TypeAlias = Literal["batch", "group"]


def check_info(info: FeatureInfo) -> None:
    """Check that a head can be built for a `FeatureInfo`.

    Raises:
        TypeError: If `info` is not a `FeatureInfo`.
        ValueError: If `info` has no levels, or the strides do not double from level to level.
    """
    if not isinstance(info, FeatureInfo):
        raise TypeError(f"a head needs a FeatureInfo; got {type(info).__name__}. Pass backbone.feature_info.")
    if not info.channels:
        raise ValueError(f"a head needs at least one level, each with channels; got channels {info.channels}.")
    strides = info.reduction
    powers = {strides[0] << exponent for exponent in range(32)}
    if list(strides) != sorted(set(strides)) or not set(strides) <= powers:
        raise ValueError(
            "levels must be finest first, and each stride must be the previous stride times a power of two; got "
            f"strides {strides}."
        )


def read_maps(
    features: Features | Sequence[Tensor], info: FeatureInfo, *, image_size: tuple[int, int] | None, head: nn.Module
) -> tuple[list[Tensor], tuple[int, int]]:
    """Check the input of a head, and convert it to the head's dtype.

    Args:
        features: The output of a backbone, or a list of its maps, finest first.
        info: The `FeatureInfo` for which the head was built.
        image_size: (height, width) of the output in pixels. None is the size of the images; for a list of maps, the
            size of the finest map times its stride.
        head: The head that reads the maps. They are converted to its dtype, unless autocast does that.

    Returns:
        The maps, finest first, and the (height, width) of the head's output in pixels.

    Raises:
        TypeError: If `features` is neither `Features` nor a list of maps.
        ValueError: If the maps do not fit `info`.
    """
    check_process()
    maps = list(features.maps) if isinstance(features, Features) else features
    is_list = isinstance(maps, Sequence) and not isinstance(maps, Tensor)
    if not is_list or not all(isinstance(level_map, Tensor) for level_map in maps):
        raise TypeError(
            f"a head needs Features, or a list of maps (B, C, h, w), finest first; got {type(features).__name__}."
        )
    _check_maps(maps, info)
    if image_size is None and isinstance(features, Features):
        image_size = features.image_size
    if image_size is None:
        height, width = maps[0].shape[-2:]
        image_size = height * info.reduction[0], width * info.reduction[0]
    check_ordered(image_size=image_size)
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size must be (height, width) in pixels; got {tuple(image_size)}.")
    if not autocasts(maps[0].device):
        dtype = next(head.parameters()).dtype
        maps = [level_map.to(dtype) for level_map in maps]
    return list(maps), (image_size[0], image_size[1])


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Build batch normalisation, or group normalisation in up to 32 groups.

    Raises:
        ValueError: If `norm` is neither "batch" nor "group".
    """
    check_choice(norm, get_args(Norm), name="norm")
    return nn.BatchNorm2d(channels) if norm == "batch" else group_norm(channels, most_groups=32)


def group_norm(channels: int, *, most_groups: int) -> nn.GroupNorm:
    """Build group normalisation with the largest number of equal groups of at least two channels."""
    fitting = [groups for groups in range(1, most_groups + 1) if channels % groups == 0 and channels // groups >= 2]
    return nn.GroupNorm(max(fitting, default=1), channels)


def check_batch(module: nn.Module, maps: Tensor, *, level: int, instead: str = "norm='group'") -> None:
    """Check that batch normalisation has more than one value per channel to compute its statistics from.

    Args:
        module: The module that may contain batch normalisation.
        maps: The maps of one level, (B, C, h, w).
        level: The number of the level, for the message.
        instead: The option that avoids batch normalisation, for the message.

    Raises:
        ValueError: If batch normalisation is in training mode, and the batch is one image with a map of one cell.
    """
    trains = any(isinstance(layer, nn.BatchNorm2d) and layer.training for layer in module.modules())
    if not trains or maps[:, 0].numel() > 1:
        return
    raise ValueError(
        f"batch statistics need more than one value per channel; level {level} has one image of one cell. Train with "
        f"larger images or larger batches, build the head with {instead}, or call head.eval()."
    )


def enlarge(
    maps: Tensor,
    factor: int,
    *,
    size: tuple[int, int],
    mode: Literal["nearest", "bilinear"] = "bilinear",
    align_corners: bool = False,
) -> Tensor:
    """Enlarge maps by a whole factor, so that each cell becomes `factor` x `factor` cells, and crop them to a size.

    A map has ceil(size / stride) cells, so its last cell may extend beyond the image's edge. The maps are enlarged by
    the whole factor and then cropped, so that every cell keeps its place. If they would be smaller than `size`, or
    larger by `factor` or more, which is one cell of the given maps, they are stretched to `size` instead. With
    `align_corners`, bilinear enlarging keeps the centres of the corner cells in the corners, as PyTorch's option of
    this name does.
    """
    if not _within_last_cell(maps, factor, size):
        return _stretch(maps, size, mode, align_corners=align_corners)
    if factor > 1:
        corners = align_corners if mode == "bilinear" else None
        maps = F.interpolate(maps, scale_factor=float(factor), mode=mode, align_corners=corners)
    return maps[:, :, : size[0], : size[1]]


def cut(maps: Tensor, cell: int, *, size: tuple[int, int]) -> Tensor:
    """Cut maps in pixels, which cover whole cells, to a `size` that ends in the last cell; stretch to other sizes."""
    if all(0 <= pixels - side < cell for pixels, side in zip(maps.shape[2:], size, strict=True)):
        return maps[:, :, : size[0], : size[1]]
    return _stretch(maps, size, "bilinear")


def _check_maps(maps: Sequence[Tensor], info: FeatureInfo) -> None:
    hint = "Build the head from the feature_info of the backbone whose features it receives."
    if len(maps) != len(info):
        raise ValueError(
            f"this head was built for {len(info)} levels (strides {', '.join(map(str, info.reduction))}); got "
            f"{len(maps)} maps. {hint}"
        )
    for level, (level_map, channels) in enumerate(zip(maps, info.channels, strict=True)):
        if level_map.ndim != 4 or level_map.shape[1] != channels:
            raise ValueError(
                f"at level {level} (stride {info.reduction[level]}) this head was built for maps (B, {channels}, h, "
                f"w); got {tuple(level_map.shape)}. {hint}"
            )
        if not level_map.is_floating_point():
            raise TypeError(f"maps must be float tensors; got {level_map.dtype} at level {level}.")
        if level_map.shape[0] != maps[0].shape[0]:
            raise ValueError(
                f"all levels must have one map per image; got {maps[0].shape[0]} at level 0 and "
                f"{level_map.shape[0]} at level {level}."
            )
        finer = maps[max(level - 1, 0)]
        if level_map.shape[2] > finer.shape[2] or level_map.shape[3] > finer.shape[3] or 0 in level_map.shape[2:]:
            sizes = ", ".join("x".join(map(str, level_map.shape[2:])) for level_map in maps)
            raise ValueError(f"maps must come finest first, and must not be empty; got {sizes}.")


def _within_last_cell(maps: Tensor, factor: int, size: tuple[int, int]) -> bool:
    return all(0 <= cells * factor - side < factor for cells, side in zip(maps.shape[2:], size, strict=True))


def _stretch(
    maps: Tensor, size: tuple[int, int], mode: Literal["nearest", "bilinear"], *, align_corners: bool = False
) -> Tensor:
    return F.interpolate(maps, size=size, mode=mode, align_corners=align_corners if mode == "bilinear" else None)
