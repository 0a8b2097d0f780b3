"""The end of a run: a table, the model with its card, and result.json."""

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from tadp.datasets import Sample
from tadp.datasets.transforms.augmented import SampleSource
from tadp.drawing import sheet
from tadp.files.atomic import replace_file
from tadp.tasks import TaskModel
from tadp.trainer.run_report import figure_table
from tadp.trainer.trained_task import TrainedTask


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
        "command": shlex.join(["python", *sys.argv]),
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
    print(figure_table({"this model": figures, **baselines}))
    print(f"model, predictions.png and metrics.jsonl are in {options.out}")


def first_rows(
    task: TrainedTask, model: TaskModel, data: SampleSource, *, count: int, **test: Any
) -> list[list[Image.Image]]:
    """Draw image, ground truth and prediction of the first samples, one row per sample.

    Args:
        task: The task.
        model: The model that predicts.
        data: The data set.
        count: Number of samples.
        **test: Options of the model's `predict`.
    """
    predictor: Any = model
    shown = (data[index] for index in range(min(count, len(data))))
    return [
        task.row(sample, predictor.predict(sample.image, model.text.of_sample(sample), **test), model)
        for sample in shown
    ]
