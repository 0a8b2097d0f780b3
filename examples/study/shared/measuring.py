"""The figures of a trained model on the held-out images."""

import time
from collections.abc import Iterable
from typing import Any

import torch
from tqdm import tqdm

from tadp.metrics import DepthMetrics, MeanIoU
from tadp.text.conditioning import Conditioning

from .images import MAX_DEPTH_M, Images
from .looking import HeadInputs, in_parts
from .sizes import RegionSizes

MULTI_SCALE = "multi-scale mIoU"  # the name of the figure
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the paper's


def measure(model: Any, inputs: HeadInputs) -> dict[str, float]:
    """The metrics of the task, by name."""
    half, task = inputs.study.halves["test"], inputs.study.task
    metric, sizes = _metric(half), RegionSizes(half.class_names)
    model.eval()
    with torch.no_grad():
        if half.is_rendered:
            for rows in in_parts(len(half)):
                features, truth = inputs.of("test", rows)
                out = model.from_features(features)
                metric.update((out.logits if task == "segmentation" else out.depth_m).cpu(), truth.cpu())
                if task == "segmentation":
                    for class_map, mask in zip(out.logits.argmax(1).cpu().numpy(), truth.cpu().numpy(), strict=True):
                        sizes.update(class_map, mask)
        else:
            for number in range(len(half)):
                sample, text = half.samples[number], inputs.texts["test"].of([number])
                result = model.predict(sample.image, text if isinstance(text, Conditioning) else text[0])
                out = result.class_map if task == "segmentation" else result.depth_m
                metric.update(out[None].cpu(), torch.from_numpy(half.truth(sample))[None])
                if task == "segmentation":
                    sizes.update(out.cpu().numpy(), half.truth(sample))
    result = metric.compute()
    if task == "segmentation":
        figures = {"mIoU": result.miou, "pixel accuracy": result.pixel_accuracy} | sizes.compute()
        if inputs.run.is_multi_scale:
            figures[MULTI_SCALE] = multi_scale_miou(model, inputs, range(len(half)))
            figures["multi-scale gain"] = figures[MULTI_SCALE] - result.miou
        return figures
    names = {"RMSE": "rmse", "d1": "d1", "d2": "d2", "d3": "d3", "REL": "abs_rel", "log10": "log10"}
    return {name: getattr(result, attribute) for name, attribute in names.items()}


@torch.no_grad()
def multi_scale_miou(model: Any, inputs: HeadInputs, numbers: Iterable[int]) -> float:
    """The mIoU of the mean probabilities at six scales, of each image and of its mirror image."""
    half = inputs.study.halves["test"]
    metric = _metric(half)
    for number in tqdm(numbers, desc="six scales", leave=False):
        sample, text = half.samples[number], inputs.texts["test"].of([number])
        text = text if isinstance(text, Conditioning) else text[0]
        result = model.predict(sample.image, text, scales=SCALES, flip=True)
        metric.update(result.class_map[None].cpu(), torch.from_numpy(half.truth(sample))[None])
    return metric.compute().miou


def seconds_to_measure(model: Any, inputs: HeadInputs) -> float:
    """How long the test at several scales takes, from its second image; 0 without such a test."""
    if not inputs.run.is_multi_scale:
        return 0.0
    model.eval()
    multi_scale_miou(model, inputs, [0])
    started = time.perf_counter()
    multi_scale_miou(model, inputs, [0])
    return (time.perf_counter() - started) * len(inputs.study.halves["test"])


def _metric(half: Images) -> Any:
    if half.task == "segmentation":
        return MeanIoU(half.class_names)
    crop = "eigen" if half.settings.data == "nyu" else None
    return DepthMetrics(max_depth_m=MAX_DEPTH_M[half.settings.data], crop=crop)
