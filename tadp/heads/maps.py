"""What all heads do with maps: compare them with what the head was built for, normalise them, bring them to a size."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tadp.features import FeatureInfo, Features
from tadp.files.checks import check_choice

Norm: TypeAlias = Literal["batch", "group"]


def check_info(info: FeatureInfo) -> None:
    """Refuse what no head can be built for.

    Raises:
        TypeError: If `info` is no `FeatureInfo`.
        ValueError: If there are no levels, a level has no channels, or strides do not double.
    """
    if not isinstance(info, FeatureInfo):
        raise TypeError(f"a head is built from a FeatureInfo; got {type(info).__name__}. Pass backbone.feature_info.")
    if not info.channels or min(info.channels) < 1:
        raise ValueError(f"a head needs one level or more, each with channels; got channels {info.channels}.")
    strides = info.reduction
    powers = {strides[0] << exponent for exponent in range(32)}
    if strides[0] < 1 or list(strides) != sorted(set(strides)) or not set(strides) <= powers:
        raise ValueError(
            "levels are finest first, each stride the one before times 2, 4, 8 or a higher power; got strides "
            f"{strides}."
        )


def read_maps(
    features: Features | Sequence[Tensor], info: FeatureInfo, *, image_size: tuple[int, int] | None, head: nn.Module
) -> tuple[list[Tensor], tuple[int, int]]:
    """The maps, and the size of the images they are of.

    Args:
        features: What a backbone returned, or its maps, finest first.
        info: What the head was built for.
        image_size: (height, width) to come out with; None is that of the features, and for a list of maps what the
            finest one covers.
        head: The head; maps are brought to its dtype, unless autocast looks after that.

    Raises:
        TypeError: If `features` are neither.
        ValueError: If they are not the maps the head was built for.
    """
    maps = list(features.maps) if isinstance(features, Features) else features
    if isinstance(maps, Tensor) or not isinstance(maps, Sequence) or not all(isinstance(one, Tensor) for one in maps):
        raise TypeError(
            f"a head takes Features, or a list of maps (B, C, h, w), finest first; got {type(features).__name__}."
        )
    _check_maps(maps, info)
    if image_size is None and isinstance(features, Features):
        image_size = features.image_size
    if image_size is None:
        height, width = maps[0].shape[-2:]
        image_size = height * info.reduction[0], width * info.reduction[0]
    if len(image_size) != 2 or min(image_size) < 1:
        raise ValueError(f"image_size is (height, width) in pixels; got {tuple(image_size)}.")
    if not autocasts(maps[0].device):
        dtype = next(head.parameters()).dtype
        maps = [one.to(dtype) for one in maps]
    return list(maps), (image_size[0], image_size[1])


def autocasts(device: torch.device) -> bool:
    """Whether autocast chooses dtypes there; a device that has none, such as "meta", does not."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Batch normalisation, or group normalisation in up to 32 groups.

    Raises:
        ValueError: If `norm` is neither.
    """
    check_choice(norm, get_args(Norm), name="norm")
    return nn.BatchNorm2d(channels) if norm == "batch" else group_norm(channels, most_groups=32)


def group_norm(channels: int, *, most_groups: int) -> nn.GroupNorm:
    """Group normalisation in as many groups of two channels or more as divide the channels."""
    fitting = [groups for groups in range(1, most_groups + 1) if channels % groups == 0 and channels // groups >= 2]
    return nn.GroupNorm(max(fitting, default=1), channels)


def check_batch(module: nn.Module, maps: Tensor, *, level: int, instead: str = "norm='group'") -> None:
    """Refuse to take batch statistics of a single value a channel.

    Raises:
        ValueError: If the maps have one cell in all.
    """
    trains = any(isinstance(one, nn.BatchNorm2d) and one.training for one in module.modules())
    if not trains or maps[:, 0].numel() > 1:
        return
    raise ValueError(
        f"batch statistics take more than one value a channel; level {level} has one image of one cell. Train with "
        f"larger images or larger batches, build the head with {instead}, or call head.eval()."
    )


def enlarge(
    maps: Tensor, factor: int, *, size: tuple[int, int], mode: Literal["nearest", "bilinear"] = "bilinear"
) -> Tensor:
    """Make each cell `factor` cells of a map of `size`.

    A map has ceil(size / stride) cells, so the last may reach over the edge: the maps grow by the whole factor and are
    cut, so that cells keep their place. Where `size` is none that `factor` leads to, they are stretched.
    """
    if not _within_last_cell(maps, factor, size):
        return _stretch(maps, size, mode)
    if factor > 1:
        maps = F.interpolate(
            maps, scale_factor=float(factor), mode=mode, align_corners=False if mode == "bilinear" else None
        )
    return maps[:, :, : size[0], : size[1]]


def cut(maps: Tensor, cell: int, *, size: tuple[int, int]) -> Tensor:
    """Cut maps in pixels, made of whole cells, to a `size` that ends in the last cell; stretch to any other."""
    if all(0 <= have - want < cell for have, want in zip(maps.shape[2:], size, strict=True)):
        return maps[:, :, : size[0], : size[1]]
    return _stretch(maps, size, "bilinear")


def _check_maps(maps: Sequence[Tensor], info: FeatureInfo) -> None:
    cure = "Build the head from the feature_info of the backbone whose features it gets."
    if len(maps) != len(info):
        raise ValueError(
            f"this head was built for {len(info)} levels (strides {', '.join(map(str, info.reduction))}); got "
            f"{len(maps)} maps. {cure}"
        )
    for level, (one, channels) in enumerate(zip(maps, info.channels, strict=True)):
        if one.ndim != 4 or one.shape[1] != channels:
            raise ValueError(
                f"at level {level} (stride {info.reduction[level]}) this head was built for maps (B, {channels}, h, "
                f"w); got {tuple(one.shape)}. {cure}"
            )
        if not one.is_floating_point():
            raise TypeError(f"maps are float tensors; got {one.dtype} at level {level}.")
        if one.shape[0] != maps[0].shape[0]:
            raise ValueError(
                f"all levels have one map an image; got {maps[0].shape[0]} at level 0 and {one.shape[0]} at {level}."
            )
        before = maps[max(level - 1, 0)]
        if one.shape[2] > before.shape[2] or one.shape[3] > before.shape[3] or 0 in one.shape[2:]:
            sizes = ", ".join(f"{other.shape[2]}x{other.shape[3]}" for other in maps)
            raise ValueError(f"maps come finest first, none is empty or larger than the one before; got {sizes}.")


def _within_last_cell(maps: Tensor, factor: int, size: tuple[int, int]) -> bool:
    return all(0 <= cells * factor - want < factor for cells, want in zip(maps.shape[2:], size, strict=True))


def _stretch(maps: Tensor, size: tuple[int, int], mode: Literal["nearest", "bilinear"]) -> Tensor:
    return F.interpolate(maps, size=size, mode=mode, align_corners=False if mode == "bilinear" else None)
