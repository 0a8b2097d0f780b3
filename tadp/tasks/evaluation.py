"""Measure a task model on a data set."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import torch

from tadp.datasets.sample import Sample
from tadp.metrics import COCODetection, DepthMetrics, MeanIoU, VOCDetection
from tadp.tasks.base import TaskModel
from tadp.tasks.depth import TADPForDepthEstimation
from tadp.tasks.detection import TADPForObjectDetection
from tadp.tasks.segmentation import TADPForSemanticSegmentation

CaptionSource = Literal["data", "captioner"]
Metric = MeanIoU | DepthMetrics | VOCDetection | COCODetection


def evaluate(
    model: TaskModel,
    samples: Iterable[Sample],
    *,
    captions: CaptionSource = "data",
    metric: Metric | None = None,
    on_sample: Callable[[Sample, Any], None] | None = None,
    **options: Any,
) -> Any:
    """Predict each sample in its own size and compare.

    Args:
        model: One of the three task models.
        samples: A data set, with the labels of the model's task.
        captions: Where a model that wants captions has them from: "data", the samples' own, and the captioner's for
            those without; or "captioner", whatever the samples say.
        metric: By default `default_metric(model)`. One that has counted already goes on counting.
        on_sample: Called after each sample with it and its result, to show progress or keep pictures.
        **options: The model's `predict`'s own: windows, scales, flip.

    Returns:
        What the metric computes; `print` shows it as a table.

    Raises:
        ValueError: If a sample lacks the labels.
        CaptionError: If a sample has no caption and the model no captioner.

    Example:
        >>> import tadp
        >>> from tadp.datasets import RenderedScenes
        >>> scenes = RenderedScenes(2, seed=9)
        >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
        >>> model = tadp.TADPForSemanticSegmentation(backbone, class_names=scenes.class_names, window_px=128)
        >>> 0 <= evaluate(model, scenes).miou <= 1
        True
    """
    metric = default_metric(model) if metric is None else metric
    if captions not in get_args(CaptionSource):
        raise ValueError(f"captions is one of {', '.join(get_args(CaptionSource))}; got {captions!r}.")
    said = model.prompt_mode == "captions" and captions == "data"
    for sample in samples:
        result = model.predict(sample.image, sample.caption if said else None, **options)
        _update(model, metric, result, sample)
        if on_sample is not None:
            on_sample(sample, result)
    return metric.compute()


def default_metric(model: TaskModel) -> Metric:
    """The paper's: mean IoU, the depth figures, or VOC's average precision.

    Raises:
        TypeError: If it is no task model.
    """
    if isinstance(model, TADPForSemanticSegmentation):
        return MeanIoU(len(model.class_names), ignore_label=model.ignore_label, class_names=model.class_names)
    if isinstance(model, TADPForDepthEstimation):
        return DepthMetrics(max_depth_m=model.max_depth_m)
    if isinstance(model, TADPForObjectDetection):
        return VOCDetection(model.class_names)
    raise TypeError(f"a task model is measured; got {type(model).__name__}.")


def _update(model: TaskModel, metric: Any, result: Any, sample: Sample) -> None:
    """Count one prediction."""
    if isinstance(model, TADPForSemanticSegmentation):
        metric.update(result.class_map[None], torch.from_numpy(_label(sample, "mask"))[None])
    elif isinstance(model, TADPForDepthEstimation):
        metric.update(result.depth_m[None], torch.from_numpy(_label(sample, "depth_m"))[None])
    else:
        metric.update([result.detections], [_label(sample, "boxes")])


def _label(sample: Sample, name: str) -> Any:
    label = getattr(sample, name)
    if label is None:
        raise ValueError(f"sample {sample.image_id!r} has no {name}; evaluate on a data set that has it.")
    return label
