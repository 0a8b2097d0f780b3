"""Training of segmentation models."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.datasets import IGNORE_LABEL, Sample
from tadp.datasets.batch import Batch
from tadp.drawing import class_picture
from tadp.metrics.segmentation import MeanIoUResult
from tadp.tasks import PromptMode, TADPForSemanticSegmentation
from tadp.tasks.predictions import SegmentationResult, label_of
from tadp.trainer.captioned_data import largest_class
from tadp.trainer.epoch_parts import Loss
from tadp.trainer.recipes import SEGMENTATION, Recipe
from tadp.trainer.trained_task import Judgement, TrainedTask, fit_length, prompted


class SegmentationTraining(TrainedTask):
    """Training of `TADPForSemanticSegmentation`."""

    name = "segmentation"
    kind = TADPForSemanticSegmentation
    recipes = SEGMENTATION
    watched, higher_is_better = "mIoU", True

    def build(
        self,
        backbone: TADPBackbone,
        data: Any,
        recipe: Recipe,
        *,
        text: PromptMode,
        own_class: bool = False,
        lora_rank: int = 16,
    ) -> TADPForSemanticSegmentation:
        names = prompted(data.class_names, background=recipe.background)
        return TADPForSemanticSegmentation(
            fit_length(backbone, names, text),
            class_names=data.class_names,
            prompt_mode=text,
            prompt_classes=names,
            tune=recipe.tune,
            lora_rank=lora_rank,
            window_px=recipe.crop_px,
            **recipe.model,
        )

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
