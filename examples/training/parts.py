"""The images that a process takes at a time, in an order that depends only on the seed and the epoch."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from tadp.datasets import Sample, collate
from tadp.datasets.batch import Batch


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


class TrainingData(Protocol):
    """Samples, or pairs of a sample and its latents. Their random numbers depend on seed, epoch and index."""

    def set_epoch(self, epoch: int) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample | tuple[Sample, Tensor]: ...


def parts_of_epoch(
    data: TrainingData, options: argparse.Namespace, accelerator: Accelerator, *, epoch: int, start: int
) -> Iterator[list[Part]]:
    """The parts of each step of an epoch for this process, starting with step `start`."""
    data.set_epoch(epoch)
    order = np.random.default_rng((options.seed, epoch)).permutation(len(data))
    size, count, rank = options.micro_batch, accelerator.num_processes, accelerator.process_index
    steps = order[: options.schedule.steps_per_epoch(len(data)) * options.schedule.batch]
    # (steps, parts, processes, micro batch): a step has the same images however they are split
    split = steps.reshape(-1, accelerator.gradient_accumulation_steps, count, size)[start:, :, rank]
    loader = DataLoader(
        data,  # type: ignore[arg-type]
        batch_sampler=split.reshape(-1, size).tolist(),
        collate_fn=_collate,
        num_workers=options.workers,
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
