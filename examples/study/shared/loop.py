"""The training loop: batches in an order that depends on the seed, a schedule, one optimiser."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from tadp.training.schedules import Schedule

TRIAL_STEPS = 3


def fit(
    model: Any, inputs: Any, schedule: Schedule, *, seed: int, count: int, trial: bool = False, only_head: bool = False
) -> float:
    """Train a model.

    Args:
        model: A task model.
        inputs: Training data; `inputs.of("train", numbers)` gives features and ground truth.
        schedule: Number of steps, batch size and learning rates.
        seed: Seed of the order of images and of dropout.
        count: Number of training images.
        trial: Only take a few steps.
        only_head: Train only the head.

    Returns:
        The seconds it took; for a trial, an estimate of the seconds that the whole training would take.
    """
    total = schedule.total_steps(count)
    groups = model.parameter_groups(
        schedule.lr, unet_scale=schedule.unet_scale, weight_decay=schedule.weight_decay, groups=schedule.groups
    )
    if only_head:
        groups = [{"params": list(model.head.parameters()), "weight_decay": schedule.weight_decay}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.lr)
    slope = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.lr_factor(step, total_steps=total))
    torch.manual_seed(seed)
    model.train()
    lower = torch.autocast("cuda", torch.bfloat16) if inputs.device.startswith("cuda") else nullcontext()
    times = [time.perf_counter()]
    for step, numbers in enumerate(_order(count, schedule.batch, seed=seed)):
        if step == (min(TRIAL_STEPS, total) if trial else total):
            break
        optimizer.zero_grad()
        for part in np.array_split(numbers, -(-len(numbers) // (inputs.micro_batch or len(numbers)))):
            with lower:
                features, truth = inputs.of("train", part.tolist(), epoch=step * schedule.batch // count)
                loss = model.from_features(features, truth).loss
            (loss * (len(part) / len(numbers))).backward()
        optimizer.step()
        slope.step()
        times.append(time.perf_counter())
    if not trial:
        return times[-1] - times[0]
    return min(after - before for before, after in pairwise(times)) * total  # the first step is slow


def _order(count: int, batch: int, *, seed: int) -> Iterator[np.ndarray]:
    """Endless full batches, with every image at most once per epoch, in a new order in each epoch."""
    epoch = 0
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        yield from (order[start : start + batch] for start in range(0, count - batch + 1, batch))
        epoch += 1
