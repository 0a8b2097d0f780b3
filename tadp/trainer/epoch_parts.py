"""The images that a process takes at a time, in an order that depends only on the seed and the epoch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tadp.datasets import Sample, collate
from tadp.datasets.batch import Batch
from tadp.trainer.processes import Accelerator
from tadp.training.schedules import Schedule


@dataclass(frozen=True)
class Part:
    """The images that one process takes at a time: a batch, and its latents if they are kept."""

    batch: Batch
    latents: Tensor | None

    def to(self, device: torch.device) -> "Part":
        """The part on another device."""
        latents = None if self.latents is None else self.latents.to(device, non_blocking=True)
        return Part(self.batch.to(device, non_blocking=True), latents)

    def pin_memory(self) -> "Part":
        """The part in pinned memory. A DataLoader calls this."""
        return Part(self.batch.pin_memory(), None if self.latents is None else self.latents.pin_memory())

    @property
    def inputs(self) -> dict[str, Any]:
        """Keyword arguments of a task model: images or their latents, and captions."""
        size = self.batch.images.shape[2:]
        images = self.batch.images if self.latents is None else None
        return {
            "images": images, "latents": self.latents, "text": self.batch.captions, "image_size": (size[0], size[1]),
        }  # fmt: skip


Loss = Callable[[Callable[..., Any], Part], Tensor]  # takes the model, wrapped by accelerate


@runtime_checkable
class TrainingData(Protocol):
    """Samples, or pairs of a sample and its latents. Their random numbers depend on seed, epoch and index."""

    def set_epoch(self, epoch: int) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample | tuple[Sample, Tensor]: ...


def parts_of_epoch(
    data: TrainingData,
    schedule: Schedule,
    accelerator: Accelerator,
    *,
    seed: int,
    micro_batch: int,
    epoch: int,
    start: int = 0,
    workers: int = 0,
) -> Iterator[list[Part]]:
    """Read the images of the steps of an epoch that this process takes.

    Args:
        data: The training data.
        schedule: The schedule, for the number of images per step.
        accelerator: The accelerator, for the number of processes and of accumulated parts.
        seed: Seed of the order.
        micro_batch: Number of images per part.
        epoch: Number of the epoch, from 0.
        start: The first step of the epoch to return.
        workers: Number of processes that read images; 0 reads them in this process.

    Yields:
        The parts of each step.
    """
    data.set_epoch(epoch)
    order = np.random.default_rng((seed, epoch)).permutation(len(data))
    size, count, rank = micro_batch, accelerator.num_processes, accelerator.process_index
    steps = order[: schedule.steps_per_epoch(len(data)) * schedule.batch]
    # (steps, parts, processes, micro batch): a step has the same images however they are split
    split = steps.reshape(-1, accelerator.gradient_accumulation_steps, count, size)[start:, :, rank]
    loader = DataLoader(
        data,  # type: ignore[arg-type]
        batch_sampler=split.reshape(-1, size).tolist(),
        collate_fn=_collate,
        num_workers=workers,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator().manual_seed(
            epoch
        ),  # otherwise it would draw from the generator whose state is saved
    )
    parts = iter(loader)
    for _ in range(len(split)):
        yield [next(parts) for _ in range(accelerator.gradient_accumulation_steps)]


def _collate(items: Sequence[Sample | tuple[Sample, Tensor]]) -> Part:
    if isinstance(items[0], Sample):
        return Part(collate(items), None)  # type: ignore[arg-type]
    samples, latents = zip(*items, strict=True)
    return Part(collate(samples), torch.stack(latents))
