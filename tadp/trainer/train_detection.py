"""Training of detection models. Needs the extra `detection`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from tadp.backbone import TADPBackbone
from tadp.datasets import Sample
from tadp.drawing import box_picture
from tadp.images.boxes import Detections
from tadp.metrics.detection import VOCDetectionResult
from tadp.metrics.voc_rule import overlaps
from tadp.tasks import PromptMode, TADPForObjectDetection
from tadp.tasks.predictions import DetectionResult, label_of
from tadp.trainer.epoch_parts import Loss
from tadp.trainer.recipes import DETECTION, Recipe
from tadp.trainer.trained_task import Judgement, TrainedTask, fit_length, prompted

_SCORE, _OVERLAP = 0.5, 0.5  # of the objects in the confusion matrix


class DetectionTraining(TrainedTask):
    """Training of `TADPForObjectDetection`."""

    name = "detection"
    kind = TADPForObjectDetection
    recipes = DETECTION
    watched, higher_is_better = "mAP50", True

    def build(
        self,
        backbone: TADPBackbone,
        data: Any,
        recipe: Recipe,
        *,
        text: PromptMode,
        own_class: bool = False,
        lora_rank: int = 16,
    ) -> TADPForObjectDetection:
        names = prompted(data.box_class_names, background=recipe.background)
        return TADPForObjectDetection(
            fit_length(backbone, names, text),
            class_names=data.box_class_names,
            prompt_mode=text,
            prompt_classes=names,
            tune=recipe.tune,
            lora_rank=lora_rank,
            image_px=recipe.crop_px,
            **recipe.model,
        )

    def loss(self, model: TADPForObjectDetection) -> Loss:
        return lambda wrapped, part: wrapped(**part.inputs, boxes=part.batch.boxes).loss

    def figures(self, result: VOCDetectionResult) -> dict[str, float]:
        return {"mAP50": result.map50}

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
