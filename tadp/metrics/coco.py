"""Average precision of detections by COCO's rule, through torchmetrics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tadp.files.checks import check_classes, needs
from tadp.images.boxes import Boxes, Detections
from tadp.metrics.per_class import check_images, check_merge, check_truth, class_table, percent

if TYPE_CHECKING:
    from torchmetrics.detection import MeanAveragePrecision

_KEYS = ("map", "map50", "map75", "map_small", "map_medium", "map_large")


@dataclass(frozen=True, repr=False)
class COCODetectionResult:
    """Average precision by COCO's rule; shares in [0, 1], nan where there is nothing to find. `print` gives a table.

    Attributes:
        map: The mean over classes, and over the overlaps 0.5, 0.55 … 0.95: what papers call AP.
        map50: At an overlap of 0.5.
        map75: At an overlap of 0.75.
        map_small: As `map`, for objects under 32² pixels. An object's area here is that of its box; in COCO's own
            files it is that of its mask.
        map_medium: From 32² to 96² pixels.
        map_large: From 96² pixels.
        ap: For each class, the mean over the overlaps; nan for one that has no true box.
        images: How many images were fed.
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
    """Average precision by COCO's rule: ten overlaps, 101 recalls, at most 100 detections an image.

    The rule is that of pycocotools, run by torchmetrics on faster-coco-eval. COCO knows no `difficult` boxes; here they
    are its crowds: they need not be found, and a detection on one is neither right nor wrong, its overlap being the
    share of the detection that lies inside.

    Kept are the boxes, labels and scores, on the CPU; all work is done by `compute`, in the process that calls it.

    Args:
        class_names: What labels stand for, 0 the first; background is none of them.

    Attributes:
        images: How many images were fed.

    Raises:
        MissingExtraError: If torchmetrics, torchvision or faster-coco-eval is not installed:
            pip install 'tadp[detection]'.
        TypeError: If the names are a single string.
        ValueError: If a name is there twice.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> found = Detections(box + 1, torch.tensor([1]), torch.tensor([0.9]))
        >>> metric = COCODetection(["cat", "dog"])
        >>> metric.update([found], [Boxes(box, torch.tensor([1]))])
        >>> print(metric.compute())
        AP 40.00, AP50 100.00, AP75 0.00, small 40.00, medium -, large - (%), images: 1
        class       AP
        cat          -
        dog      40.00
    """

    def __init__(self, class_names: Sequence[str]):
        self.class_names = tuple(check_classes(class_names))
        self.images = 0
        self._found: list[dict[str, Tensor]] = []
        self._truth: list[dict[str, Tensor]] = []
        _torchmetrics()  # what is missing is said before hours of inference

    def update(self, detections: Sequence[Detections], boxes: Sequence[Boxes]) -> None:
        """Keep a batch.

        Args:
            detections: What was found, one an image; an image where nothing was found has an empty one.
            boxes: The truth, one an image, in the same order.

        Raises:
            TypeError: If they are no lists of `Detections` and `Boxes`.
            ValueError: If they are not equally many, or a label is none of the classes. Nothing is kept then.
        """
        check_images(detections, boxes, self.class_names)
        for found, truth in zip(detections, boxes, strict=True):
            difficult = torch.zeros_like(truth.labels) if truth.difficult is None else truth.difficult
            self._found.append(_on_cpu(boxes=found.boxes.float(), labels=found.labels, scores=found.scores.float()))
            self._truth.append(_on_cpu(boxes=truth.boxes.float(), labels=truth.labels, iscrowd=difficult.long()))
        self.images += len(boxes)

    def compute(self) -> COCODetectionResult:
        """The average precisions of all that was fed.

        Raises:
            ValueError: If there was no true box to find.
        """
        check_truth(sum(int((one["iscrowd"] == 0).sum()) for one in self._truth), images=self.images)
        metric = _torchmetrics()
        metric.update(self._found, self._truth)
        found = metric.compute()
        ap = dict.fromkeys(self.class_names, math.nan)
        # Without a dimension if there is one class.
        for label, value in zip(found["classes"].view(-1).tolist(), found["map_per_class"].view(-1), strict=True):
            ap[self.class_names[label]] = _share(value)
        keys = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
        return COCODetectionResult(*(_share(found[key]) for key in keys), ap=ap, images=self.images)

    def merge(self, other: "COCODetection") -> None:
        """Add what another has kept, which stays as it is.

        Raises:
            TypeError: If it is another metric.
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
        # One process computes what was merged; torchmetrics would wait for the others.
        metric = MeanAveragePrecision(class_metrics=True, backend="faster_coco_eval", sync_on_compute=False)
    metric.warn_on_many_detections = False  # more than 100 an image: COCO's rule takes the best 100
    return metric


def _on_cpu(**tensors: Tensor) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _share(value: Tensor) -> float:
    return math.nan if value < 0 else value.item()  # COCO's -1: nothing to find
