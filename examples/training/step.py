"""One step of the optimiser over the parts of a batch, which stops the run where a value is not finite."""

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
