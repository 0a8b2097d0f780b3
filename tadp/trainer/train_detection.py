"""Training of detection models. Needs the extra `detection`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from tadp.backbone import TADPBackbone
from tadp.datasets import Sample
from tadp.drawing import box_picture
from tadp.images.boxes import Detections
from tadp.metrics.detection import VOCDetectionResult
from tadp.tasks import PromptMode, TADPForObjectDetection
from tadp.tasks.predictions import label_of
from tadp.trainer.epoch_parts import Loss
from tadp.trainer.recipes import DETECTION, Recipe
from tadp.trainer.trained_task import TrainedTask, fit_length, prompted


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

    def truth(self, sample: Sample, class_names: Sequence[str]) -> Image.Image:
        return box_picture(sample.image, label_of(sample, "boxes"), class_names)
