"""What differs between the tasks that can be trained: model, loss, figures, pictures and recipes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from tadp import prompts
from tadp.backbone import TADPBackbone
from tadp.datasets import IGNORE_LABEL, Sample
from tadp.datasets.batch import Batch
from tadp.datasets.readers.named import TaskName
from tadp.drawing import SHORT_PX, box_picture, class_picture, depth_picture
from tadp.drawing.overlays import BACKGROUND
from tadp.heads import DepthHead, DetectionHead, SegmentationHead, SMPSegmentationHead
from tadp.images import to_pil
from tadp.images.boxes import Detections
from tadp.images.reading import ImageLike
from tadp.metrics.depth import DepthMetricsResult
from tadp.metrics.detection import VOCDetectionResult
from tadp.metrics.segmentation import MeanIoUResult
from tadp.metrics.voc_rule import overlaps
from tadp.tasks import (
    PromptMode,
    TADPForDepthEstimation,
    TADPForObjectDetection,
    TADPForSemanticSegmentation,
    TaskModel,
)
from tadp.tasks.predictions import DepthResult, DetectionResult, SegmentationResult, label_of
from tadp.trainer.encoded_data import EncodedBatch
from tadp.trainer.recipes import DEPTH, DETECTION, SEGMENTATION, Recipe
from tadp.trainer.run_data import largest_class, mean_depths
from tadp.trainer.training_batches import Loss

_SCORE, _OVERLAP = 0.5, 0.5  # of the objects in the confusion matrix of a detection model
OF_NAMES: tuple[PromptMode, ...] = ("class_names", "class_embeddings", "averaged_eos")


@dataclass(frozen=True)
class Judgement:
    """How good the prediction of one image is.

    Attributes:
        counts: Confusion matrix of the L labels, (L, L), int64. Rows are true labels, columns are predicted labels.
        score: A score, higher is better; NaN if the image has nothing to compare.
        text: The score in words.
    """

    counts: Int64[np.ndarray, "_l _l"]
    score: float
    text: str


class TrainedTask(ABC):
    """A task that can be trained.

    Attributes:
        name: The task's name.
        recipes: The recipes by name.
        heads: The classes of its heads by the recipe's `head`; "" is that of recipes that do not name one.
        backbone_options: Options of the backbone that differ from the defaults.
        counted: The objects that the confusion matrix counts, in words, where that is not clear; "" otherwise.
        kind: The class of its models.
        watched: The figure that decides which weights are best.
        higher_is_better: Whether a higher figure is better.
    """

    name: ClassVar[TaskName]
    recipes: ClassVar[Mapping[str, Recipe]]
    kind: ClassVar[type[TaskModel]]
    heads: ClassVar[Mapping[str, type]]
    watched: ClassVar[str]
    higher_is_better: ClassVar[bool]
    backbone_options: ClassVar[Mapping[str, Any]] = {}
    counted: ClassVar[str] = ""

    def build(
        self,
        backbone: TADPBackbone,
        data: Any,
        recipe: Recipe,
        *,
        text: PromptMode,
        own_class: bool = False,
        lora_rank: int = 16,
    ) -> TaskModel:
        """Build a model for a data set.

        Args:
            backbone: The backbone.
            data: The training data, with class names.
            recipe: The recipe.
            text: The prompt mode.
            own_class: Whether each image only gets the name of its own class, such as its room; only depth has this.
            lora_rank: Rank of the LoRA, if one is trained.
        """
        options = self.model_options(data, recipe)
        kind: Any = self.kind
        return kind(
            fit_length(backbone, options["prompt_classes"], text),
            prompt_mode=text,
            tune=recipe.tune,
            lora_rank=lora_rank,
            **options,
            **({"own_class": True} if own_class else {}),
            **recipe.model,
        )

    @abstractmethod
    def model_options(self, data: Any, recipe: Recipe) -> dict[str, Any]:
        """The options of a model that depend on the data, and its crop."""

    @abstractmethod
    def loss(self, model: Any) -> Loss:
        """The loss of a model: a function from the model, wrapped by accelerate, and a part to the part's mean loss."""

    def weight(self, batch: Batch) -> float:
        """What the loss of a batch averages over."""
        return len(batch)

    @abstractmethod
    def figures(self, result: Any) -> dict[str, float]:
        """The figures of a metric's result, by name."""

    def drawing_score(self, result: Any) -> float | None:
        """The score above which boxes are best drawn, by a metric's result; None if the task has no boxes."""
        return None

    def remarks(self, result: Any) -> list[str]:
        """What a metric's result says besides the figures, in sentences."""
        return []

    @abstractmethod
    def baselines(self, train: Any, model: Any, *, seed: int) -> dict[str, Callable[[Sample], tuple[Any, Any]]]:
        """Return trivial predictions, with which a model is compared.

        Args:
            train: The training data.
            model: The model with which they are compared.
            seed: Seed of random predictions.

        Returns:
            By the name of the prediction, a function from a sample to the arguments of the metric's `update`.
        """

    @abstractmethod
    def labels(self, model: Any) -> list[str]:
        """The names of the rows and columns of the confusion matrix."""

    @abstractmethod
    def judge(self, sample: Sample, result: Any, model: Any) -> Judgement:
        """Compare the prediction of one image with its labels."""

    @abstractmethod
    def truth(self, sample: Sample, class_names: Sequence[str]) -> Image.Image:
        """The ground truth of a sample, drawn."""

    def row(self, sample: Sample, result: Any, model: Any) -> list[Image.Image]:
        """Image, ground truth and prediction of a sample, drawn."""
        names = getattr(model, "class_names", ())
        return [enlarged(sample.image), self.truth(sample, names), result.plot()]


