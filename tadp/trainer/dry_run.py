"""What a run would cost: parameters, memory and time, after three steps that are not kept."""

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tadp.captioner import Captioner
from tadp.captions import CaptionTable
from tadp.files.checks import check_choice
from tadp.files.progress import duration
from tadp.tasks import TaskModel
from tadp.trainer.processes import Accelerator
from tadp.trainer.run_data import DataParts, open_parts
from tadp.trainer.run_plan import TASKS, Plan, describe, make_plan
from tadp.trainer.train_options import TrainOptions
from tadp.trainer.training_batches import parts_of_epoch
from tadp.trainer.training_loop import prepared, take_step, total_steps
from tadp.trainer.training_run import (
    begin,
    build_model,
    captions_file,
    drawn_by,
    loop_settings,
    prepared_data,
    test_options,
)
from tadp.trainer.unloading import ENCODERS, unloaded, unneeded_parts

_STEPS = 3
_CAPTIONED = 2  # images on which the captioner is timed
_PREDICTED = 3  # images on which a prediction is timed, after one that is not


@dataclass(frozen=True)
class Estimate:
    """What a run would cost on this machine. It prints as a table.

    Attributes:
        parameters: Number of parameters of the whole model.
        trained: Number of parameters that train.
        memory_mb: Largest memory of this process during the steps, in megabytes; on a GPU, that of the GPU.
        step_s: Seconds per step, the median of three steps.
        steps: Number of steps of the run.
        caption_s: Seconds to caption all images; 0 if all have captions or need none.
        encode_s: Seconds to encode the images and captions that the run takes; 0 if they are encoded in every step.
        encoded_mb: Size of the encoded images and captions on disk, in megabytes; 0 if they are encoded in every step.
        evaluate_s: Seconds of all evaluations.
        choices: The choices of the run, in lines.
    """

    parameters: int
    trained: int
    memory_mb: float
    step_s: float
    steps: int
    caption_s: float
    encode_s: float
    encoded_mb: float
    evaluate_s: float
    choices: tuple[str, ...]

    @property
    def total_s(self) -> float:
        """Seconds of the whole run."""
        return self.steps * self.step_s + self.caption_s + self.encode_s + self.evaluate_s

    def __str__(self) -> str:
        encoding = "in each step"
        if self.encode_s:
            encoding = f"{duration(self.encode_s)} once, and {self.encoded_mb:,.1f} MB on disk"
        rows = {
            "parameters": f"{self.parameters:,}, of which {self.trained:,} are trained",
            "memory": f"{self.memory_mb:,.0f} MB at most",
            "captions": duration(self.caption_s) if self.caption_s else "none to write",
            "encoding": encoding,
            "training": f"{duration(self.steps * self.step_s)}: {self.steps} steps of {self.step_s:.2f} seconds",
            "evaluation": duration(self.evaluate_s),
            "total": f"about {duration(self.total_s)} on this machine",
        }
        return "\n".join([*self.choices, *(f"{name + ':':<12} {text}" for name, text in rows.items())])


def estimate(task: str, data: Any, output: str | Path | None = None, **options: Any) -> Estimate:
    """Estimate what `train` with the same arguments would cost, from a few steps and predictions. Nothing is written.

    Args:
        task: "segmentation", "depth" or "detection".
        data: The folder of a data set, the name of one, or a data set itself.
        output: The folder of the run. Captions that it already holds are not counted as work. None if there is no such
            folder yet.
        **options: Fields of `TrainOptions`.

    Raises:
        TrainingError: If the run could not start.
        DatasetError: If the data cannot be read or split.
        OptionError: If an option is unknown or out of range.
    """
    chosen = TrainOptions(**options)
    check_choice(task, tuple(TASKS), name="task")
    parts = open_parts(task, data, chosen)
    plan = make_plan(task, parts, chosen)
    steps = total_steps(plan.recipe.schedule, len(parts.train))
    accelerator, micro_batch = begin(plan)
    lines = describe(plan, parts, accelerator, micro_batch=micro_batch)
    few = _few(parts, count=max(plan.recipe.schedule.batch, 2))
    caption_s = 0.0
    if plan.text == "captions":
        caption_s = _caption_seconds(plan, parts, Path(output or "."), accelerator)
        few = few.with_captioned([part.with_captions(_different(part.image_ids)) for part in _each(few)])
    model = build_model(plan, few, accelerator)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    with tempfile.TemporaryDirectory() as folder:
        step_s, image_s = _step_seconds(plan, model, few, Path(folder), accelerator, micro_batch=micro_batch)
        image_bytes = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors")) / len(few.train)
    drawn = len(drawn_by(plan, parts)) if plan.recipe.cache_latents else 0
    return Estimate(
        parameters=sum(weight.numel() for weight in model.parameters()),
        trained=trained,
        memory_mb=_memory_mb(accelerator.device),
        step_s=step_s,
        steps=steps,
        caption_s=caption_s,
        encode_s=image_s * drawn,
        encoded_mb=image_bytes * drawn / 1e6,
        evaluate_s=_image_seconds(plan, model, few) * _evaluated(plan, parts, steps),
        choices=tuple(lines),
    )


