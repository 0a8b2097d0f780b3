"""Measure a task model on a data set."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from typing import Any, Literal, TypeVar, get_args

from tqdm import tqdm

from tadp.datasets.sample import Sample
from tadp.errors import ImageError
from tadp.files.checks import check_choice, check_whole
from tadp.files.inference import in_evaluation
from tadp.images.batches import Batches
from tadp.images.reading import ImageLike
from tadp.metrics import COCODetection, DepthMetrics, MeanIoU, VOCDetection
from tadp.tasks.base import Finish, TaskModel

CaptionSource = Literal["data", "captioner"]
Metric = MeanIoU | DepthMetrics | VOCDetection | COCODetection
Key = TypeVar("Key")


def evaluate(
    model: TaskModel,
    samples: Iterable[Sample],
    *,
    captions: CaptionSource = "data",
    metric: Metric | None = None,
    on_sample: Callable[[Sample, Any], None] | None = None,
    progress: bool = False,
    batch_size: int = 1,
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
        batch_size: Largest number of windows that go through the model at once, and of samples that are read ahead for
            this. Windows of several samples go together if they have the same size. A larger number takes more memory,
            and less time on a GPU. The predictions differ by rounding.
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
    has_captions = captions == "data" or model.text.own_class
    requests = ((sample, sample.image, model.text.of_sample(sample) if has_captions else None) for sample in samples)
    predictions = predict_each(model, requests, batch_size=batch_size, **options)
    total = len(samples) if isinstance(samples, Sized) else None
    for sample, predict in tqdm(predictions, desc="evaluating", unit="image", total=total, disable=not progress):
        try:
            result = predict()
        except ImageError as error:
            raise ImageError(f"{sample.image_id}: ", *error.args) from error
        model.score(metric_to_fill, result, sample)
        if on_sample is not None:
            on_sample(sample, result)
    return metric_to_fill.compute()


def predict_each(
    model: TaskModel,
    requests: Iterable[tuple[Key, ImageLike, str | None]],
    *,
    batch_size: int = 1,
    **options: Any,
) -> Iterator[tuple[Key, Finish]]:
    """Predict images, of which some are read ahead, so that windows of several go through the model at once.

    Args:
        model: A task model.
        requests: One tuple per image: anything that identifies it, the image, and its caption or None, as in `predict`.
        batch_size: Largest number of windows that go through the model at once, and of images that are read ahead. With
            1, or if a subclass has a `predict` of its own but no `start_prediction`, `model.predict` is called.
        **options: Options of the model's `predict`.

    Yields:
        What identifies the image, and a function that returns the result of `predict` for it, or raises the error. Call
        the function before you take the next image.
    """
    if check_whole(batch_size, name="batch_size") == 1 or _has_own_predict(model):
        for key, image, caption in requests:
            yield key, partial(model.predict, image, caption, **options)
        return
    batches = Batches(in_evaluation(model).predict_batch, batch_size)
    started: deque[tuple[Key, Finish]] = deque()
    for key, image, caption in requests:
        started.append((key, _start(partial(model.start_prediction, image, caption, batches, **options))))
        if len(started) == batch_size:
            yield started.popleft()
    yield from started


def _has_own_predict(model: TaskModel) -> bool:
    """Whether `predict` was replaced by one that does not go through `start_prediction`."""
    defined = next(vars(kind) for kind in type(model).__mro__ if {"predict", "start_prediction"} & vars(kind).keys())
    return "predict" in vars(model) or "start_prediction" not in defined


def _start(start: Callable[[], Finish]) -> Finish:
    """Start a prediction. If that fails, the returned function raises the error, after earlier images are predicted."""
    try:
        return start()
    except Exception as error:
        return partial(_fail, error)


def _fail(error: Exception) -> None:
    raise error
