"""The training loop on accelerate, with checkpoints and a record. A stopped run continues to the same weights."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from tqdm import tqdm

from tadp.datasets.batch import Batch
from tadp.tasks import TaskModel
from tadp.training.schedules import Schedule
from training.checkpoints import Checkpoints
from training.options import StopTraining
from training.parts import Part, TrainingData, parts_of_epoch
from training.record import Record
from training.step import take_step


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
    """Train a model, or continue where a run with the same folder stopped.

    Args:
        model: The model. Its parameters with a gradient are trained.
        data: The training data, which the loop shuffles.
        loss: Function that takes the model, wrapped by accelerate, and a part, and returns the mean loss of the part.
        options: Options of the run, from `training.options.read_options`.
        accelerator: The accelerator, from `training.options.start`.
        weight: Function that counts what the loss of a batch averages over, such as images or pixels. It weights the
            mean over processes and accumulated parts, which then equals that of one large batch.
        evaluate: Function that is called every `options.evaluate_every` steps. Its figures go into the record.

    Returns:
        The trained model.

    Raises:
        StopTraining: If a loss is not finite, the folder belongs to another run, or there are fewer images than a
            batch.
        OutputError: If a checkpoint cannot be written.
    """
    schedule: Schedule = options.schedule
    if len(data) < schedule.batch:
        raise StopTraining(f"{len(data)} images are too few for a batch of {schedule.batch}. Give a smaller --batch.")
    total, per_epoch = schedule.total_steps(len(data)), schedule.steps_per_epoch(len(data))
    if options.gradient_checkpointing:
        model.backbone.enable_gradient_checkpointing()
    groups = model.parameter_groups(
        schedule.lr, unet_scale=schedule.unet_scale, weight_decay=schedule.weight_decay, groups=schedule.groups
    )
    plain = torch.optim.AdamW(groups, lr=schedule.lr)
    rates = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: schedule.lr_factor(step, total_steps=total))
    wrapped, optimizer = accelerator.prepare(_synchronised(model, accelerator), plain)
    accelerator.register_for_checkpointing(rates)
    set_seed(options.seed, device_specific=True)  # different dropout in each process
    checkpoints = Checkpoints(
        options.out / "checkpoints", accelerator, identity=_identity(model, data, options, accelerator)
    )
    step = checkpoints.load()
    record = Record(options.out / "metrics.jsonl", accelerator, keep_steps=step)
    bar = tqdm(total=total, initial=step, disable=not accelerator.is_main_process, desc="training")
    mark = (time.perf_counter(), step)
    while step < total:
        for parts in parts_of_epoch(data, options, accelerator, epoch=step // per_epoch, start=step % per_epoch):
            model.train()
            value = take_step(wrapped, optimizer, parts, loss, weight, accelerator, step=step, checkpoints=checkpoints)
            rate = plain.param_groups[0]["lr"]
            rates.step()
            step += 1
            bar.update()
            bar.set_postfix(loss=f"{value:.4f}")
            if step % options.log_every == 0 or step in (1, total):
                now = (time.perf_counter(), step)
                speed = (now[1] - mark[1]) * schedule.batch / (now[0] - mark[0])
                record.write(step, epoch=(step - 1) // per_epoch, loss=value, lr=rate, images_per_s=round(speed, 1))
                mark = now
            if evaluate and options.evaluate_every and step % options.evaluate_every == 0 and step < total:
                record.write(step, **evaluate(model))
            if step % options.save_every == 0 or step == total:
                checkpoints.save(step)
            if step == total:
                break
    bar.close()
    return accelerator.unwrap_model(wrapped)


def _synchronised(model: TaskModel, accelerator: Accelerator) -> TaskModel:
    """Synchronise batch normalisation over several GPUs. PyTorch cannot do that on CPUs."""
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model.head = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model.head)
    return model


def _identity(
    model: TaskModel, data: TrainingData, options: argparse.Namespace, accelerator: Accelerator
) -> dict[str, Any]:
    """The values that must be equal for a run to continue from a checkpoint to the same weights."""
    schedule = {name: value for name, value in vars(options.schedule).items() if name not in ("source", "note")}
    names = ("data", "seed", "micro_batch", "mixed_precision", "model", "untrained", "cache_latents", "text")
    own = {name: getattr(options, name) for name in (*names, "captions_sha256")}
    # left out if they are not set, so that runs from before these options can continue
    own |= {
        name: True
        for name in ("text_adapter", "no_latent_scaling", "background", "own_class")
        if vars(options).get(name)
    }
    return {
        "task": type(model).__name__,
        "class_names": model.options.get("class_names"),
        "head_options": model.options["head_options"],
        "tune": model.tuned,
        "images": len(data),
        "processes": accelerator.num_processes,
        **schedule,
        **own,
    }
