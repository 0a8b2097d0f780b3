"""The training loop on accelerate, with checkpoints and a record. A stopped run continues to the same weights."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tadp.datasets.batch import Batch
from tadp.errors import Argument, TrainingError
from tadp.files.progress import Progress
from tadp.tasks import TaskModel
from tadp.trainer.checkpoints import BestWeights, Checkpoints, Watch, WeightAverage, set_state, trained_state
from tadp.trainer.encoded_data import EncodedBatch
from tadp.trainer.processes import Accelerator, broadcast, set_seed
from tadp.trainer.run_record import Record
from tadp.trainer.training_batches import Loss, TrainingData, parts_of_epoch
from tadp.trainer.unloading import ENCODERS, unloaded, unneeded_parts
from tadp.training.schedules import FUSED_ADAM, Schedule


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """The settings of a training loop.

    Attributes:
        output: Folder of the run, for checkpoints and metrics.jsonl.
        schedule: Length, batch size and learning rates.
        micro_batch: Number of images that a process takes at a time.
        seed: Seed of the order of images and of dropout.
        workers: Number of processes that read images; 0 reads them in the training process.
        gradient_checkpointing: Whether to compute activations again in the backward pass, which takes less memory and
            more time.
        ema: Decay of a moving average of the weights, which is evaluated and returned; 0 keeps no average.
        log_every: Number of steps between lines of the record.
        save_every: Number of steps between checkpoints.
        evaluate_every: Number of steps between evaluations; 0 never evaluates during the run.
    """

    output: Path
    schedule: Schedule
    micro_batch: int
    seed: int = 0
    workers: int = 0
    gradient_checkpointing: bool = False
    ema: float = 0.0
    log_every: int = 10
    save_every: int = 500
    evaluate_every: int = 0


def fit(
    model: TaskModel,
    data: TrainingData,
    *,
    loss: Loss,
    settings: LoopSettings,
    identity: Mapping[str, Any],
    accelerator: Accelerator,
    weight: Callable[[Batch], float] = len,
    evaluate: Callable[[TaskModel], dict[str, float]] | None = None,
    watch: Watch | None = None,
) -> TaskModel:
    """Train a model, or continue where a run with the same folder stopped.

    Args:
        model: The model. Its parameters with a gradient are trained.
        data: The training data, which the loop shuffles. With `EncodedData`, VAE and text encoder are not in memory
            during the steps.
        loss: Function that takes the model, wrapped by accelerate, and a part, and returns the mean loss of the part.
        settings: The settings of the loop.
        identity: Further values, besides those of model and settings, without which a run must not continue.
        accelerator: The accelerator, from `start`.
        weight: Function that counts what the loss of a batch averages over, such as images or pixels. It weights the
            mean over processes and accumulated parts, which then equals that of one large batch.
        evaluate: Function that is called every `settings.evaluate_every` steps. Its figures go into the record.
        watch: The score by which the run stops early; the weights with the best score are returned. None runs to the
            end and returns the last weights.

    Returns:
        The trained model.

    Raises:
        TrainingError: If a loss is not finite, the folder belongs to another run, or there are fewer images than a
            batch.
        OutputError: If a checkpoint cannot be written.
    """
    schedule = settings.schedule
    total, per_epoch = total_steps(schedule, len(data)), schedule.steps_per_epoch(len(data))
    wrapped, optimizer, rates = prepared(model, settings, accelerator, total=total)
    accelerator.register_for_checkpointing(rates)
    average = WeightAverage(model, settings.ema) if settings.ema else None
    best = BestWeights(watch) if watch else None
    for kept in (average, best):
        if kept is not None:
            accelerator.register_for_checkpointing(kept)
    set_seed(settings.seed, device_specific=True)  # different dropout in each process
    own = run_identity(model, len(data), settings, accelerator) | dict(identity)
    checkpoints = Checkpoints(settings.output / "checkpoints", accelerator, identity=own)
    step = checkpoints.load()
    record = Record(settings.output / "metrics.jsonl", is_writing=accelerator.is_main_process, keep_steps=step)
    is_over, stop = step == total or (best is not None and best.is_over), StopRequest()
    progress = Progress(
        total, what="training", unit="step", done=step, is_shown=accelerator.is_main_process and not is_over
    )
    mark = (time.perf_counter(), step)
    unneeded = unloaded([] if is_over else unneeded_parts(model, data), settings.output / ENCODERS, accelerator)
    with progress, stop.handled(progress.say, is_alone=accelerator.num_processes == 1), unneeded as loaded:
        for parts in () if is_over else _batches(data, settings, accelerator, first=step, total=total):
            model.train()
            value = take_step(wrapped, optimizer, parts, loss, weight, accelerator, step=step, checkpoints=checkpoints)
            rate = rates.optimizer.param_groups[0]["lr"]
            rates.step()
            step += 1
            if average is not None:
                average.update(model)
            progress.advance(note=f"loss {value:.4f}")
            if step % settings.log_every == 0 or step in (1, total):
                now = (time.perf_counter(), step)
                speed = (now[1] - mark[1]) * schedule.batch / (now[0] - mark[0])
                record.write(step, epoch=(step - 1) // per_epoch, loss=value, lr=rate, images_per_s=round(speed, 1))
                mark = now
            if evaluate and _is_due(step, total, settings.evaluate_every, also_last=best is not None):
                with loaded(), _averaged(average, model):
                    _make_equal(model, accelerator)
                    figures = evaluate(model)
                    record.write(step, **figures)
                    if best is not None:
                        best.update(step, figures, model)
            is_over = step == total or (best is not None and best.is_over)
            if is_over or step % settings.save_every == 0 or stop.number is not None:
                checkpoints.save(step)
            if is_over:
                break
            stop.obey()
    trained = accelerator.unwrap_model(wrapped)
    if best is not None and best.tensors:
        set_state(trained, best.tensors)
    elif average is not None:
        set_state(trained, average.tensors)
    _make_equal(trained, accelerator)
    return trained


def total_steps(schedule: Schedule, images: int) -> int:
    """The number of steps of a run.

    Raises:
        TrainingError: If there are fewer images than a batch.
    """
    if images < schedule.batch:
        raise TrainingError(
            f"{images} images are too few for a batch of {schedule.batch}. Give a smaller ", Argument("batch"), "."
        )
    return schedule.total_steps(images)


def prepared(
    model: TaskModel, settings: LoopSettings, accelerator: Accelerator, *, total: int
) -> tuple[Any, Any, torch.optim.lr_scheduler.LambdaLR]:
    """The model and its optimiser, wrapped by accelerate, and the learning rates of the optimiser."""
    schedule = settings.schedule
    if settings.gradient_checkpointing:
        model.backbone.enable_gradient_checkpointing()
    groups = model.parameter_groups(
        schedule.lr, unet_scale=schedule.unet_scale, weight_decay=schedule.weight_decay, groups=schedule.groups
    )
    # one kernel for all weights, which reads and writes each of them once; the result differs by rounding
    plain = torch.optim.AdamW(groups, lr=schedule.lr, fused=accelerator.device.type in FUSED_ADAM)
    rates = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: schedule.lr_factor(step, total_steps=total))
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":  # PyTorch cannot do that on CPUs
        model.head = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model.head)
    wrapped, optimizer = accelerator.prepare(model, plain)
    return wrapped, optimizer, rates


def run_identity(model: TaskModel, images: int, settings: LoopSettings, accelerator: Accelerator) -> dict[str, Any]:
    """The values that must be equal for a run to continue from a checkpoint to the same weights."""
    schedule = {name: value for name, value in vars(settings.schedule).items() if name not in ("source", "note")}
    return {
        "task": type(model).__name__,
        "class_names": model.options.get("class_names"),
        "head_options": model.options["head_options"],
        "tune": model.tuned,
        "images": images,
        "processes": accelerator.num_processes,
        **schedule,
        "seed": settings.seed,
        "micro_batch": settings.micro_batch,
        "mixed_precision": accelerator.mixed_precision,
        # left out if it is not set, so that runs from before this option can continue
        **({"ema": settings.ema} if settings.ema else {}),
    }


def _batches(
    data: TrainingData, settings: LoopSettings, accelerator: Accelerator, *, first: int, total: int
) -> Iterator[list[EncodedBatch]]:
    """The parts of each step, from step `first` on, over as many epochs as it takes."""
    per_epoch, step = settings.schedule.steps_per_epoch(len(data)), first
    while step < total:
        for parts in parts_of_epoch(
            data,
            settings.schedule,
            accelerator,
            seed=settings.seed,
            micro_batch=settings.micro_batch,
            epoch=step // per_epoch,
            start=step % per_epoch,
            workers=settings.workers,
        ):
            yield parts
            step += 1
            if step == total:
                break


def _is_due(step: int, total: int, every: int, *, also_last: bool) -> bool:
    """Whether the model is evaluated after a step. The last step is evaluated only if its score is compared."""
    return bool(every) and (also_last if step == total else step % every == 0)


def _make_equal(model: TaskModel, accelerator: Accelerator) -> None:
    """Give all processes the weights of the first. Without this, the running means of their heads differ on CPUs."""
    if accelerator.num_processes > 1:
        state = {name: tensor.clone() for name, tensor in trained_state(model).items()}
        set_state(model, {name: broadcast(tensor) for name, tensor in state.items()})


def _averaged(average: WeightAverage | None, model: TaskModel) -> AbstractContextManager[None]:
    return nullcontext() if average is None else average.applied(model)


def take_step(
    model: Callable[..., Any],
    optimizer: torch.optim.Optimizer,
    parts: Sequence[EncodedBatch],
    loss: Loss,
    weight: Callable[[Batch], float],
    accelerator: Accelerator,
    *,
    step: int,
    checkpoints: Checkpoints | None,
) -> float:
    """Take one step of the optimiser over a batch.

    Args:
        model: The model, wrapped by accelerate.
        optimizer: The optimiser, wrapped by accelerate.
        parts: The parts of the batch that this process takes, one after the other.
        loss: Function that takes the model and a part, and returns the mean loss of the part.
        weight: Function that counts what the loss of a batch averages over, such as images or pixels.
        accelerator: The accelerator.
        step: Number of steps that were taken before, for error messages.
        checkpoints: The checkpoints of the run, for error messages, or None.

    Returns:
        The loss of the whole batch, over all processes.

    Raises:
        TrainingError: If the loss or a gradient is not finite. No weight is changed by this step then.
    """
    weights = torch.tensor([float(weight(part.batch)) for part in parts], device=accelerator.device)
    total_weight = _sum(weights.sum(), accelerator).clamp(min=1)
    # multiplied by both numbers, because accelerate divides by the parts, and the mean over processes by the processes
    shares = weights / total_weight * len(parts) * accelerator.num_processes
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
    return float(_sum(total, accelerator))


def _sum(value: Tensor, accelerator: Accelerator) -> Tensor:
    """The sum of a value over all processes."""
    total: Any = accelerator.reduce(value, "sum")
    return total


def _check_gradients(
    optimizer: torch.optim.Optimizer, parts: Sequence[EncodedBatch], step: int, checkpoints: Checkpoints | None
) -> None:
    """Stop if a gradient is not finite. The loss may still be finite, and a single step would spoil every weight."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)  # in few kernels
    if math.isfinite(float(norm)):
        return
    images = ", ".join(image_id for part in parts for image_id in part.batch.image_ids)
    raise _not_finite(
        f"a gradient is {float(norm)} at step {step}; no weight was changed. Images of the step: {images}", checkpoints
    )


