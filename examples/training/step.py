"""One step of the optimiser over the parts of a batch. It stops the run if a loss or gradient is not finite."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from tadp.datasets.batch import Batch
from training.checkpoints import Checkpoints
from training.options import StopTraining
from training.parts import Part


def take_step(
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
    """Take one step of the optimiser and return the loss of the whole batch."""
    weights = torch.tensor([float(weight(part.batch)) for part in parts], device=accelerator.device)
    total_weight = accelerator.reduce(weights.sum(), "sum").clamp(min=1)
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
    return float(accelerator.reduce(total, "sum"))


def _check_gradients(
    optimizer: torch.optim.Optimizer, parts: Sequence[Part], step: int, checkpoints: Checkpoints
) -> None:
    """Stop if a gradient is not finite. The loss may still be finite, and a single step would spoil every weight."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.stack(torch._foreach_norm(gradients)).norm() if gradients else torch.zeros(())
    if math.isfinite(float(norm)):
        return
    images = ", ".join(image_id for part in parts for image_id in part.batch.image_ids)
    kept = checkpoints.newest
    raise StopTraining(
        f"a gradient is {float(norm)} at step {step}; no weight was changed. Images of the step: {images}. "
        + (f"The checkpoint {kept} is from before." if kept else "There is no earlier checkpoint.")
        + " Check these images and labels, or train with a lower --lr."
    )


def _check_finite(value: Tensor, part: Part, step: int, checkpoints: Checkpoints) -> None:
    value = value.detach()
    if math.isfinite(float(value)):
        return
    kept = checkpoints.newest
    raise StopTraining(
        f"the loss is {float(value)} at step {step}. Images of the part: {', '.join(part.batch.image_ids)}. "
        + (f"The checkpoint {kept} is from before." if kept else "There is no earlier checkpoint.")
        + " Check these images and labels, or train with a lower --lr."
    )
