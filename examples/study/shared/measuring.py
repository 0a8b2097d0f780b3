"""The figures of a trained model on the held-out images."""

from typing import Any

import torch

from tadp.metrics import DepthMetrics, MeanIoU
from tadp.text.conditioning import Conditioning

from .images import MAX_DEPTH_M, Images
from .looking import HeadInputs, in_parts
from .sizes import RegionSizes


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
        return {"mIoU": result.miou, "pixel accuracy": result.pixel_accuracy} | sizes.compute()
    names = {"RMSE": "rmse", "d1": "d1", "d2": "d2", "d3": "d3", "REL": "abs_rel", "log10": "log10"}
    return {name: getattr(result, attribute) for name, attribute in names.items()}


def _metric(half: Images) -> Any:
    if half.task == "segmentation":
        return MeanIoU(len(half.class_names), class_names=half.class_names)
    crop = "eigen" if half.settings.data == "nyu" else None
    return DepthMetrics(max_depth_m=MAX_DEPTH_M[half.settings.data], crop=crop)
