"""Training of depth models."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.datasets import Sample
from tadp.drawing import depth_picture
from tadp.metrics.depth import DepthMetricsResult
from tadp.tasks import PromptMode, TADPForDepthEstimation
from tadp.tasks.predictions import DepthResult, label_of
from tadp.trainer.captioned_data import mean_depths
from tadp.trainer.epoch_parts import Loss, Part
from tadp.trainer.recipes import DEPTH, Recipe
from tadp.trainer.trained_task import Judgement, TrainedTask


class DepthTraining(TrainedTask):
    """Training of `TADPForDepthEstimation`."""

    name = "depth"
    kind = TADPForDepthEstimation
    recipes = DEPTH
    watched, higher_is_better = "RMSE (m)", False
    backbone_options = MappingProxyType({"attach_attention": ()})  # as in the paper

    def build(
        self,
        backbone: TADPBackbone,
        data: Any,
        recipe: Recipe,
        *,
        text: PromptMode,
        own_class: bool = False,
        lora_rank: int = 16,
    ) -> TADPForDepthEstimation:
        return TADPForDepthEstimation(
            backbone,
            prompt_mode=text,
            prompt_classes=getattr(data, "room_names", ()),
            own_class=own_class,
            tune=recipe.tune,
            lora_rank=lora_rank,
            window_px=recipe.crop_px,
            **recipe.model,
        )

    def loss(self, model: TADPForDepthEstimation) -> Loss:
        own_class = model.text.own_class

        def loss(wrapped: Callable[..., Any], part: Part) -> Tensor:
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
