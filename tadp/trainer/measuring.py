"""Figures of a model and of trivial predictions, over all processes of a run."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tadp.datasets import Sample
from tadp.datasets.transforms.augmented import SampleSource
from tadp.files.progress import tracked
from tadp.tasks import TaskModel, evaluate
from tadp.trainer.processes import Accelerator, gather_object


def share(data: SampleSource, accelerator: Accelerator, *, most: int | None = None) -> Iterator[Sample]:
    """Yield the samples that this process measures, and show the progress.

    Args:
        data: The data set.
        accelerator: The accelerator, which says how many processes there are.
        most: Number of samples of all processes together; None takes all.
    """
    count = len(data) if most is None else min(most, len(data))
    indices = range(accelerator.process_index, count, accelerator.num_processes)
    own = (data[index] for index in indices)
    return tracked(own, len(indices), what="evaluating", unit="image", is_shown=accelerator.is_main_process)


def compare(
    model: TaskModel,
    metric: Any,
    data: SampleSource,
    *,
    accelerator: Accelerator,
    most: int | None = None,
    on_sample: Callable[[Sample, Any], None] | None = None,
    **test: Any,
) -> Any:
    """Measure a model's predictions over all processes.

    Args:
        model: The model that predicts.
        metric: A new metric.
        data: The held-out data.
        accelerator: The accelerator. Each process predicts its share of the data.
        most: Number of samples to measure; None measures all.
        on_sample: Function that is called with each sample of this process and its prediction; None calls nothing.
        **test: Options of the model's `predict`.

    Returns:
        The metric with the counts of all processes.
    """
    evaluate(model, share(data, accelerator, most=most), metric=metric, on_sample=on_sample, **test)
    return merge(metric)


def measure_trivial(
    metric: Any,
    predict: Callable[[Sample], tuple[Any, Any]],
    data: SampleSource,
    *,
    accelerator: Accelerator,
    most: int | None = None,
) -> Any:
    """Measure a trivial prediction over all processes.

    Args:
        metric: A new metric.
        predict: Function from a sample to the arguments of the metric's `update`.
        data: The held-out data.
        accelerator: The accelerator. Each process measures its share of the data.
        most: Number of samples to measure; None measures all.

    Returns:
        The metric with the counts of all processes.
    """
    for sample in share(data, accelerator, most=most):
        metric.update(*predict(sample))
    return merge(metric)


def merge(metric: Any) -> Any:
    """A metric with the counts of all processes, in every process."""
    first, *rest = gather_object([metric])
    for other in rest:
        first.merge(other)
    return first


def figure_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The figures of several models as a text table.

    Args:
        rows: Figures by the name of the model, and by the name of the figure.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{name:>18}" for name in names)]
    for label, row in rows.items():
        cells = (f"{row[name]:18.4f}" if name in row else f"{'-':>18}" for name in names)
        lines.append(f"{label:<{width}}" + "".join(cells))
    return "\n".join(lines)
