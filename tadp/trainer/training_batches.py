"""What the loop takes: the backbone, images or their stored latents, and the parts of each step.

The order of the images depends only on the seed and the epoch.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tadp.backbone import TADPBackbone
from tadp.datasets import Augmented, Sample, collate
from tadp.datasets.transforms.geometric import Transform
from tadp.errors import Argument, TrainingError
from tadp.tasks import TaskModel
from tadp.trainer.encoded_data import EncodedBatch, EncodedData, EncodedSample, random_changes
from tadp.trainer.processes import Accelerator
from tadp.training.schedules import Schedule

Loss = Callable[[Callable[..., Any], EncodedBatch], Tensor]  # takes the model, wrapped by accelerate


@runtime_checkable
class TrainingData(Protocol):
    """Samples, also encoded ones. Their random numbers depend on seed, epoch and index."""

    def set_epoch(self, epoch: int) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample | EncodedSample: ...


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
) -> Iterator[list[EncodedBatch]]:
    """Read the images of an epoch, step by step. Of several processes, each reads only its own share of a step.

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
    size, count, rank = micro_batch, accelerator.num_processes, accelerator.process_index
    steps = _order(len(data), schedule, seed=seed, epoch=epoch)
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


def _order(count: int, schedule: Schedule, *, seed: int, epoch: int) -> np.ndarray:
    """The images of an epoch in their order, without those that fill no batch."""
    return np.random.default_rng((seed, epoch)).permutation(count)[: schedule.steps_per_epoch(count) * schedule.batch]


def drawn_images(count: int, schedule: Schedule, *, seed: int) -> list[int]:
    """The images that a run takes, by their index: a short run does not take all of them.

    Args:
        count: Number of images.
        schedule: The schedule.
        seed: Seed of the order.
    """
    left, epoch, drawn = schedule.total_steps(count) * schedule.batch, 0, set[int]()
    while left > 0 and len(drawn) < count:
        order = _order(count, schedule, seed=seed, epoch=epoch)[:left]
        drawn.update(order.tolist())
        left, epoch = left - len(order), epoch + 1
    return sorted(drawn)


def _collate(samples: Sequence[Any]) -> EncodedBatch:
    return EncodedBatch(collate(samples)) if isinstance(samples[0], Sample) else EncodedData.collate(samples)


def load_backbone(
    name: str, accelerator: Accelerator, *, untrained_seed: int | None = None, **options: Any
) -> TADPBackbone:
    """Load the backbone on the device of this process.

    Args:
        name: "tadp-tiny", a hub id, or a folder in diffusers layout.
        accelerator: The accelerator.
        untrained_seed: Seed with which the weights of the U-Net are drawn at random; None keeps the trained weights.
        **options: Options of `TADPBackbone.from_pretrained`.
    """
    with accelerator.local_main_process_first():  # only one process per machine contacts the hub
        backbone = TADPBackbone.from_pretrained(name, device=accelerator.device, **options)
    if untrained_seed is None:
        return backbone
    torch.manual_seed(untrained_seed)
    network: Any = type(backbone.unet)
    random = network.from_config(backbone.unet.config)
    return TADPBackbone.from_pretrained(name, device=accelerator.device, unet=random, **options)


def training_data(
    model: TaskModel,
    data: Any,
    transforms: Sequence[Transform],
    *,
    seed: int,
    folder: Path | None,
    accelerator: Accelerator,
    drawn: Sequence[int] | None = None,
    with_captions: bool = True,
    batch_size: int = 16,
    overwrite: bool = False,
) -> TrainingData:
    """Augment data, or read images and captions that are encoded only once.

    Args:
        model: The model whose backbone encodes the images.
        data: The data set.
        transforms: The augmentation.
        seed: Seed of the augmentation.
        folder: Folder of the encoded images and captions, which are made if they are missing; None encodes them in
            every step.
        accelerator: The accelerator. Only its main process encodes.
        drawn: The images that the run takes, by their index, as from `drawn_images`; None is all.
        with_captions: Whether to encode the captions only once, too, if the model's text are captions. Without them, a
            folder serves runs whose captions differ.
        batch_size: Number of images that are encoded at once.
        overwrite: Whether to replace encoded images that were made with other settings.

    Raises:
        TrainingError: If images are to be encoded only once but the transforms do more at random than flip.
        OutputError: If the folder was made with other settings, and `overwrite` is not set.
    """
    if folder is None:
        return Augmented(data, transforms, seed=seed)
    check_encoded_once(transforms)
    options: dict[str, Any] = {
        "seed": seed,
        "indices": drawn,
        "captions": with_captions and model.prompt_mode == "captions",
        "batch_size": batch_size,
    }
    if accelerator.is_main_process:
        EncodedData.encode(folder, model.backbone, data, transforms, **options, overwrite=overwrite)
    accelerator.wait_for_everyone()
    return EncodedData(folder, data, transforms, **options)


def check_encoded_once(transforms: Sequence[Transform]) -> None:
    """Refuse an augmentation with which images must be encoded in every step.

    Raises:
        TrainingError: If the transforms do more at random than flip.
    """
    changes = random_changes(transforms)
    if changes:
        raise TrainingError(
            Argument("cache_latents"),
            f" works only if images are at most flipped at random, but they go through {changes}. Leave it out.",
        )
