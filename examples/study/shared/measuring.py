"""The figures of a trained model on the images that were held out."""

from typing import Any

import torch

from tadp.metrics import DepthMetrics, MeanIoU
from tadp.text.conditioning import Conditioning

from .images import MAX_DEPTH_M, Images
from .looking import Look, in_parts
from .sizes import RegionSizes


def measure(model: Any, looked: Look) -> dict[str, float]:
    """Mean IoU, or errors of depth, by name."""
    half, task = looked.study.halves["test"], looked.study.task
    metric, sizes = _metric(half), RegionSizes(half.class_names)
    model.eval()
    with torch.no_grad():
        if half.is_rendered:
            for rows in in_parts(len(half)):
                seen, truth = looked.at("test", rows)
                out = model.from_features(seen)
                metric.update((out.logits if task == "segmentation" else out.depth_m).cpu(), truth.cpu())
                if task == "segmentation":
                    for one, mask in zip(out.logits.argmax(1).cpu().numpy(), truth.cpu().numpy(), strict=True):
                        sizes.update(one, mask)
        else:
            for number in range(len(half)):
                sample, text = half.samples[number], looked.said["test"].of([number])
                result = model.predict(sample.image, text if isinstance(text, Conditioning) else text[0])
                out = result.class_map if task == "segmentation" else result.depth_m
                metric.update(out[None].cpu(), torch.from_numpy(half.truth(sample))[None])
                if task == "segmentation":
                    sizes.update(out.cpu().numpy(), half.truth(sample))
    found = metric.compute()
    if task == "segmentation":
        return {"mIoU": found.miou, "pixel accuracy": found.pixel_accuracy} | sizes.compute()
    names = {"RMSE": "rmse", "d1": "d1", "d2": "d2", "d3": "d3", "REL": "abs_rel", "log10": "log10"}
    return {name: getattr(found, attribute) for name, attribute in names.items()}


def _metric(half: Images) -> Any:
    if half.task == "segmentation":
        return MeanIoU(len(half.class_names), class_names=half.class_names)
    crop = "eigen" if half.settings.data == "nyu" else None
    return DepthMetrics(max_depth_m=MAX_DEPTH_M[half.settings.data], crop=crop)
