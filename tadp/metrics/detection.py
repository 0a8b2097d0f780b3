"""Average precision of detections by the rule of Pascal VOC's devkit, updated batch by batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from torch import Tensor

from tadp.files.checks import check_choice, check_classes, check_numbers
from tadp.images.boxes import Boxes, Detections
from tadp.metrics.per_class import check_images, check_merge, check_truth, class_table, mean_of_known, percent
from tadp.metrics.voc_rule import LEFT_OUT, RIGHT, WRONG, Rule, average_precision, judge, overlaps

COCO_IOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
DRAWN_SCORE = 0.5  # the default of `DetectionResult.plot`


@dataclass(frozen=True)
class BoxesAbove:
    """How good the boxes above a score are. It prints as a sentence.

    Attributes:
        score: The score, in [0, 1].
        right: Number of boxes above the score that cover an object of their class.
        wrong: Number of the other boxes above the score, the false boxes.
        objects: Number of objects to find.
    """

    score: float
    right: int
    wrong: int
    objects: int

    @property
    def precision(self) -> float:
        """The share of the boxes that are right; nan if there are no boxes."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else math.nan

    @property
    def recall(self) -> float:
        """The share of the objects that are found; nan if there are no objects."""
        return self.right / self.objects if self.objects else math.nan

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 if no object is found, and nan without boxes and objects."""
        total = self.right + self.wrong + self.objects
        return 2 * self.right / total if total else math.nan

    def __str__(self) -> str:
        precision, recall = (
            "-" if math.isnan(share) else f"{100 * share:.0f} %" for share in (self.precision, self.recall)
        )
        f1 = "-" if math.isnan(self.f1) else f"{self.f1:.2f}"
        return (
            f"above the score {self.score:g}: {self.right:,} of {self.objects:,} objects found, {self.wrong:,} false "
            f"box{'es' * (self.wrong != 1)} (precision {precision}, recall {recall}, F1 {f1})"
        )


@dataclass(frozen=True, repr=False)
class VOCDetectionResult:
    """Average precision by Pascal VOC's rule, in [0, 1]. `print(result)` shows a table.

    Attributes:
        by_iou: For each minimum overlap (intersection over union), the average precision of each class by name; nan for
            a class without true boxes, or with only difficult ones.
        rule: The rule by which average precision was computed, "voc07" or "voc12".
        images: Number of images that were measured.
        drawn: How good the boxes above the score 0.5 are, at the lowest overlap that was measured.
        best: How good the boxes are above the score with the highest F1, among 0, 0.01 … 0.99; of several such scores,
            the one nearest to 0.5.
    """

    by_iou: dict[float, dict[str, float]]
    rule: Rule
    images: int
    drawn: BoxesAbove
    best: BoxesAbove

    @property
    def ap(self) -> dict[str, float]:
        """The average precision of each class, averaged over the overlaps if there are several."""
        names = next(iter(self.by_iou.values()))
        return {
            name: math.fsum(precisions[name] for precisions in self.by_iou.values()) / len(self.by_iou)
            for name in names
        }

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
                f"not measured at an overlap of {iou}, only at {', '.join(map(str, self.by_iou))}. Build the metric "
                f"with iou={iou}."
            )
        return mean_of_known(self.by_iou[iou])

    def __repr__(self) -> str:
        means = ", ".join(f"{iou}: {mean_of_known(precisions):.4f}" for iou, precisions in self.by_iou.items())
        return f"VOCDetectionResult(map={self.map:.4f}, by iou {{{means}}}, rule={self.rule!r}, images={self.images})"

    def __str__(self) -> str:
        at = ", ".join(map(str, self.by_iou))
        columns = {"AP": self.ap}
        if len(self.by_iou) > 1:
            columns |= {f"AP{round(100 * iou)}": self.by_iou[iou] for iou in (0.5, 0.75) if iou in self.by_iou}
        head = f"mAP {percent(self.map)} % ({self.rule}, IoU {at}), images: {self.images}"
        return "\n".join([head, class_table(columns), str(self.drawn), f"best F1 {self.best}"])


class VOCDetection:
    """Average precision by the rule of Pascal VOC's development kit.

    From the highest score down, each detection is assigned to the true box of its image and class that it overlaps
    most. The detection is right if the overlap is at least `iou` and no earlier detection was right for the same box.
    Otherwise it is wrong. A detection that is assigned to a `difficult` box is neither right nor wrong, and difficult
    boxes need not be found. Detections with equal scores are judged in the order in which they were added, like those
    in a file of the development kit.

    The development kit adds 1 to the length of each side, because the corners in VOC's files are pixels inside the box.
    Boxes in tadp end where the next pixel begins (see `tadp.images.boxes.Boxes`), so the length of a side is right -
    left. The overlaps equal those of the kit if a data set converts the corners (xmin, ymin, xmax, ymax) to (xmin - 1,
    ymin - 1, xmax, ymax), as the data sets in tadp do. `inclusive_edges=True` is for boxes with VOC's own corners.

    The metric stores each detection's label, score and judgement, about 20 bytes.

    Args:
        class_names: Names of the classes in the order of the labels, without background.
        rule: How average precision is computed: "voc07" is the mean of the precisions at 11 recalls, "voc12" the area
            under the curve.
        iou: Minimum overlap (intersection over union) of a right detection, in (0, 1]; or several, such as `COCO_IOUS`,
            over which the paper's released evaluation averages its "AP".
        inclusive_edges: Whether right and bottom of a box are its last pixels, as in VOC's files, rather than the
            pixels after it.

    Attributes:
        images: Number of images that were measured.

    Raises:
        TypeError: If `class_names` is a single string.
        ValueError: If `rule` is unknown, `iou` is not in (0, 1], or a class name is listed twice.

    Source:
        VOCevaldet.m of the development kits of 2007 and 2012. The paper's released datasets/pascal_voc_evaluation.py
        (from detectron2) differs: it requires an overlap above `iou`, where the kit also accepts `iou` itself. It also
        rounds scores to three decimals and corners to one, and judges equal scores in any order.

    Example:
        >>> import torch
        >>> box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> detections = Detections(box + 1, torch.tensor([1]), torch.tensor([0.9]))
        >>> metric = VOCDetection(["cat", "dog"])
        >>> metric.update([detections], [Boxes(box, torch.tensor([1]))])
        >>> print(metric.compute())
        mAP 100.00 % (voc07, IoU 0.5), images: 1
        class       AP
        cat          -
        dog     100.00
        above the score 0.5: 1 of 1 objects found, 0 false boxes (precision 100 %, recall 100 %, F1 1.00)
        best F1 above the score 0.5: 1 of 1 objects found, 0 false boxes (precision 100 %, recall 100 %, F1 1.00)
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
        for overlap in self.iou:
            check_numbers(allow_nonfinite=True, iou=overlap)
        if not self.iou or not all(0 < overlap <= 1 for overlap in self.iou):
            raise ValueError(f"iou must be an overlap over 0 and at most 1, or several; got {iou}.")
        self.class_names = tuple(check_classes(class_names, name="class_names"))
        self.rule: Rule = rule
        self.inclusive_edges = inclusive_edges
        self.images = 0
        self._counts = np.zeros(len(self.class_names), np.int64)  # true boxes that are not difficult
        # For each image: the labels (N,), scores (N,) and verdicts (N, T) of its detections.
        self._judged: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(self, detections: Sequence[Detections], boxes: Sequence[Boxes]) -> None:
        """Judge the detections of a batch of images.

        Args:
            detections: The detections, one `Detections` per image, which may have no boxes.
            boxes: The true boxes, one `Boxes` per image, in the same order.

        Raises:
            TypeError: If `detections` is not a list of `Detections`, or `boxes` is not a list of `Boxes`.
            ValueError: If the lists differ in length, or a label is out of the range of `class_names`. Nothing is
                counted in this case.
        """
        check_images(detections, boxes, self.class_names)
        for detected, truth in zip(detections, boxes, strict=True):
            labels, true_labels = _array(detected.labels), _array(truth.labels)
            difficult = np.zeros(len(truth), bool) if truth.difficult is None else _array(truth.difficult)
            scores = _array(detected.scores, float)
            overlap = overlaps(
                _array(detected.boxes, float), _array(truth.boxes, float), inclusive_edges=self.inclusive_edges
            )
            verdicts = np.zeros((len(detected), len(self.iou)), np.int8)
            for label in np.unique(labels):
                rows, columns = labels == label, true_labels == label
                verdicts[rows] = judge(overlap[rows][:, columns], scores[rows], difficult[columns], ious=self.iou)
            self._judged.append((labels, scores, verdicts))
            self._counts += np.bincount(true_labels[~difficult], minlength=len(self.class_names))
        self.images += len(boxes)

    def compute(self) -> VOCDetectionResult:
        """The average precisions over all images that were added.

        Raises:
            ValueError: If no image has true boxes.
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
        lowest = verdicts[:, int(np.argmin(self.iou))]
        above = [self._above(hundredth / 100, scores[order], lowest) for hundredth in range(100)]
        best = max(above, key=lambda boxes: (boxes.f1, -abs(boxes.score - DRAWN_SCORE)))
        return VOCDetectionResult(by_iou, self.rule, self.images, above[round(100 * DRAWN_SCORE)], best)

    def _above(self, score: float, scores: np.ndarray, verdicts: np.ndarray) -> BoxesAbove:
        shown = verdicts[scores.astype(np.float32) > np.float32(score)]  # as `DetectionResult.above` compares
        return BoxesAbove(score, int((shown == RIGHT).sum()), int((shown == WRONG).sum()), int(self._counts.sum()))

    def merge(self, other: "VOCDetection") -> None:
        """Add the images of another metric, which does not change.

        Among detections with equal scores, those of the other metric come after those of this metric.

        Raises:
            TypeError: If `other` is not a `VOCDetection`.
            ValueError: If `other` has other classes or other settings.
        """
        check_merge(self, other, ("class_names", "rule", "iou", "inclusive_edges"))
        self._counts = self._counts + other._counts
        self._judged = self._judged + other._judged
        self.images += other.images


def _array(values: Tensor, kind: type | None = None) -> np.ndarray:
    values = values.detach().to("cpu", copy=True)  # independent of the caller's tensor
    return (values.double() if kind is float else values).numpy()  # NumPy has no bfloat16
