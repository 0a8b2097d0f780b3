"""What a run measures at the end, and its report: figures, curves, a confusion matrix and the worst images."""

import json
import math
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image

from tadp._version import __version__
from tadp.datasets import Sample
from tadp.datasets.transforms.augmented import SampleSource
from tadp.drawing import sheet
from tadp.drawing.curves import curve_sheet
from tadp.files.atomic import replace_file
from tadp.files.progress import tracked
from tadp.tasks import TaskModel, evaluate
from tadp.trainer.processes import Accelerator, gather_object
from tadp.trainer.trained_task import TrainedTask

WORST = 10
_MOST_CLASSES = 16  # in a table of the confusion matrix; with more, only the largest confusions are listed
_PICTURE_PX = 480


@dataclass(frozen=True)
class WorstImage:
    """An image with a bad prediction.

    Attributes:
        image_id: The image.
        score: Its score, higher is better.
        text: Its score in words.
        row: Image, ground truth and prediction, drawn; empty if it was not drawn.
    """

    image_id: str
    score: float
    text: str
    row: list[Image.Image]


@dataclass(frozen=True)
class Measured:
    """What a model was measured to be.

    Attributes:
        result: The result of the metric, which prints as a table.
        confusion: How often the row's true label was predicted as the column's, (L, L).
        labels: The names of the rows and columns.
        counted: The objects that the confusion matrix counts, in words; "" if that is clear.
        worst: The images with the lowest scores, the lowest first.
    """

    result: Any
    confusion: Int64[np.ndarray, "_l _l"]
    labels: list[str]
    counted: str
    worst: list[WorstImage]


def measure(
    task: TrainedTask,
    model: TaskModel,
    data: SampleSource,
    *,
    accelerator: Accelerator,
    metric: Mapping[str, Any],
    **test: Any,
) -> Measured:
    """Predict a data set over all processes and compare the predictions with the labels.

    Args:
        task: The task.
        model: The model that predicts.
        data: The data set.
        accelerator: The accelerator. Each process predicts its share of the data.
        metric: Options of the model's `make_metric`.
        **test: Options of the model's `predict`, and the batch size.
    """
    labels = task.labels(model)
    counts = np.zeros((len(labels), len(labels)), np.int64)
    worst: list[tuple[float, Sample, Any, str]] = []

    def judge(sample: Sample, result: Any) -> None:
        judgement = task.judge(sample, result, model)
        counts.__iadd__(judgement.counts)
        if not math.isnan(judgement.score) and (len(worst) < WORST or judgement.score < worst[-1][0]):
            worst.append((judgement.score, sample, result, judgement.text))
            worst.sort(key=lambda entry: entry[0])
            del worst[WORST:]

    make_metric: Any = model.make_metric
    filled = compare(model, make_metric(**metric), data, accelerator=accelerator, on_sample=judge, **test)
    drawn = [
        WorstImage(sample.image_id, score, text, [_small(picture) for picture in task.row(sample, result, model)])
        for score, sample, result, text in worst
    ]
    total = np.sum(gather_object([counts]), axis=0)
    return Measured(
        filled.compute(),
        total,
        labels,
        task.counted,
        sorted(gather_object(drawn), key=lambda image: image.score)[:WORST],
    )


def _small(picture: Image.Image) -> Image.Image:
    picture.thumbnail((_PICTURE_PX, 2 * _PICTURE_PX))
    return picture


def draw_worst(worst: Sequence[WorstImage]) -> Image.Image:
    """A sheet of the worst images."""
    labels = [f"{image.image_id}: {image.text}" for image in worst]
    return sheet([image.row for image in worst], titles=("image", "truth", "prediction"), labels=labels)


