"""Sizes of maps: the part that belongs to the image, maps at another size, and checks of sizes."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def cells_of(image_size: tuple[int, int], strides: Sequence[int]) -> dict[int, tuple[float, float]]:
    """How many rows and columns of cells an image covers at each level."""
    return {level: (image_size[0] / stride, image_size[1] / stride) for level, stride in enumerate(strides)}


def resized(
    maps: Float[Tensor, "b c _h _w"], size: tuple[int, int], *, cells: tuple[float, float] | None = None
) -> Float[Tensor, "b c _p _q"]:
    """Resize maps (B, C, h, w) bilinearly to (height, width), in float32 or higher precision.

    The result covers the first `cells` rows and columns, which need not be whole numbers; None is all of them.
    """
    if min(size) < 1:
        raise ValueError(f"size must be (height, width) in cells, each 1 or more; got {size}.")
    rows, columns = cells or maps.shape[2:]
    precise = maps.to(torch.promote_types(maps.dtype, torch.float32))
    options = {"mode": "bilinear", "antialias": size[0] < rows or size[1] < columns}
    if (rows, columns) == tuple(maps.shape[2:]):
        return F.interpolate(precise, size=size, **options).to(maps.dtype)
    # One more cell, so that rounding never makes the result too small; it is cut off again.
    scales = size[0] / rows, size[1] / columns
    fine = F.interpolate(F.pad(precise, (0, 1, 0, 1), mode="replicate"), scale_factor=scales, **options)
    return fine[..., : size[0], : size[1]].to(maps.dtype)


def check_positive(name: str, numbers: Any, rule: str) -> None:
    """Refuse anything but a list of whole numbers of 1 or more. In an exported graph, a number may be symbolic."""
    if not isinstance(numbers, Sequence) or isinstance(numbers, str):
        raise TypeError(f"{name} must be {rule}, in order; got a {type(numbers).__name__}. Pass a tuple.")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (Integral, torch.SymInt)):
            raise TypeError(f"{name} must be {rule}; got {number!r} ({type(number).__name__}).")
        if number < 1:
            raise ValueError(f"{name} must be {rule}, each 1 or more; got {name} {tuple(numbers)}.")
