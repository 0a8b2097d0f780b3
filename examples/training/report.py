"""The end of a run: figures over all processes, a table, the model with its card, and result.json."""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from tqdm import tqdm

from tadp.datasets import Sample
from tadp.drawing import SHORT_PX, sheet
from tadp.files.atomic import replace_file
from tadp.images import to_pil
from tadp.tasks import TaskModel, evaluate
from tadp.tasks.evaluation import Metric


def share(data: Sequence[Sample], accelerator: Accelerator, *, most: int | None = None) -> Iterator[Sample]:
    """The samples of this process, with a progress bar."""
    count = len(data) if most is None else min(most, len(data))
    indices = range(accelerator.process_index, count, accelerator.num_processes)
    for index in tqdm(indices, desc="evaluating", leave=False, disable=not accelerator.is_main_process):
        yield data[index]


def compare(
    model: TaskModel,
    metric: Metric,
    data: Sequence[Sample],
    *,
    options: argparse.Namespace,
    accelerator: Accelerator,
    **test: Any,
) -> Any:
    """The metric's result for a model's predictions, over all processes.

    Args:
        model: The model that predicts.
        metric: A new metric.
        data: The held-out data.
        options: Options of the run, from `training.options.read_options`.
        accelerator: The accelerator. Each process predicts its share of the data.
        **test: Options of the model's `predict`.
    """
    evaluate(model, share(data, accelerator, most=options.evaluate_images), metric=metric, **test)
    return merge(metric).compute()


def merge(metric: Any) -> Any:
    """A metric with the counts of all processes, in every process."""
    first, *rest = gather_object([metric])
    for other in rest:
        first.merge(other)
    return first


def enlarge(image: Any) -> Image.Image:
    """An image, enlarged to the size of the pictures next to it."""
    picture = to_pil(image)
    scale = max(SHORT_PX / min(picture.size), 1)
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.NEAREST)


def finish(
    model: TaskModel,
    *,
    figures: dict[str, float],
    baselines: dict[str, dict[str, float]],
    pictures: list[list[Image.Image]],
    train: Sequence[Sample],
    held_out: Sequence[Sample],
    started: float,
    options: argparse.Namespace,
    accelerator: Accelerator,
) -> None:
    """Write OUT/model, OUT/result.json and OUT/predictions.png, and print the table.

    Args:
        model: The trained model.
        figures: Figures of the model, by metric.
        baselines: Figures of trivial predictions, by name of the prediction and metric.
        pictures: Rows of image, ground truth and prediction.
        train: The training data.
        held_out: The held-out data, which the figures are measured on.
        started: `time.perf_counter()` at the start of the run.
        options: Options of the run, from `training.options.read_options`.
        accelerator: The accelerator. Only its main process writes.
    """
    if not accelerator.is_main_process:
        return
    card = {"data": f"{options.data}, {len(train)} images", "metrics": figures}
    model.save_pretrained(options.out / "model", model_card_kwargs=card)
    if pictures:
        sheet(pictures, titles=("image", "truth", "prediction")).save(options.out / "predictions.png")
    threads = torch.get_num_threads()
    result = {
        "command": " ".join(["python", *sys.argv]),
        "figures": figures,
        "baselines": baselines,
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "cpu_minutes": round(time.process_time() / 60, 2),
        "seed": options.seed,
        "trained_on": len(train),
        "measured_on": min(options.evaluate_images or len(held_out), len(held_out)),
        "tune": options.tune,
        "schedule": {name: value for name, value in vars(options.schedule).items() if name not in ("source", "note")},
        "machine": f"{platform.machine()}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}",
    }
    with replace_file(options.out / "result.json") as part:  # a study considers a run finished if this file exists
        part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table({"this model": figures, **baselines}))
    print(f"model, predictions.png and metrics.jsonl are in {options.out}")


def table(rows: dict[str, dict[str, float]]) -> str:
    """The figures as a text table."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{name:>18}" for name in names)]
    for label, row in rows.items():
        cells = (f"{row[name]:18.4f}" if name in row else f"{'-':>18}" for name in names)
        lines.append(f"{label:<{width}}" + "".join(cells))
    return "\n".join(lines)
