"""Average precision of detections by COCO's rule, through torchmetrics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tadp.files.checks import check_classes, needs
from tadp.images.boxes import Boxes, Detections
from tadp.metrics.per_class import check_images, check_merge, check_truth, class_table, percent

if TYPE_CHECKING:
    from torchmetrics.detection import MeanAveragePrecision

# pycocotools compares in float64 with these values. An overlap such as 0.7 is often exact, so rounding decides.
_OVERLAPS = np.linspace(0.5, 0.95, 10).tolist()
_RECALLS = np.linspace(0, 1, 101).tolist()
_KEYS = ("map", "map50", "map75", "map_small", "map_medium", "map_large")


@dataclass(frozen=True, repr=False)
class COCODetectionResult:
    """Average precision by COCO's rule, in [0, 1]; nan if no image has true boxes. `print(result)` shows a table.

    Overlap is intersection over union of a detected and a true box.

    Attributes:
        map: Average precision, averaged over classes and over the minimum overlaps 0.5, 0.55 … 0.95. Papers call it AP.
        map50: Average precision at a minimum overlap of 0.5, averaged over classes.
        map75: Average precision at a minimum overlap of 0.75, averaged over classes.
        map_small: The same as `map` for objects under 32² pixels. The area of an object is that of its box here; in
            COCO's own files it is that of its mask.
        map_medium: The same as `map` for objects from 32² to 96² pixels.
        map_large: The same as `map` for objects from 96² pixels up.
        ap: Average precision of each class, averaged over the minimum overlaps; nan for a class without true boxes.
        images: Number of images that were measured.
    """

    map: float
    map50: float
    map75: float
    map_small: float
    map_medium: float
    map_large: float
    ap: dict[str, float]
    images: int

    def __repr__(self) -> str:
        figures = ", ".join(f"{key}={getattr(self, key):.4f}" for key in _KEYS)
        return f"COCODetectionResult({figures}, {len(self.ap)} classes, images={self.images})"

    def __str__(self) -> str:
        names = ("AP", "AP50", "AP75", "small", "medium", "large")
        figures = ", ".join(f"{name} {percent(getattr(self, key))}" for name, key in zip(names, _KEYS, strict=True))
        return f"{figures} (%), images: {self.images}\n{class_table({'AP': self.ap})}"


class COCODetection:
    """Average precision by COCO's rule: ten minimum overlaps, 101 recalls, at most 100 detections per image.

    The rule is that of pycocotools, computed by torchmetrics with faster-coco-eval. COCO has no `difficult` boxes, so
    they are treated as COCO treats crowds: they need not be found, and a detection on one is neither right nor wrong.
    The overlap with such a box is the share of the detection that lies inside it.

    The metric stores boxes, labels and scores on the CPU. All the computation happens in `compute`, in the process that
    calls it.

    Args:
        class_names: Names of the classes in the order of the labels, without background.

    Attributes:
        images: Number of images that were measured.

    Raises:
        MissingExtraError: If torchmetrics, torchvision or faster-coco-eval is not installed:
            pip install 'tadp[detection]'.
        TypeError: If `class_names` is a single string.
        ValueError: If a class name is listed twice.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> detections = Detections(box + 1, torch.tensor([1]), torch.tensor([0.9]))
        >>> metric = COCODetection(["cat", "dog"])
        >>> metric.update([detections], [Boxes(box, torch.tensor([1]))])
        >>> print(metric.compute())
        AP 40.00, AP50 100.00, AP75 0.00, small 40.00, medium -, large - (%), images: 1
        class       AP
        cat          -
        dog      40.00
    """

    def __init__(self, class_names: Sequence[str]):
        self.class_names = tuple(check_classes(class_names, name="class_names"))
        self.images = 0
        self._found: list[dict[str, Tensor]] = []
        self._truth: list[dict[str, Tensor]] = []
        _torchmetrics()  # a missing package is reported now, rather than after hours of inference

    def update(self, detections: Sequence[Detections], boxes: Sequence[Boxes]) -> None:
        """Add the detections and true boxes of a batch of images.

        Args:
            detections: The detections, one `Detections` per image, which may have no boxes.
            boxes: The true boxes, one `Boxes` per image, in the same order.

        Raises:
            TypeError: If `detections` is not a list of `Detections`, or `boxes` is not a list of `Boxes`.
            ValueError: If the lists differ in length, or a label is out of the range of `class_names`. Nothing is added
                in this case.
        """
        check_images(detections, boxes, self.class_names)
        for detected, truth in zip(detections, boxes, strict=True):
            difficult = torch.zeros_like(truth.labels) if truth.difficult is None else truth.difficult
            self._found.append(
                _on_cpu(boxes=detected.boxes.double(), labels=detected.labels, scores=detected.scores.double())
            )
            self._truth.append(_on_cpu(boxes=truth.boxes.double(), labels=truth.labels, iscrowd=difficult.long()))
        self.images += len(boxes)

    def compute(self) -> COCODetectionResult:
        """The average precisions over all images that were added.

        Raises:
            ValueError: If no image has true boxes.
        """
        check_truth(sum(int((truth["iscrowd"] == 0).sum()) for truth in self._truth), images=self.images)
        metric = _torchmetrics()
        metric.update(self._found, self._truth)
        figures = metric.compute()
        ap = dict.fromkeys(self.class_names, math.nan)
        # With a single class, these tensors have no dimension.
        for label, value in zip(figures["classes"].view(-1).tolist(), figures["map_per_class"].view(-1), strict=True):
            ap[self.class_names[label]] = _share(value)
        keys = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
        return COCODetectionResult(*(_share(figures[key]) for key in keys), ap=ap, images=self.images)

    def merge(self, other: "COCODetection") -> None:
        """Add the images of another metric, which does not change.

        Raises:
            TypeError: If `other` is not a `COCODetection`.
            ValueError: If its classes differ.
        """
        check_merge(self, other, ("class_names",))
        self._found = self._found + other._found
        self._truth = self._truth + other._truth
        self.images += other.images


def _torchmetrics() -> "MeanAveragePrecision":
    packages = "COCO's average precision needs torchmetrics, torchvision or faster-coco-eval"
    with needs(packages, install="pip install 'tadp[detection]'"):
        from torchmetrics.detection import MeanAveragePrecision

        import_module("faster_coco_eval")  # torchmetrics looks for it when it computes
        # One process computes the merged metric; with synchronisation, torchmetrics would wait for other processes.
        metric = MeanAveragePrecision(
            iou_thresholds=_OVERLAPS,
            rec_thresholds=_RECALLS,
            class_metrics=True,
            backend="faster_coco_eval",
            sync_on_compute=False,
        )
    metric.warn_on_many_detections = False  # COCO's rule takes the best 100 per image
    return metric


def _on_cpu(**tensors: Tensor) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _share(value: Tensor) -> float:
    return math.nan if value < 0 else value.item()  # COCO's -1 means that there is nothing to find
