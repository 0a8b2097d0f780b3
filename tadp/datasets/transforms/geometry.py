"""Resize, crop, flip and pad a sample: its image, mask, depth and boxes together."""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tadp.datasets.sample import IGNORE_LABEL, Sample, nearest, sides
from tadp.images.boxes import Boxes

Fill = Literal["edge", "zero", "grey"]
GREY = 128  # the released code pads with 127.5, which is not an 8-bit level


def resize(sample: Sample, image_size: tuple[int, int]) -> Sample:
    """Resize to (height, width): the image bilinearly, antialiased where it shrinks, and mask and depth to the nearest
    pixel.
    """
    if image_size == sample.image_size:
        return sample
    height, width = image_size
    old_height, old_width = sample.image_size
    image = np.array(Image.fromarray(sample.image).resize((width, height), Image.Resampling.BILINEAR))
    rows, columns = nearest(old_height, height), nearest(old_width, width)
    boxes = sample.boxes
    if boxes is not None:
        scale = torch.tensor([width / old_width, height / old_height] * 2)
        boxes = replace(boxes, boxes=boxes.boxes * scale)
    return replace(
        sample,
        image=image,
        mask=None if sample.mask is None else sample.mask[np.ix_(rows, columns)],
        depth_m=None if sample.depth_m is None else sample.depth_m[np.ix_(rows, columns)],
        boxes=boxes,
    )


def crop(sample: Sample, corner: tuple[int, int], image_size: tuple[int, int], *, min_visible: float = 0.0) -> Sample:
    """Cut out a window of a sample, or the part of the window that lies in the image.

    Args:
        sample: The sample to crop.
        corner: (top, left) of the window in pixels of the image.
        image_size: (height, width) of the window in pixels.
        min_visible: Smallest share of a box's area that must lie in the window to keep the box, in [0, 1]. Boxes are
            clipped to the window. A box of which less than one pixel is left in either direction is dropped in any
            case.
    """
    top, left = corner
    height, width = (min(side, room) for side, room in zip(image_size, _rest(sample, corner), strict=True))
    window = slice(top, top + height), slice(left, left + width)
    return replace(
        sample,
        image=sample.image[window],
        mask=None if sample.mask is None else sample.mask[window],
        depth_m=None if sample.depth_m is None else sample.depth_m[window],
        boxes=None if sample.boxes is None else _clip(sample.boxes, corner, (height, width), min_visible),
    )


def flip(sample: Sample) -> Sample:
    """Exchange left and right."""
    boxes = sample.boxes
    if boxes is not None:
        left, top, right, bottom = boxes.boxes.unbind(dim=1)
        width = sample.image_size[1]
        boxes = replace(boxes, boxes=torch.stack([width - right, top, width - left, bottom], dim=1))
    return replace(
        sample,
        image=_mirrored(sample.image),
        mask=None if sample.mask is None else _mirrored(sample.mask),
        depth_m=None if sample.depth_m is None else _mirrored(sample.depth_m),
        boxes=boxes,
    )


def pad(sample: Sample, image_size: tuple[int, int], *, fill: Fill) -> Sample:
    """Pad to (height, width) on the right and at the bottom. The labels of the added pixels are unknown.

    Raises:
        ValueError: If the image is larger than `image_size`.
    """
    missing = [target - side for target, side in zip(image_size, sample.image_size, strict=True)]
    if min(missing) < 0:
        raise ValueError(
            f"the image {sample.image_id!r} is {sides(sample.image_size)} (height x width), which is larger than the "
            f"padded size, {sides(image_size)}. Crop or resize it first."
        )
    if not any(missing):
        return sample
    around = [(0, missing[0]), (0, missing[1])]
    if fill == "edge":
        image = np.pad(sample.image, [*around, (0, 0)], mode="edge")
    else:
        image = np.pad(sample.image, [*around, (0, 0)], constant_values=0 if fill == "zero" else GREY)
    return replace(
        sample,
        image=image,
        mask=None if sample.mask is None else np.pad(sample.mask, around, constant_values=IGNORE_LABEL),
        depth_m=None if sample.depth_m is None else np.pad(sample.depth_m, around, constant_values=0),
    )


def fit(image_size: tuple[int, int], shortest: float, longest: float | None) -> tuple[int, int]:
    """The size with the same ratio whose shorter side is `shortest`, or less if the longer would exceed `longest`."""
    ratio = shortest / min(image_size)
    if longest is not None:
        ratio = min(ratio, longest / max(image_size))
    height, width = (max(1, int(side * ratio + 0.5)) for side in image_size)
    return height, width


def _mirrored(plane: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(plane[:, ::-1])  # PyTorch does not accept negative strides


def _rest(sample: Sample, corner: tuple[int, int]) -> tuple[int, int]:
    return sample.image_size[0] - corner[0], sample.image_size[1] - corner[1]


def _clip(boxes: Boxes, corner: tuple[int, int], image_size: tuple[int, int], min_visible: float) -> Boxes:
    (top, left), (height, width) = corner, image_size
    moved = boxes.boxes - torch.tensor([left, top, left, top])
    limits = torch.tensor([width, height, width, height])
    clipped = torch.minimum(moved.clamp(min=0), limits)
    sizes = clipped[:, 2:] - clipped[:, :2]
    kept = (sizes >= 1).all(dim=1) & (_area(clipped) >= min_visible * _area(moved))
    difficult = None if boxes.difficult is None else boxes.difficult[kept]
    return Boxes(clipped[kept], boxes.labels[kept], difficult)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