def prompted(names: Sequence[str], *, background: bool) -> list[str]:
    """The names in the text: those of the classes, with or without "background"."""
    classes = [name for name in names if name != BACKGROUND]
    return [BACKGROUND, *classes] if background else classes


def fit_length(backbone: TADPBackbone, names: Sequence[str], text: PromptMode) -> TADPBackbone:
    """A backbone whose head gets one attention channel per embedding of the text; captions and prompts have 77."""
    makers = {"class_embeddings": prompts.class_embeddings, "averaged_eos": prompts.averaged_eos}
    if text not in makers or not backbone.attach_attention:
        return backbone
    return backbone.with_options(text_length=makers[text](names, backbone).embeddings.shape[1])


def enlarged(image: ImageLike) -> Image.Image:
    """An image, enlarged to the size of the pictures next to it."""
    picture = to_pil(image)
    scale = max(SHORT_PX / min(picture.size), 1)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.NEAREST)


class SegmentationTraining(TrainedTask):
    """Training of `TADPForSemanticSegmentation`."""

    name = "segmentation"
    kind = TADPForSemanticSegmentation
    heads = MappingProxyType({"": SegmentationHead, "smp_fpn": SMPSegmentationHead})
    recipes = SEGMENTATION
    watched, higher_is_better = "mIoU", True

    def model_options(self, data: Any, recipe: Recipe) -> dict[str, Any]:
        names = prompted(data.class_names, background=recipe.background)
        return {"class_names": data.class_names, "prompt_classes": names, "window_px": recipe.crop_px}

    def loss(self, model: TADPForSemanticSegmentation) -> Loss:
        return lambda wrapped, part: wrapped(**part.inputs, masks=part.batch.masks).loss

    def weight(self, batch: Batch) -> float:
        """The number of labelled pixels."""
        return 0 if batch.masks is None else int((batch.masks != IGNORE_LABEL).sum())

    def figures(self, result: MeanIoUResult) -> dict[str, float]:
        return {"mIoU": result.miou, "pixel accuracy": result.pixel_accuracy}

    def baselines(
        self, train: Any, model: TADPForSemanticSegmentation, *, seed: int
    ) -> dict[str, Callable[[Sample], tuple[Any, Any]]]:
        """The class with the most pixels, everywhere."""
        label = largest_class(train, len(model.class_names))

        def constant(sample: Sample) -> tuple[Tensor, Tensor]:
            mask = torch.from_numpy(label_of(sample, "mask"))[None]
            return torch.full_like(mask, label), mask

        return {f"{model.class_names[label]} everywhere": constant}

    def labels(self, model: TADPForSemanticSegmentation) -> list[str]:
        return list(model.class_names)

    def judge(self, sample: Sample, result: SegmentationResult, model: TADPForSemanticSegmentation) -> Judgement:
        """Count pixels; the score is the mean IoU of the image."""
        metric = model.make_metric()
        model.score(metric, result, sample)
        counts = metric.confusion.numpy()
        miou = metric.compute().miou if counts.any() else math.nan
        return Judgement(counts, miou, f"mIoU {100 * miou:.1f} %")

    def truth(self, sample: Sample, class_names: Sequence[str]) -> Image.Image:
        return class_picture(sample.image, torch.from_numpy(label_of(sample, "mask")), class_names)