def draw_curves(folder: Path, figures: Sequence[str]) -> Image.Image | None:
    """The loss and the figures of the evaluations over the steps; None if nothing was recorded."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    curves = {
        name: points
        for name in ("loss", *figures)
        if (points := [(line["step"], line[name]) for line in lines if name in line])
    }
    return curve_sheet(curves) if curves else None


def confusion_text(confusion: Int64[np.ndarray, "l l"], labels: Sequence[str]) -> str:
    """The confusion matrix in Markdown: shares of each row, or the largest confusions if there are many labels."""
    totals = confusion.sum(axis=1)
    shares = confusion / np.maximum(totals, 1)[:, None]
    if len(labels) <= _MOST_CLASSES:
        lines = ["| true \\ predicted | " + " | ".join(labels) + " | count |", "|---" * (len(labels) + 2) + "|"]
        for label, row, total in zip(labels, shares, totals.tolist(), strict=True):
            cells = [f"{100 * share:.0f} %" if total else "-" for share in row.tolist()]
            lines.append(f"| {label} | " + " | ".join(cells) + f" | {total:,} |")
        return "\n".join(lines)
    wrong = confusion * (1 - np.eye(len(labels), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:20]
    lines = ["| true | predicted | share of the true label | count |", "|---|---|---|---|"]
    for row, column in (divmod(int(place), len(labels)) for place in order):
        if wrong[row, column]:
            lines.append(
                f"| {labels[row]} | {labels[column]} | {100 * shares[row, column]:.1f} % | {wrong[row, column]:,} |"
            )
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """The versions of Python, tadp and the packages that determine a training."""
    versions_used = {"python": platform.python_version(), "tadp": __version__}
    for name in ("torch", "diffusers", "transformers", "accelerate", "peft", "torchvision"):
        try:
            versions_used[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions_used


def machine(accelerator: Accelerator) -> str:
    """The device and the processes of the run, in words."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    threads, count = torch.get_num_threads(), accelerator.num_processes
    return (
        f"{name}, {threads} thread{'s' * (threads > 1)}, {count} process{'es' * (count > 1)}, mixed precision: "
        f"{accelerator.mixed_precision}"
    )


def command() -> str:
    """The command line of this process, quoted for a shell."""
    program = Path(sys.argv[0])
    start = [program.name] if program.suffix != ".py" else ["python", str(program)]
    return shlex.join([*(["python", "-m", "tadp"] if program.name == "__main__.py" else start), *sys.argv[1:]])


def write_report(
    folder: Path,
    measured: Measured,
    *,
    title: str,
    rows: Mapping[str, Mapping[str, float]],
    notes: Sequence[str],
    choices: Mapping[str, Any],
    facts: Mapping[str, str],
) -> Path:
    """Write report.md and its pictures.

    Args:
        folder: Folder of the run.
        measured: The figures of the model.
        title: The heading.
        rows: Figures of the model and of trivial predictions, by name.
        notes: Sentences below the figures.
        choices: The choices of the run.
        facts: The machine, versions and so on.

    Returns:
        The path of report.md.
    """
    names = list(next(iter(rows.values())))
    parts = [f"# {title}", "", "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    parts += [
        f"| {row} | " + " | ".join(f"{figures[name]:.4f}" for name in names) + " |" for row, figures in rows.items()
    ]
    parts += ["", *notes]
    curves = draw_curves(folder, names)
    if curves is not None:
        _save(curves, folder / "curves.png")
        parts += ["", "## Curves", "", "![Loss and scores over the steps](curves.png)"]
    parts += ["", "## Figures in full", "", "```text", str(measured.result), "```"]
    parts += ["", "## Confusion matrix", "", f"Each row shows predictions for one true label.{measured.counted}", ""]
    parts += [confusion_text(measured.confusion, measured.labels)]
    if measured.worst:
        _save(draw_worst(measured.worst), folder / "worst.png")
        parts += ["", f"## The {len(measured.worst)} worst images", "", "![The worst images](worst.png)"]
    parts += ["", "## How it was made", "", "```sh", command(), "```", "", "| | |", "|---|---|"]
    parts += [f"| {name} | {value} |" for name, value in facts.items()]
    parts += [
        "",
        "| choice | value |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in choices.items()),
    ]
    parts += ["", "The model card is [README.md](README.md)."]
    with replace_file(folder / "report.md") as part:
        part.write_text("\n".join(parts) + "\n", encoding="utf-8", errors="backslashreplace")
    return folder / "report.md"


def warning_of(
    task: TrainedTask, figures: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """A sentence for each trivial prediction that is as good as the model, or better."""
    name, sign = task.watched, 1 if task.higher_is_better else -1
    return [
        f"The model is not better than {label!r}: {name} {figures[name]:.4f}, against {trivial[name]:.4f}. It may need "
        "more steps; or the labels are wrong, which tadp data shows."
        for label, trivial in baselines.items()
        if not sign * figures[name] > sign * trivial[name]
    ]


def _cell(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).replace("|", "\\|")


def _save(picture: Image.Image, path: Path) -> None:
    with replace_file(path) as part:
        picture.save(part, format="PNG")


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
        **test: Options of the model's `predict`, and the batch size.

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
