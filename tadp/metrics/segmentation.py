"""Mean intersection over union, updated batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from tadp.files.checks import check_classes, check_ignore_label, check_whole
from tadp.metrics.per_class import check_merge, class_table, percent, to_maps


@dataclass(frozen=True, repr=False)
class MeanIoUResult:
    """Figures of a segmentation over all labelled pixels of a data set, in [0, 1]. `print(result)` shows a table.

    Attributes:
        miou: Mean of `iou` over the classes that occur in the predictions or in the true masks.
        iou: Intersection over union of each class, by name; nan for a class that occurs in neither.
        accuracy: For each class, by name, the share of its true pixels that are predicted as that class; nan for a
            class that does not occur in the true masks.
        pixel_accuracy: Share of all labelled pixels whose predicted class is right.
        mean_accuracy: Mean of `accuracy` over the classes that occur in the true masks.
        pixels: Number of labelled pixels.
    """

    miou: float
    iou: dict[str, float]
    accuracy: dict[str, float]
    pixel_accuracy: float
    mean_accuracy: float
    pixels: int

    def __repr__(self) -> str:
        return (
            f"MeanIoUResult(miou={self.miou:.4f}, pixel_accuracy={self.pixel_accuracy:.4f}, "
            f"mean_accuracy={self.mean_accuracy:.4f}, {len(self.iou)} classes, {self.pixels} pixels)"
        )

    def __str__(self) -> str:
        return (
            f"mIoU {percent(self.miou)} %, pixel accuracy {percent(self.pixel_accuracy)} %, "
            f"mean accuracy {percent(self.mean_accuracy)} %, {self.pixels:,} pixels\n"
            + class_table({"IoU": self.iou, "acc": self.accuracy})
        )


class MeanIoU:
    """Mean intersection over union of predicted and true class maps, over a data set.

    Pixels are counted over all images together, as integers. The mean is over the classes that occur in the predictions
    or in the true masks. So a class that a small data set lacks does not count, but a class that is predicted and never
    occurs counts as 0.

    Args:
        classes: Names of the K classes in the order of their labels, or their number K, which names them "0", "1", ….
            Labels are 0 to K - 1, including background if it is a class.
        ignore_label: Label of pixels that are not counted, whatever is predicted there; 255 by default. It must not be
            one of 0 to K - 1.

    Attributes:
        class_names: Names of the K classes.
        confusion: Number of pixels of the row's true class that were predicted as the column's class, (K, K), int64, on
            the CPU.
        images: Number of images that were counted.

    Raises:
        TypeError: If `classes` is a single string.
        ValueError: If `classes` is empty, two classes have the same name, or `ignore_label` is the label of a class.

    Source:
        mmsegmentation's mIoU, aAcc and mAcc, which average with `nanmean`. The paper's released code evaluates with it.

    Example:
        >>> metric = MeanIoU(["ground", "dog", "cat"])
        >>> metric.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 0, 255]]))
        >>> print(metric.compute())
        mIoU 33.33 %, pixel accuracy 66.67 %, mean accuracy 66.67 %, 3 pixels
        class       IoU      acc
        ground    66.67    66.67
        dog        0.00        -
        cat           -        -
    """

    def __init__(self, classes: int | Sequence[str], *, ignore_label: int = 255):
        is_named = isinstance(classes, Sequence)
        names = check_classes(classes, name="classes") if is_named else range(check_whole(classes, name="classes"))
        self.class_names = tuple(map(str, names))
        self.ignore_label = check_ignore_label(ignore_label, len(self.class_names))
        self.confusion = torch.zeros(len(self.class_names), len(self.class_names), dtype=torch.int64)
        self.images = 0

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)

    def update(
        self,
        predictions: Float[Tensor | np.ndarray, "*b k h w"] | Integer[Tensor | np.ndarray, "*b h w"],
        masks: Integer[Tensor | np.ndarray, "*b h w"],
    ) -> None:
        """Count the pixels of a batch of images, or of a single image.

        Args:
            predictions: Logits or probabilities, (B, K, H, W) or (K, H, W), of which the class with the highest value
                is the prediction; or predicted classes, (B, H, W) or (H, W), 0 to K - 1. A tensor or an array.
            masks: The true class of each pixel, (B, H, W) or (H, W), 0 to K - 1, or `ignore_label`. A tensor or an
                array.

        Raises:
            TypeError: If `masks` does not contain integers, or an argument is neither a tensor nor an array.
            ValueError: If sizes differ, if logits are NaN or have another number of classes, or if a label or a
                prediction at a counted pixel is not from 0 to K - 1. Nothing is counted in this case.
        """
        predictions, masks = to_maps(predictions, name="predictions"), to_maps(masks, name="masks")
        if masks.ndim == 2:
            predictions, masks = predictions[None], masks[None]
        classes = self._class_maps(predictions)
        if masks.is_floating_point() or masks.is_complex() or masks.dtype == torch.bool:
            raise TypeError(f"masks must be integers (B, H, W); got {masks.dtype}. Convert them with .long().")
        if classes.shape != masks.shape:
            raise ValueError(
                f"predictions and masks must have the same size; got {_size(classes)} and {_size(masks)}. Resize the "
                "logits to the masks' size, not the masks."
            )
        truth = masks.to(classes.device, torch.int64)
        counted = truth != self.ignore_label
        self._check_labels(truth, counted, what="mask", hint=f" or {self.ignore_label} (ignored)")
        self._check_labels(classes, counted, what="prediction", hint="")
        pairs = truth[counted] * self.num_classes + classes[counted]
        self.confusion += torch.bincount(pairs, minlength=self.num_classes**2).view_as(self.confusion).cpu()
        self.images += len(masks)

    def compute(self) -> MeanIoUResult:
        """The figures over all pixels that were counted.

        Raises:
            ValueError: If no pixel was counted.
        """
        right = self.confusion.diagonal().double()
        true, predicted = self.confusion.sum(1).double(), self.confusion.sum(0).double()
        total = int(self.confusion.sum())
        if not total:
            raise ValueError(
                f"no pixel was counted: all pixels of the {self.images} images so far have the ignored label "
                f"{self.ignore_label}. Call update() with labelled images before compute()."
            )
        iou, accuracy = right / (true + predicted - right), right / true  # 0 / 0 is nan
        return MeanIoUResult(
            miou=iou.nanmean().item(),
            iou=dict(zip(self.class_names, iou.tolist(), strict=True)),
            accuracy=dict(zip(self.class_names, accuracy.tolist(), strict=True)),
            pixel_accuracy=right.sum().item() / total,
            mean_accuracy=accuracy.nanmean().item(),
            pixels=total,
        )

    def merge(self, other: "MeanIoU") -> None:
        """Add the counts of another metric, which does not change.

        Raises:
            TypeError: If `other` is not a `MeanIoU`.
            ValueError: If its classes or its ignored label differ.
        """
        check_merge(self, other, ("class_names", "ignore_label"))
        self.confusion = self.confusion + other.confusion
        self.images += other.images

    def _class_maps(self, predictions: Tensor) -> Tensor:
        if predictions.is_floating_point() and predictions.ndim == 4:
            if predictions.shape[1] != self.num_classes:
                raise ValueError(
                    f"logits (B, K, H, W) must have one channel per class; got {predictions.shape[1]} channels for "
                    f"{self.num_classes} classes."
                )
            classes = predictions.argmax(dim=1)
            # The maximum of values with a NaN is NaN, so there is no need to check every channel.
            greatest = predictions.gather(1, classes[:, None])[:, 0]
            if greatest.isnan().any():
                index = int(greatest.isnan().nonzero()[0, 0])
                raise ValueError(f"logits must not be NaN; those of image {index} of the batch contain NaN.")
            return classes
        if predictions.is_floating_point() or predictions.dtype == torch.bool or predictions.ndim != 3:
            raise ValueError(
                "predictions must be float logits (B, K, H, W) or integer class maps (B, H, W); got "
                f"{predictions.dtype} {tuple(predictions.shape)}. For a single image, leave out B in both arguments."
            )
        return predictions.long()

    def _check_labels(self, labels: Tensor, counted: Tensor, *, what: str, hint: str) -> None:
        wrong = counted & ((labels < 0) | (labels >= self.num_classes))
        if wrong.any():
            image, row, column = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"{what} {image} of the batch has label {labels[image, row, column].item()} at row {row}, column "
                f"{column}; the labels of {self.num_classes} classes must be 0 to {self.num_classes - 1}{hint}. Map "
                "labels to classes first, or pass other classes or another ignore_label."
            )


def _size(maps: Tensor) -> str:
    return f"{len(maps)} of {'x'.join(map(str, maps.shape[1:]))}"