class DepthTraining(TrainedTask):
    """Training of `TADPForDepthEstimation`."""

    name = "depth"
    kind = TADPForDepthEstimation
    heads = MappingProxyType({"": DepthHead})
    recipes = DEPTH
    watched, higher_is_better = "RMSE (m)", False
    backbone_options = MappingProxyType({"attach_attention": ()})  # as in the paper

    def model_options(self, data: Any, recipe: Recipe) -> dict[str, Any]:
        return {"prompt_classes": getattr(data, "room_names", ()), "window_px": recipe.crop_px}

    def loss(self, model: TADPForDepthEstimation) -> Loss:
        own_class = model.text.own_class

        def loss(wrapped: Callable[..., Any], part: EncodedBatch) -> Tensor:
            inputs = part.inputs | ({"text": part.batch.rooms} if own_class else {})
            return wrapped(**inputs, depth_m=part.batch.depth_m).loss

        return loss

    def figures(self, result: DepthMetricsResult) -> dict[str, float]:
        return {"RMSE (m)": result.rmse, "REL": result.abs_rel, "log10": result.log10, "d1": result.d1}

    def baselines(
        self, train: Any, model: TADPForDepthEstimation, *, seed: int
    ) -> dict[str, Callable[[Sample], tuple[Any, Any]]]:
        """The mean depth everywhere and, if all images have one size, the mean at each pixel."""
        mean, each_pixel = mean_depths(train, farthest_m=model.max_depth_m)

        def fixed(depth_m: Any) -> Callable[[Sample], tuple[Tensor, Tensor]]:
            def predict(sample: Sample) -> tuple[Tensor, Tensor]:
                truth = torch.from_numpy(label_of(sample, "depth_m"))[None]
                return torch.as_tensor(depth_m, dtype=torch.float32).expand_as(truth), truth

            return predict

        predictions = {"mean depth": fixed(mean)}
        return predictions if each_pixel is None else predictions | {"mean of each pixel": fixed(each_pixel)}

    def labels(self, model: TADPForDepthEstimation) -> list[str]:
        edges = ["0", *(f"{edge:.3g}" for edge in _edges(model))]
        return [f"{near} to {far} m" for near, far in pairwise(edges)]

    def judge(self, sample: Sample, result: DepthResult, model: TADPForDepthEstimation) -> Judgement:
        """Count pixels by their range of depth; the score is minus the mean relative error of the image."""
        truth, edges = label_of(sample, "depth_m"), _edges(model)
        known = np.isfinite(truth) & (truth > 0) & (truth < model.max_depth_m)
        true, predicted = truth[known], result.depth_m.numpy()[known].clip(max=model.max_depth_m)
        rows, columns = (np.searchsorted(edges, depth).clip(max=len(edges) - 1) for depth in (true, predicted))
        counts = np.bincount(rows * len(edges) + columns, minlength=len(edges) ** 2).reshape(len(edges), -1)
        error = float((np.abs(predicted - true) / true).mean()) if len(true) else math.nan
        return Judgement(counts.astype(np.int64), -error, f"REL {error:.3f}")

    def truth(self, sample: Sample, class_names: Sequence[str]) -> Image.Image:
        return depth_picture(torch.from_numpy(label_of(sample, "depth_m")))


