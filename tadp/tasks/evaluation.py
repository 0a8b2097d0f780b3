"""Measure a task model on a data set."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

from tqdm import tqdm

from tadp.datasets.sample import Sample
from tadp.errors import ImageError
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
    progress: bool = False,
    **options: Any,
) -> Any:
    """Predict each sample at its own size and compare the prediction with the labels.

    Args:
        model: A task model.
        samples: A data set with labels for the model's task.
        captions: Where captions come from, if the model's prompt mode is "captions". "data" uses a sample's own
            caption, or the captioner if the sample has none; "captioner" always uses the captioner. A model with
            `own_class` takes the class of each image from the sample; see `ModelText.of_sample`.
        metric: The metric to which the results are added; None creates one with `model.make_metric()`.
        on_sample: A function that is called after each sample with the sample and its result, for example to show
            pictures or save results. None calls nothing.
        progress: Whether to show a progress bar.
        **options: Options of the model's `predict`, such as `window_px` or `flip`.

    Returns:
        The result of the metric; `print` shows it as a table.

    Raises:
        ValueError: If a sample has no labels for the model's task.
        CaptionError: If the prompt mode is "captions", a sample has no caption, and the model has no captioner; or if
            the class of a sample is needed and not known.

    Example:
        >>> import tadp
        >>> from tadp.datasets import RenderedScenes
        >>> scenes = RenderedScenes(2, seed=9)
        >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
        >>> model = tadp.TADPForSemanticSegmentation(backbone, class_names=scenes.class_names, window_px=128)
        >>> 0 <= evaluate(model, scenes).miou <= 1
        True
    """
    metric_to_fill: Any = model.make_metric() if metric is None else metric
    check_choice(captions, get_args(CaptionSource), name="captions")
    for sample in tqdm(samples, desc="evaluating", unit="image", disable=not progress):
        caption = model.text.of_sample(sample) if captions == "data" or model.text.own_class else None
        try:
            result = model.predict(sample.image, caption, **options)
        except ImageError as error:
            raise ImageError(f"{sample.image_id}: ", *error.args) from error
        model.score(metric_to_fill, result, sample)
        if on_sample is not None:
            on_sample(sample, result)
    return metric_to_fill.compute()
