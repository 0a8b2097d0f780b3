"""Average precision of detections by the rule of Pascal VOC's devkit, streaming."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from torch import Tensor

from tadp.files.checks import check_choice, check_classes
from tadp.images.boxes import Boxes, Detections
from tadp.metrics.per_class import check_images, check_merge, check_truth, class_table, mean_of_known, percent
from tadp.metrics.voc_rule import LEFT_OUT, RIGHT, Rule, average_precision, judge, overlaps

COCO_IOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True, repr=False)
class VOCDetectionResult:
    """Average precision by VOC's rule; shares in [0, 1]. `print(result)` is a table.

    Attributes:
        by_iou: For each least overlap, the average precision of each class; nan for a class that has no true box, but
            difficult ones perhaps.
        rule: "voc07" or "voc12".
        images: How many images were fed.
    """

    by_iou: dict[float, dict[str, float]]
    rule: Rule
    images: int

    @property
    def ap(self) -> dict[str, float]:
        """For each class, its average precision; with several overlaps the mean over them."""
        names = next(iter(self.by_iou.values()))
        return {name: math.fsum(one[name] for one in self.by_iou.values()) / len(self.by_iou) for name in names}

    @property
    def map(self) -> float:
        """The mean of `ap` over the classes that have true boxes."""
        return mean_of_known(self.ap)

    @property
    def map50(self) -> float:
        """The mean average precision at an overlap of 0.5."""
        return self._at(0.5)

    @property
    def map75(self) -> float:
        """The mean average precision at an overlap of 0.75."""
        return self._at(0.75)

    def _at(self, iou: float) -> float:
        if iou not in self.by_iou:
            raise ValueError(
                f"not measured at an overlap of {iou}, but at {', '.join(map(str, self.by_iou))}. Build the metric "
                f"with iou={iou}."
            )
        return mean_of_known(self.by_iou[iou])

    def __repr__(self) -> str:
        means = ", ".join(f"{iou}: {mean_of_known(one):.4f}" for iou, one in self.by_iou.items())
        return f"VOCDetectionResult(map={self.map:.4f}, by iou {{{means}}}, rule={self.rule!r}, images={self.images})"

    def __str__(self) -> str:
        at = ", ".join(map(str, self.by_iou))
        columns = {"AP": self.ap}
        if len(self.by_iou) > 1:
            columns |= {f"AP{round(100 * iou)}": self.by_iou[iou] for iou in (0.5, 0.75) if iou in self.by_iou}
        return f"mAP {percent(self.map)} % ({self.rule}, IoU {at}), images: {self.images}\n{class_table(columns)}"


class VOCDetection:
    """Average precision by the rule of Pascal VOC's development kit.

    From the highest score down, a detection goes to the true box of its image and class that it overlaps most. It is
    right if the overlap is at least `iou` and the box is not taken yet; a second one on the same box is wrong. One
    that goes to a `difficult` box is neither, and difficult boxes need not be found. Of equal scores the one fed
    first comes first, as in a file of the devkit.

    The devkit adds 1 to each side, as the corners in VOC's files are pixels inside the box. Boxes here end where the
    next pixel begins (`tadp.images.boxes.Boxes`), so a side is right - left, and the overlaps are the devkit's own once
    a data set has turned its corners (xmin, ymin, xmax, ymax) into (xmin - 1, ymin - 1, xmax, ymax). Adding 1 to such
    boxes would count a pixel too many. `inclusive_edges=True` is for boxes that were left as VOC has them.

    Of a detection its label, its score and its verdict are kept, about 20 bytes.

    Args:
        class_names: What labels stand for, 0 the first; background is none of them.
        rule: "voc07": mean of 11 precisions. "voc12": area under the curve.
        iou: The least overlap; or several, such as `COCO_IOUS`, over which the released evaluator averages its "AP".
        inclusive_edges: Right and bottom are the last pixel inside the box.

    Attributes:
        images: How many images were fed.

    Raises:
        TypeError: If the names are a single string.
        ValueError: If the rule is unknown, an overlap is not in (0, 1], or a name is there twice.

    Source:
        VOCevaldet.m of the devkits of 2007 and 2012. The released datasets/pascal_voc_evaluation.py (detectron2's)
        differs: it wants more than `iou`, where the devkit wants `iou`, rounds scores to three digits and corners to
        one, and takes equal scores in any order.

    Example:
        >>> import torch
        >>> box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> found = Detections(box + 1, torch.tensor([1]), torch.tensor([0.9]))
        >>> metric = VOCDetection(["cat", "dog"])
        >>> metric.update([found], [Boxes(box, torch.tensor([1]))])
        >>> print(metric.compute())
        mAP 100.00 % (voc07, IoU 0.5), images: 1
        class       AP
        cat          -
        dog     100.00
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        rule: Rule = "voc07",
        iou: float | Sequence[float] = 0.5,
        inclusive_edges: bool = False,
    ):
        check_choice(rule, get_args(Rule), name="rule")
        self.iou: tuple[float, ...] = tuple(iou) if isinstance(iou, Sequence) else (iou,)
        if not self.iou or not all(0 < one <= 1 for one in self.iou):
            raise ValueError(f"iou is an overlap over 0 and at most 1, or several; got {iou}.")
        self.class_names = tuple(check_classes(class_names))
        self.rule: Rule = rule
        self.inclusive_edges = inclusive_edges
        self.images = 0
        self._counts = np.zeros(len(self.class_names), np.int64)  # true boxes that are not difficult
        # Of each image: the labels (N,), scores (N,) and verdicts (N, T) of what was found.
        self._judged: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(self, detections: Sequence[Detections], boxes: Sequence[Boxes]) -> None:
        """Compare a batch.

        Args:
            detections: What was found, one an image; an image where nothing was found has an empty one.
            boxes: The truth, one an image, in the same order.

        Raises:
            TypeError: If they are no lists of `Detections` and `Boxes`.
            ValueError: If they are not equally many, or a label is none of the classes. Nothing is counted then.
        """
        check_images(detections, boxes, self.class_names)
        for found, truth in zip(detections, boxes, strict=True):
            labels, true_labels = _array(found.labels), _array(truth.labels)
            difficult = np.zeros(len(truth), bool) if truth.difficult is None else _array(truth.difficult)
            scores = _array(found.scores, float)
            overlap = overlaps(
                _array(found.boxes, float), _array(truth.boxes, float), inclusive_edges=self.inclusive_edges
            )
            verdicts = np.zeros((len(found), len(self.iou)), np.int8)
            for label in np.unique(labels):
                rows, columns = labels == label, true_labels == label
                verdicts[rows] = judge(overlap[rows][:, columns], scores[rows], difficult[columns], ious=self.iou)
            self._judged.append((labels, scores, verdicts))
            self._counts += np.bincount(true_labels[~difficult], minlength=len(self.class_names))
        self.images += len(boxes)

    def compute(self) -> VOCDetectionResult:
        """The average precisions of all that was fed.

        Raises:
            ValueError: If there was no true box to find.
        """
        check_truth(int(self._counts.sum()), images=self.images)
        labels, scores, verdicts = (np.concatenate(parts) for parts in zip(*self._judged, strict=True))
        order = np.argsort(-scores, kind="stable")
        labels, verdicts = labels[order], verdicts[order]
        by_iou: dict[float, dict[str, float]] = {iou: {} for iou in self.iou}
        for label, (name, count) in enumerate(zip(self.class_names, self._counts.tolist(), strict=True)):
            for iou, column in zip(self.iou, verdicts[labels == label].T, strict=True):
                right = column[column != LEFT_OUT] == RIGHT
                by_iou[iou][name] = average_precision(right, count, rule=self.rule) if count else math.nan
        return VOCDetectionResult(by_iou, self.rule, self.images)

    def merge(self, other: "VOCDetection") -> None:
        """Add what another has compared, which stays as it is; of equal scores its own come later.

        Raises:
            TypeError: If it is another metric.
            ValueError: If its classes or its rule differ.
        """
        check_merge(self, other, ("class_names", "rule", "iou", "inclusive_edges"))
        self._counts = self._counts + other._counts
        self._judged = self._judged + other._judged
        self.images += other.images


def _array(values: Tensor, kind: type | None = None) -> np.ndarray:
    values = values.detach().to("cpu", copy=True)  # what is kept does not change with the caller's tensor
    return (values.double() if kind is float else values).numpy()  # numpy has no bfloat16