def _few(parts: DataParts, *, count: int) -> DataParts:
    """The first images of each part."""
    few = [part.subset(list(part.image_ids[:count])) for part in _each(parts)]
    return parts.with_captioned(few)


def _different(image_ids: Sequence[str]) -> dict[str, str]:
    """A caption for each image. Equal captions would be encoded only once."""
    return {image_id: f"a photo of number {number}" for number, image_id in enumerate(image_ids)}


def _each(parts: DataParts) -> list[Any]:
    return [opener(None) for opener in parts.openers]


def _caption_seconds(plan: Plan, parts: DataParts, folder: Path, accelerator: Accelerator) -> float:
    """Seconds to write the captions that are missing."""
    path, missing = captions_file(plan, folder), [key for part in _each(parts) for key in part.image_ids]
    if path.exists():
        with CaptionTable.open(path) as table:
            missing = table.missing(missing)
    if not missing or plan.captioner is None:
        return 0.0
    captioner = Captioner.from_pretrained(plan.captioner, device=str(accelerator.device))
    images = [parts.train[index].image for index in range(min(_CAPTIONED, len(parts.train)))]
    started = time.perf_counter()
    captioner(images)
    return (time.perf_counter() - started) / len(images) * len(missing)


def _step_seconds(
    plan: Plan, model: TaskModel, parts: DataParts, folder: Path, accelerator: Accelerator, *, micro_batch: int
) -> tuple[float, float]:
    """The median duration of three steps, and the time to prepare an image before the first step."""
    settings = loop_settings(plan, folder, micro_batch=micro_batch, steps=_STEPS)
    started = time.perf_counter()
    data = prepared_data(plan, model, parts, folder, accelerator, micro_batch=micro_batch)
    image_s = (time.perf_counter() - started) / len(parts.train)
    wrapped, optimizer, _ = prepared(model, settings, accelerator, total=_STEPS)
    model.train()
    seconds = []
    with unloaded(unneeded_parts(model, data), folder / ENCODERS, accelerator):
        for step in range(_STEPS):
            started = time.perf_counter()
            for batch in parts_of_epoch(
                data, settings.schedule, accelerator, seed=settings.seed, micro_batch=micro_batch, epoch=step
            ):
                take_step(
                    wrapped, optimizer, batch, plan.task.loss(model), plan.task.weight, accelerator, step=step,
                    checkpoints=None,
                )  # fmt: skip
                break
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), image_s


def _image_seconds(plan: Plan, model: TaskModel, parts: DataParts) -> float:
    """Mean seconds to read and predict a held-out image as the evaluations during a run do, without the first call."""
    predictor: Any = model
    started = 0.0
    for number in range(1 + _PREDICTED):
        if number == 1:
            started = time.perf_counter()
        sample = parts.test[number % len(parts.test)]
        predictor.predict(sample.image, model.text.of_sample(sample), **plan.recipe.predict)
    return (time.perf_counter() - started) / _PREDICTED


def _evaluated(plan: Plan, parts: DataParts, steps: int) -> int:
    """The number of images that all evaluations predict together. With `flip`, the last one predicts each twice."""
    times = (steps - 1) // plan.evaluate_every if plan.evaluate_every else 0
    views = 2 if test_options(plan)["predict"].get("flip") else 1
    return times * min(plan.options.evaluate_images, len(parts.val)) + views * len(parts.test)


def _memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes or kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
