"""Boxes of objects: what a data set says (`Boxes`), and what a detector finds (`Detections`)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Boxes:
    """The objects of one image, N of them; N may be 0.

    Attributes:
        boxes: (N, 4), left, top, right, bottom in pixels; right and bottom are exclusive, so that a box of one pixel
            in the corner is 0, 0, 1, 1. A box may reach over the image's edge.
        labels: (N,), int64: the index of each object's class in the data set's class names, from 0. Background is no
            class.
        difficult: (N,), objects that a data set marks as hard to recognise, which its rules of evaluation leave out;
            None if it marks none.

    Raises:
        TypeError: If one of them is no tensor of that kind.
        ValueError: If their lengths differ, a box has no area or a coordinate that is not finite, or a label is
            negative.

    Example:
        >>> Boxes(torch.tensor([[2.0, 3.0, 10.0, 8.0]]), torch.tensor([4]))
        Boxes(1 box)
        >>> Boxes(torch.tensor([[2.0, 3.0, 2.0, 8.0]]), torch.tensor([4]))
        Traceback (most recent call last):
        ValueError: box 0 (2, 3, 2, 8) has no area; in left, top, right, bottom, right is over left and bottom over top.
    """

    boxes: Float[Tensor, "_n 4"]
    labels: Int64[Tensor, " _n"]
    difficult: Bool[Tensor, " _n"] | None = None

    def __post_init__(self) -> None:
        _check(self.boxes, self.labels)
        if self.difficult is not None:
            _check_row(
                "difficult", self.difficult, kind="bool", right=self.difficult.dtype == torch.bool, count=len(self)
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        return f"Boxes({len(self)} {'box' if len(self) == 1 else 'boxes'})"

    def to(self, device: torch.device | str) -> "Boxes":
        """The same on another device."""
        difficult = None if self.difficult is None else self.difficult.to(device)
        return Boxes(self.boxes.to(device), self.labels.to(device), difficult)


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """What a detector found in one image, N boxes; N may be 0.

    Attributes:
        boxes: (N, 4), left, top, right, bottom in pixels, as in `Boxes`.
        labels: (N,), int64, the index of the class, from 0.
        scores: (N,), how sure the detector is of each.

    Raises:
        TypeError: If one of them is no tensor of that kind.
        ValueError: If their lengths differ, a box has no area, a number is not finite, or a label is negative.
    """

    boxes: Float[Tensor, "_n 4"]
    labels: Int64[Tensor, " _n"]
    scores: Float[Tensor, " _n"]

    def __post_init__(self) -> None:
        _check(self.boxes, self.labels)
        _check_row("scores", self.scores, kind="float", right=self.scores.is_floating_point(), count=len(self))
        if not self.scores.isfinite().all():
            raise ValueError(f"scores are finite; got {self.scores[~self.scores.isfinite()][0].item()}.")

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        return f"Detections({len(self)} {'box' if len(self) == 1 else 'boxes'})"

    def to(self, device: torch.device | str) -> "Detections":
        """The same on another device."""
        return Detections(self.boxes.to(device), self.labels.to(device), self.scores.to(device))


def _check(boxes: Tensor, labels: Tensor) -> None:
    for name, value in (("boxes", boxes), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} are a tensor; got {type(value).__name__}. Pass torch.as_tensor({name}).")
    if not boxes.is_floating_point() or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise TypeError(
            f"boxes are a float tensor (N, 4) of left, top, right, bottom; got {boxes.dtype} {tuple(boxes.shape)}. "
            "No boxes are torch.zeros(0, 4)."
        )
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise TypeError(f"labels are an int64 tensor (N,); got {labels.dtype} {tuple(labels.shape)}.")
    if len(labels) != len(boxes):
        raise ValueError(f"one label a box; got {len(boxes)} boxes and {len(labels)} labels.")
    finite = boxes.isfinite().all(dim=1)
    if not finite.all():
        raise ValueError(f"coordinates are finite; got {_describe(boxes, ~finite)}.")
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if not has_area.all():
        raise ValueError(
            f"{_describe(boxes, ~has_area)} has no area; in left, top, right, bottom, right is over left and bottom "
            "over top."
        )
    if len(labels) and labels.min() < 0:
        raise ValueError(f"labels count classes from 0, background is none of them; got {labels.min().item()}.")


def _check_row(name: str, row: Tensor, *, kind: str, right: bool, count: int) -> None:
    if not right or row.ndim != 1:
        raise TypeError(f"{name} is a {kind} tensor (N,); got {row.dtype} {tuple(row.shape)}.")
    if len(row) != count:
        raise ValueError(f"{name} has one value a box; got {count} boxes and {len(row)} values.")


def _describe(boxes: Tensor, wrong: Tensor) -> str:
    index = int(wrong.nonzero()[0])
    return f"box {index} ({', '.join(f'{value:g}' for value in boxes[index].tolist())})"
