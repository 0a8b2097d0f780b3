"""The loop: batches in an order that (seed, epoch) fix, steps on accelerate, checkpoints, a record in JSON Lines."""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from tadp.datasets import Sample, collate
from tadp.datasets.batch import Batch
from tadp.files import replace_file
from tadp.schedules import Schedule
from tadp.tasks import TaskModel
from training.checkpoints import Checkpoints
from training.options import StopTraining


@dataclass(frozen=True)
class Part:
    """What one process sees at once: a batch, and its latents if they are kept."""

    batch: Batch
    latents: Tensor | None

    def to(self, device: torch.device) -> "Part":
        """The same on a device."""
        moved = None if self.latents is None else self.latents.to(device, non_blocking=True)
        return Part(self.batch.to(device, non_blocking=True), moved)

    def pin_memory(self) -> "Part":
        """The same in memory that a GPU can read; a DataLoader calls it."""
        return Part(self.batch.pin_memory(), None if self.latents is None else self.latents.pin_memory())

    @property
    def inputs(self) -> dict[str, Any]:
        """Keywords of a task model: images, or latents of them, and captions."""
        size = self.batch.images.shape[2:]
        images = self.batch.images if self.latents is None else None
        return {
            "images": images, "latents": self.latents, "text": self.batch.captions, "image_size": (size[0], size[1]),
        }  # fmt: skip


class TrainingData(Protocol):
    """Samples, or pairs of sample and latents, whose random numbers depend on (seed, epoch, index)."""

    def set_epoch(self, epoch: int) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample | tuple[Sample, Tensor]: ...