def _edges(model: TADPForDepthEstimation) -> list[float]:
    """The upper ends of the ranges of depth in the confusion matrix, each twice as far as the one before."""
    return [model.max_depth_m / 2**power for power in (4, 3, 2, 1, 0)]


class DetectionTraining(TrainedTask):
    """Training of `TADPForObjectDetection`."""

    name = "detection"
    kind = TADPForObjectDetection
    heads = MappingProxyType({"": DetectionHead})
    recipes = DETECTION
    watched, higher_is_better = "mAP50", True
    counted = (
        f" Predictions with a score above {_SCORE:g} count; one that covers an object has an overlap (IoU) of at least "
        f"{_OVERLAP:g} with it. The count of the row 'nothing' is that of false boxes, which cover no object; the "
        "column 'nothing' has missed objects."
    )

    def model_options(self, data: Any, recipe: Recipe) -> dict[str, Any]:
        names = prompted(data.box_class_names, background=recipe.background)
        return {"class_names": data.box_class_names, "prompt_classes": names, "image_px": recipe.crop_px}

    def loss(self, model: TADPForObjectDetection) -> Loss:
        return lambda wrapped, part: wrapped(**part.inputs, boxes=part.batch.boxes).loss

    def figures(self, result: VOCDetectionResult) -> dict[str, float]:
        return {"mAP50": result.map50}

    def drawing_score(self, result: VOCDetectionResult) -> float:
        return result.best.score

    def remarks(self, result: VOCDetectionResult) -> list[str]:
        """How good the drawn boxes are, at the usual score and at the best one."""
        per_image = result.drawn.wrong / result.images
        return [
            f"Boxes {result.drawn}, which is {per_image:.1f} false boxes per image.",
            f"The best F1 on these images has boxes {result.best}. Without --score, tadp predict draws the boxes above "
            "this score.",
        ]

    def baselines(
        self, train: Any, model: TADPForObjectDetection, *, seed: int
    ) -> dict[str, Callable[[Sample], tuple[Any, Any]]]:
        """The boxes of a random training image, with random confidences."""
        generator = torch.Generator().manual_seed(seed)

        def of_random_image(sample: Sample) -> tuple[list[Any], list[Any]]:
            boxes = label_of(train[int(torch.randint(len(train), (), generator=generator))], "boxes")
            predicted = Detections(boxes.boxes, boxes.labels, torch.rand(len(boxes), generator=generator))
            return [predicted], [label_of(sample, "boxes")]

        return {"boxes of a random image": of_random_image}

    def labels(self, model: TADPForObjectDetection) -> list[str]:
        return [*model.class_names, "nothing"]

    def judge(self, sample: Sample, result: DetectionResult, model: TADPForObjectDetection) -> Judgement:
        """Count objects of a score above 0.5 and an overlap of at least 0.5; the image's score is their F1."""
        truth, found = label_of(sample, "boxes"), result.above(_SCORE)
        none = len(model.class_names)
        counts = np.zeros((none + 1, none + 1), np.int64)
        overlap = overlaps(found.boxes.double().numpy(), truth.boxes.double().numpy(), inclusive_edges=False)
        left = set(range(len(truth)))
        for number in range(len(found)):  # the highest score first
            best = max(left, key=lambda place: overlap[number, place], default=None)
            matches = best is not None and overlap[number, best] >= _OVERLAP
            counts[int(truth.labels[best]) if matches else none, int(found.labels[number])] += 1
            left -= {best} if matches else set()
        for place in left:
            counts[int(truth.labels[place]), none] += 1
        total = len(truth) + len(found)
        f1 = 2 * int(np.trace(counts)) / total if total else 1.0
        return Judgement(counts, f1, f"F1 {f1:.2f}")

    def truth(self, sample: Sample, class_names: Sequence[str]) -> Image.Image:
        return box_picture(sample.image, label_of(sample, "boxes"), class_names)
