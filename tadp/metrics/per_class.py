"""Functions that the metrics of several classes share: checks of batches and merges, means and tables."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from tadp.images.boxes import Boxes, Detections


def check_merge(own: object, other: object, settings: Sequence[str]) -> None:
    """Refuse to merge metrics of different types or settings.

    Raises:
        TypeError: If `other` is not of the same type as `own`.
        ValueError: If one of the settings differs.
    """
    if type(own) is not type(other):
        raise TypeError(f"a {type(own).__name__} only merges with another; got {type(other).__name__}.")
    for name in settings:
        left, right = getattr(own, name), getattr(other, name)
        if left != right:
            raise ValueError(
                f"metrics can only be merged if they have the same {name}; got {left} and {right}. Build both with "
                "the same settings."
            )


def to_maps(maps: Tensor | np.ndarray, *, name: str) -> Tensor:
    """Maps as a tensor: integers of any width as int64, floats as they are.

    Raises:
        TypeError: If `maps` is neither a tensor nor an array.
    """
    if isinstance(maps, np.ndarray):
        maps = torch.from_numpy(maps.astype(np.int64 if maps.dtype.kind in "iu" else maps.dtype, copy=False))
    if not isinstance(maps, Tensor):
        raise TypeError(f"{name} must be a tensor or a NumPy array; got {type(maps).__name__}.")
    return maps


def check_images(detections: Sequence[Detections], boxes: Sequence[Boxes], class_names: tuple[str, ...]) -> None:
    """Check that detections and true boxes have the right types, the same number of images, and known classes.

    Raises:
        TypeError: If `detections` is not a list of `Detections`, or `boxes` is not a list of `Boxes`.
        ValueError: If the lists differ in length, or a label is out of the range of `class_names`.
    """
    for name, values, kind in (("detections", detections, Detections), ("boxes", boxes, Boxes)):
        if isinstance(values, kind):
            raise TypeError(
                f"{name} must be a list with one {kind.__name__} per image; got a single {kind.__name__}. "
                f"Pass [{name}]."
            )
        for index, value in enumerate(values):
            if not isinstance(value, kind):
                raise TypeError(
                    f"{name} must be a list of {kind.__name__}; number {index} is of type {type(value).__name__}."
                )
    if len(detections) != len(boxes):
        raise ValueError(
            f"there must be one Detections per image, in the order of the boxes; got {len(detections)} for "
            f"{len(boxes)} images. For an image without detections, pass Detections with no boxes."
        )
    for name, values in (("detections", detections), ("boxes", boxes)):
        for index, value in enumerate(values):
            _check_labels(f"{name} of image {index} of the batch", value, class_names)


def check_truth(count: int, *, images: int) -> None:
    """Refuse to compute average precision without a true box.

    Raises:
        ValueError: If no image has true boxes.
    """
    if not count:
        raise ValueError(
            "average precision needs at least one true box that is not difficult; the "
            f"{images} images so far have no such box. Call update() with images that have boxes before compute()."
        )


def class_table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Write a table with one line per class, where figures are percentages and nan is a dash.

    Args:
        columns: For each column's heading, the figures in [0, 1] by class name. All columns have the same classes.

    Example:
        >>> print(class_table({"IoU": {"dog": 0.5, "dining table": float("nan")}}))
        class             IoU
        dog             50.00
        dining table        -
    """
    names = list(next(iter(columns.values())))
    width = max(len(name) for name in ("class", *names))
    lines = [f"{'class':<{width}}" + "".join(f"  {heading:>7}" for heading in columns)]
    for name in names:
        lines.append(f"{name:<{width}}" + "".join(f"  {percent(column[name]):>7}" for column in columns.values()))
    return "\n".join(lines)


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage with two decimals; nan is shown as a dash."""
    return "-" if math.isnan(share) else f"{100 * share:.2f}"


def mean_of_known(figures: Mapping[str, float]) -> float:
    """The mean over the classes whose figure is not nan; nan if there are no such classes."""
    known = [figure for figure in figures.values() if not math.isnan(figure)]
    return math.fsum(known) / len(known) if known else math.nan


def _check_labels(where: str, boxes: Boxes | Detections, class_names: tuple[str, ...]) -> None:
    wrong = (boxes.labels >= len(class_names)).nonzero()
    if len(wrong):
        number = int(wrong[0])
        raise ValueError(
            f"{where}: box {number} has label {boxes.labels[number].item()}; the labels of {len(class_names)} classes "
            f"must be 0 ({class_names[0]!r}) to {len(class_names) - 1} ({class_names[-1]!r}). Count classes from 0, "
            "without background."
        )