def fit(
    model: TaskModel,
    data: TrainingData,
    *,
    loss: Callable[[Callable[..., Any], Part], Tensor],
    options: argparse.Namespace,
    accelerator: Accelerator,
    weight: Callable[[Batch], float] = len,
    evaluate: Callable[[TaskModel], dict[str, float]] | None = None,
) -> TaskModel:
    """Train a model, or go on where a run with the same folder stopped.

    Args:
        model: What trains of it is what has a gradient.
        data: In the order of its indices; the loop shuffles.
        loss: From the model, as accelerate has wrapped it, and a part, to a scalar that is a mean over the part.
        options: Of `training.options`.
        accelerator: As `training.options.start` gives it.
        weight: What the loss is a mean of, in number: the mean over processes and accumulated parts is weighted by it,
            so that it is that of one large batch.
        evaluate: Called every `options.evaluate_every` steps; its figures go into the record.

    Returns:
        The model, trained.

    Raises:
        StopTraining: If a loss is not finite, or the folder has another run.
        OutputError: If a checkpoint cannot be written.
    """
    schedule: Schedule = options.schedule
    total, each = schedule.total_steps(len(data)), schedule.steps_per_epoch(len(data))
    if options.gradient_checkpointing:
        model.backbone.enable_gradient_checkpointing()
    groups = model.parameter_groups(schedule.lr, unet_scale=schedule.unet_scale, weight_decay=schedule.weight_decay)
    plain = torch.optim.AdamW(groups, lr=schedule.lr)
    rates = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: schedule.lr_factor(step, total_steps=total))
    wrapped, optimizer = accelerator.prepare(_synchronised(model, accelerator), plain)
    accelerator.register_for_checkpointing(rates)
    set_seed(options.seed, device_specific=True)  # another dropout in each process
    checkpoints = Checkpoints(
        options.out / "checkpoints", accelerator, identity=_identity(model, data, options, accelerator)
    )
    step = checkpoints.load()
    record = Record(options.out / "metrics.jsonl", accelerator, keep_steps=step)
    bar = tqdm(total=total, initial=step, disable=not accelerator.is_main_process, desc="training")
    mark = (time.perf_counter(), step)
    while step < total:
        for parts in _epoch(data, options, accelerator, epoch=step // each, start=step % each):
            model.train()
            value = _take_step(wrapped, optimizer, parts, loss, weight, accelerator, step=step, checkpoints=checkpoints)
            rate = plain.param_groups[0]["lr"]
            rates.step()
            step += 1
            bar.update()
            bar.set_postfix(loss=f"{value:.4f}")
            if step % options.log_every == 0 or step in (1, total):
                now = (time.perf_counter(), step)
                speed = (now[1] - mark[1]) * schedule.batch / (now[0] - mark[0])
                record.write(step, epoch=(step - 1) // each, loss=value, lr=rate, images_per_s=round(speed, 1))
                mark = now
            if evaluate and options.evaluate_every and step % options.evaluate_every == 0 and step < total:
                record.write(step, **evaluate(model))
            if step % options.save_every == 0 or step == total:
                checkpoints.save(step)
            if step == total:
                break
    bar.close()
    return accelerator.unwrap_model(wrapped)


def _take_step(
    model: Callable[..., Any],
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Part],
    loss: Callable[[Callable[..., Any], Part], Tensor],
    weight: Callable[[Batch], float],
    accelerator: Accelerator,
    *,
    step: int,
    checkpoints: Checkpoints,
) -> float:
    """One step of the optimiser; returns the loss of the whole batch."""
    weights = torch.tensor([float(weight(part.batch)) for part in parts], device=accelerator.device)
    everything = accelerator.reduce(weights.sum(), "sum").clamp(min=1)
    # accelerate divides by the parts, and the mean over processes divides by them
    shares = weights / everything * len(parts) * accelerator.num_processes
    total = torch.zeros((), device=accelerator.device)
    for part, share in zip(parts, shares, strict=True):
        with accelerator.accumulate(model):
            value = loss(model, part.to(accelerator.device))
            _check_finite(value, part, step, checkpoints)
            accelerator.backward(value * share)
            if accelerator.sync_gradients:
                _check_gradients(optimizer, parts, step, checkpoints)
            optimizer.step()
            optimizer.zero_grad()
        total += value.detach() * share / len(parts) / accelerator.num_processes
    return float(accelerator.reduce(total, "sum"))


def _check_gradients(
    optimizer: torch.optim.Optimizer, parts: Sequence[Part], step: int, checkpoints: Checkpoints
) -> None:
    """A finite loss may have a gradient that is not, and one step with it ends every weight."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(gradients)).norm() if gradients else torch.zeros(())
    if math.isfinite(float(norm)):
        return
    images = ", ".join(image_id for part in parts for image_id in part.batch.image_ids)
    kept = checkpoints.newest
    raise StopTraining(
        f"a gradient is {float(norm)} at step {step}, and no weight was changed; its images: {images}. "
        + (f"The checkpoint {kept} is from before." if kept else "There is no checkpoint from before.")
        + " Look at those images and labels, or train with a lower --lr."
    )


def _check_finite(value: Tensor, part: Part, step: int, checkpoints: Checkpoints) -> None:
    value = value.detach()
    if math.isfinite(float(value)):
        return
    kept = checkpoints.newest
    raise StopTraining(
        f"the loss is {float(value)} at step {step}; its images: {', '.join(part.batch.image_ids)}. "
        + (f"The checkpoint {kept} is from before." if kept else "There is no checkpoint from before.")
        + " Look at those images and labels, or train with a lower --lr."
    )


def _synchronised(model: TaskModel, accelerator: Accelerator) -> TaskModel:
    """On several GPUs, batch normalisation over all of them; on CPUs torch has none."""
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model.head = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model.head)
    return model


def _epoch(
    data: TrainingData, options: argparse.Namespace, accelerator: Accelerator, *, epoch: int, start: int
) -> Iterator[list[Part]]:
    """The parts of each step of an epoch for this process, from a step on."""
    data.set_epoch(epoch)
    order = np.random.default_rng((options.seed, epoch)).permutation(len(data))
    size, count, rank = options.micro_batch, accelerator.num_processes, accelerator.process_index
    steps = order[: options.schedule.steps_per_epoch(len(data)) * options.schedule.batch]
    # (steps, parts, processes, micro batch): the images of a step are the same however they are split
    split = steps.reshape(-1, accelerator.gradient_accumulation_steps, count, size)[start:, :, rank]
    loader = DataLoader(
        data,  # type: ignore[arg-type]
        batch_sampler=split.reshape(-1, size).tolist(),
        collate_fn=_collate,
        num_workers=options.workers,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator().manual_seed(epoch),  # else it would draw from the generator that is kept
    )
    parts = iter(loader)
    for _ in range(len(split)):
        yield [next(parts) for _ in range(accelerator.gradient_accumulation_steps)]


def _collate(items: Sequence[Sample | tuple[Sample, Tensor]]) -> Part:
    if isinstance(items[0], Sample):
        return Part(collate(items), None)  # type: ignore[arg-type]
    samples, latents = zip(*items, strict=True)
    return Part(collate(samples), torch.stack(latents))


def _identity(
    model: TaskModel, data: TrainingData, options: argparse.Namespace, accelerator: Accelerator
) -> dict[str, Any]:
    """What must be the same for a run to go on from a checkpoint to the same weights."""
    schedule = {name: value for name, value in vars(options.schedule).items() if name not in ("source", "note")}
    names = ("data", "seed", "micro_batch", "mixed_precision", "model", "untrained", "cache_latents", "text")
    asked = {name: getattr(options, name) for name in (*names, "captions_sha256")}
    return {
        "task": type(model).__name__,
        "class_names": model.options.get("class_names"),
        "head_options": model.options["head_options"],
        "tune": model.tuned,
        "images": len(data),
        "processes": accelerator.num_processes,
        **schedule,
        **asked,
    }


class Record:
    """Figures, a line each, in the order of steps; a run that goes on drops what it is about to do again.

    Args:
        path: A .jsonl file.
        accelerator: The main process writes.
        keep_steps: Lines of later steps are dropped.
    """

    def __init__(self, path: Path, accelerator: Accelerator, *, keep_steps: int):
        self.path, self.is_writing = path, accelerator.is_main_process
        if not self.is_writing:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= keep_steps]
        with replace_file(path) as part:
            part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, step: int, **figures: float) -> None:
        """Add a line."""
        if self.is_writing:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **figures}) + "\n")