def _check_finite(value: Tensor, part: EncodedBatch, step: int, checkpoints: Checkpoints | None) -> None:
    value = value.detach()
    if math.isfinite(float(value)):
        return
    images = ", ".join(part.batch.image_ids)
    raise _not_finite(f"the loss is {float(value)} at step {step}. Images of the part: {images}", checkpoints)


def _not_finite(found: str, checkpoints: Checkpoints | None) -> TrainingError:
    kept = checkpoints.newest if checkpoints else None
    return TrainingError(
        f"{found}. {f'The checkpoint {kept} is from before.' if kept else 'No earlier checkpoint exists.'} Check "
        "these images and labels, or train with a lower ",
        Argument("lr"),
        ".",
    )


class StopRequest:
    """Whether the run was asked to stop.

    Attributes:
        number: The signal that asked for it, or None before.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._handlers: dict[int, Any] = {}

    @contextmanager
    def handled(self, say: Callable[[str], None], *, is_alone: bool) -> Iterator[None]:
        """Handle SIGINT and SIGTERM inside a `with` block.

        The first signal only sets `number`, so that the run stops after its current step. The second signal ends the
        process at once.

        Args:
            say: Function that shows a line.
            is_alone: Whether this is the only process of the run. Several processes are ended at once, because they
                would have to agree on the step.
        """

        def handle(number: int, frame: object) -> None:
            if self.number is not None:
                self._end(number)
            self.number = number
            say("stopping after this step; the same command will continue. Ctrl-C again stops at once.")

        if is_alone and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._handlers[number] = signal.signal(number, handle)
        try:
            yield
        finally:
            self._restore()

    def obey(self) -> None:
        """End the process, or raise KeyboardInterrupt, if that was asked for."""
        if self.number is not None:
            self._end(self.number)

    def _end(self, number: int) -> None:
        self._restore()
        signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
