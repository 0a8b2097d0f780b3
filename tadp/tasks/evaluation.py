"""Measure a task model on a data set."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

from tadp.datasets.sample import Sample
from tadp.files.checks import check_choice
from tadp.metrics import COCODetection, DepthMetrics, MeanIoU, VOCDetection
from tadp.tasks.base import TaskModel

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
        model: A task model.
        samples: A data set, with the labels of the model's task.
        captions: Where a model that takes captions gets them from: "data" takes the samples' own, and the captioner's
            for those without; "captioner" always takes the captioner's.
        metric: The metric to fill; None is a new one, `model.make_metric()`. One that has counted already goes on
            counting.
        on_sample: Called after each sample with it and its result, to show progress or keep pictures.
        **options: Options of the model's `predict`: windows, scales, flip.

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
    counted: Any = model.make_metric() if metric is None else metric
    check_choice(captions, get_args(CaptionSource), name="captions")
    takes_caption = model.prompt_mode == "captions" and captions == "data"
    for sample in samples:
        result = model.predict(sample.image, sample.caption if takes_caption else None, **options)
        model.score(counted, result, sample)
        if on_sample is not None:
            on_sample(sample, result)
    return counted.compute()
