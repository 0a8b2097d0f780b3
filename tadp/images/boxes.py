"""Boxes of objects: the labels of a data set (`Boxes`) and the output of a detector (`Detections`)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(eq=False, repr=False)  # not frozen, because Lightning sets the fields of a copy of a `Batch`
class Boxes:
    """The true boxes of the N objects in one image; N may be 0.

    Attributes:
        boxes: Left, top, right and bottom of each box in pixels, (N, 4), float. Pixels are counted from 0, and right
            and bottom are exclusive: a box that only covers the top left pixel is 0, 0, 1, 1. A box may extend beyond
            the image's edge.
        labels: Class of each object, as an index into the data set's class names, (N,), int64, 0 or more. Background
            is not a class.
        difficult: Whether the data set marks each object as hard to recognise, (N,), bool. The data set's evaluation
            ignores such objects. None if the data set has no such marks.

    Raises:
        TypeError: If an argument is not a tensor of the type and shape above.
        ValueError: If the tensors differ in length, a box has no area or a coordinate that is not finite, or a label
            is negative.

    Example:
        >>> Boxes(torch.tensor([[2.0, 3.0, 10.0, 8.0]]), torch.tensor([4]))
        Boxes(1 box)
        >>> Boxes(torch.tensor([[2.0, 3.0, 2.0, 8.0]]), torch.tensor([4]))
        Traceback (most recent call last):
        ValueError: box 0 (2, 3, 2, 8) has no area; boxes are left, top, right, bottom, with left < right, top < bottom.
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
        """Return a copy on another device."""
        difficult = None if self.difficult is None else self.difficult.to(device)
        return Boxes(self.boxes.to(device), self.labels.to(device), difficult)


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The N objects that a detector found in one image; N may be 0.

    Attributes:
        boxes: Left, top, right and bottom of each box in pixels, (N, 4), float. Right and bottom are exclusive, as in
            `Boxes`.
        labels: Class of each object, as an index into the detector's class names, (N,), int64, 0 or more.
        scores: The detector's confidence in each object, (N,), float; higher is more confident.

    Raises:
        TypeError: If an argument is not a tensor of the type and shape above.
        ValueError: If the tensors differ in length, a box has no area, a coordinate or a score is not finite, or a
            label is negative.
    """

    boxes: Float[Tensor, "_n 4"]
    labels: Int64[Tensor, " _n"]
    scores: Float[Tensor, " _n"]

    def __post_init__(self) -> None:
        _check(self.boxes, self.labels)
        _check_row("scores", self.scores, kind="float", right=self.scores.is_floating_point(), count=len(self))
        if not self.scores.isfinite().all():
            raise ValueError(f"scores must be finite; got {self.scores[~self.scores.isfinite()][0].item()}.")

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        return f"Detections({len(self)} {'box' if len(self) == 1 else 'boxes'})"

    def to(self, device: torch.device | str) -> "Detections":
        """Return a copy on another device."""
        return Detections(self.boxes.to(device), self.labels.to(device), self.scores.to(device))


def _check(boxes: Tensor, labels: Tensor) -> None:
    for name, value in (("boxes", boxes), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor; got {type(value).__name__}. Pass torch.as_tensor({name}).")
    if not boxes.is_floating_point() or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise TypeError(
            f"boxes must be a float tensor (N, 4) of left, top, right, bottom; got {boxes.dtype} "
            f"{tuple(boxes.shape)}. For no boxes, pass torch.zeros(0, 4)."
        )
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise TypeError(f"labels must be an int64 tensor (N,); got {labels.dtype} {tuple(labels.shape)}.")
    if len(labels) != len(boxes):
        raise ValueError(f"there must be one label per box; got {len(boxes)} boxes and {len(labels)} labels.")
    finite = boxes.isfinite().all(dim=1)
    if not finite.all():
        raise ValueError(f"coordinates must be finite; got {_describe(boxes, ~finite)}.")
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if not has_area.all():
        raise ValueError(
            f"{_describe(boxes, ~has_area)} has no area; boxes are left, top, right, bottom, with left < right, "
            "top < bottom."
        )
    if len(labels) and labels.min() < 0:
        raise ValueError(
            f"labels must be 0 or more: classes count from 0, without background; got {labels.min().item()}."
        )


def _check_row(name: str, row: Tensor, *, kind: str, right: bool, count: int) -> None:
    if not right or row.ndim != 1:
        raise TypeError(f"{name} must be a {kind} tensor (N,); got {row.dtype} {tuple(row.shape)}.")
    if len(row) != count:
        raise ValueError(f"{name} must have one value per box; got {count} boxes and {len(row)} values.")


def _describe(boxes: Tensor, wrong: Tensor) -> str:
    index = int(wrong.nonzero()[0])
    return f"box {index} ({', '.join(f'{value:g}' for value in boxes[index].tolist())})"
