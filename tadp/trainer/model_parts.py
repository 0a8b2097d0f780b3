"""The backbone, pre-trained or not, and the data in the form that the loop takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tadp.backbone import TADPBackbone
from tadp.datasets import Augmented, RandomFlip
from tadp.datasets.transforms.geometric import Transform
from tadp.errors import Argument, TrainingError
from tadp.tasks import TaskModel
from tadp.trainer.epoch_parts import TrainingData
from tadp.trainer.image_latents import WithLatents, cached_latents
from tadp.trainer.processes import Accelerator


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
    latents: Path | None,
    accelerator: Accelerator,
) -> TrainingData:
    """Augment data, or pair each image with its latents, which are encoded only once.

    Args:
        model: The model whose backbone encodes the images.
        data: The data set.
        transforms: The augmentation.
        seed: Seed of the augmentation.
        latents: File of the latents of each image and its mirror image, which is made if it is missing; None encodes
            images in every step.
        accelerator: The accelerator.

    Raises:
        TrainingError: If latents are to be kept but the transforms do more than flip.
    """
    if latents is None:
        return Augmented(data, transforms, seed=seed)
    flips = [transform for transform in transforms if isinstance(transform, RandomFlip)]
    if len(flips) != len(transforms) or len(flips) > 1:
        changes = ", ".join(type(transform).__name__ for transform in transforms)
        raise TrainingError(
            Argument("cache_latents"),
            f" works only if images are at most flipped, but they go through {changes}. Leave it out.",
        )
    kept = cached_latents(model.backbone, data, latents, accelerator)
    return WithLatents(data, kept, seed=seed, flip=flips[0].probability if flips else 0.0)
