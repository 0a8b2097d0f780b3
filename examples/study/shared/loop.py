"""The training loop: batches in an order of the seed, a schedule, one optimiser."""

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
    model: Any, look: Any, schedule: Schedule, *, seed: int, count: int, trial: bool = False, head_alone: bool = False
) -> float:
    """Train; seconds that it took, or of a trial, that the whole would take.

    Args:
        model: A task model.
        look: `at("train", numbers)` gives features and truth; it has a device and how many images go at once.
        schedule: How long and how fast.
        seed: Of the order of images, and of dropout.
        count: Images there are.
        trial: Take a few steps.
        head_alone: Leave all but the head as it is.
    """
    total = schedule.total_steps(count)
    groups = model.parameter_groups(schedule.lr, unet_scale=schedule.unet_scale, weight_decay=schedule.weight_decay)
    if head_alone:
        groups = [{"params": list(model.head.parameters()), "weight_decay": schedule.weight_decay}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.lr)
    slope = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.lr_factor(step, total_steps=total))
    torch.manual_seed(seed)
    model.train()
    lower = torch.autocast("cuda", torch.bfloat16) if look.device.startswith("cuda") else nullcontext()
    times = [time.perf_counter()]
    for step, numbers in enumerate(_order(count, schedule.batch, seed=seed)):
        if step == (min(TRIAL_STEPS, total) if trial else total):
            break
        optimizer.zero_grad()
        for part in np.array_split(numbers, -(-len(numbers) // (look.micro_batch or len(numbers)))):
            with lower:
                seen, truth = look.at("train", part.tolist(), epoch=step * schedule.batch // count)
                loss = model.from_features(seen, truth).loss
            (loss * (len(part) / len(numbers))).backward()
        optimizer.step()
        slope.step()
        times.append(time.perf_counter())
    if not trial:
        return times[-1] - times[0]
    return min(after - before for before, after in pairwise(times)) * total  # the first is slow


def _order(count: int, batch: int, *, seed: int) -> Iterator[np.ndarray]:
    """Whole batches without end: every image once an epoch, in an order of its own."""
    epoch = 0
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        yield from (order[start : start + batch] for start in range(0, count - batch + 1, batch))
        epoch += 1
