"""One step of the optimiser over the parts of a batch. It stops the run if a loss or gradient is not finite."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tadp.datasets.batch import Batch
from tadp.errors import Argument, TrainingError
from tadp.trainer.checkpoints import Checkpoints
from tadp.trainer.epoch_parts import Loss, Part
from tadp.trainer.processes import Accelerator


def take_step(
    model: Callable[..., Any],
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Part],
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
        step: Number of steps that were taken before, for messages.
        checkpoints: The checkpoints of the run, for messages; None if there are none.

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
    optimizer: torch.optim.Optimizer, parts: Sequence[Part], step: int, checkpoints: Checkpoints | None
) -> None:
    """Stop if a gradient is not finite. The loss may still be finite, and a single step would spoil every weight."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    norm = torch.stack(norms).norm() if norms else torch.zeros(())
    if math.isfinite(float(norm)):
        return
    images = ", ".join(image_id for part in parts for image_id in part.batch.image_ids)
    raise _not_finite(
        f"a gradient is {float(norm)} at step {step}; no weight was changed. Images of the step: {images}", checkpoints
    )


def _check_finite(value: Tensor, part: Part, step: int, checkpoints: Checkpoints | None) -> None:
    value = value.detach()
    if math.isfinite(float(value)):
        return
    images = ", ".join(part.batch.image_ids)
    raise _not_finite(f"the loss is {float(value)} at step {step}. Images of the part: {images}", checkpoints)


def _not_finite(found: str, checkpoints: Checkpoints | None) -> TrainingError:
    kept = checkpoints.newest if checkpoints else None
    return TrainingError(
        f"{found}. {f'The checkpoint {kept} is from before.' if kept else 'There is no earlier checkpoint.'} Check "
        "these images and labels, or train with a lower ",
        Argument("lr"),
        ".",
    )
