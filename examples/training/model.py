"""The backbone, pre-trained or not, and the data in the form that the loop takes."""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator

import tadp
from tadp.datasets import Augmented, RandomFlip, Sample
from tadp.datasets.transforms.geometric import Transform
from tadp.tasks import TaskModel
from training.latents import WithLatents, cached_latents
from training.options import StopTraining
from training.parts import TrainingData


def load_backbone(options: argparse.Namespace, accelerator: Accelerator, **more: Any) -> tadp.TADPBackbone:
    """The backbone. With `--untrained`, its U-Net has random weights, drawn with the seed."""
    more |= {"text_adapter": options.text_adapter, "scale_latents": not options.no_latent_scaling}
    with accelerator.local_main_process_first():  # only one process per machine contacts the hub
        backbone = tadp.TADPBackbone.from_pretrained(options.model, device=accelerator.device, **more)
    if not options.untrained:
        return backbone
    torch.manual_seed(options.seed)
    random = type(backbone.unet).from_config(backbone.unet.config)
    return tadp.TADPBackbone.from_pretrained(options.model, device=accelerator.device, unet=random, **more)


def training_data(
    model: TaskModel,
    data: Sequence[Sample],
    transforms: Sequence[Transform],
    options: argparse.Namespace,
    accelerator: Accelerator,
) -> TrainingData:
    """Augmented data. With `--cache-latents`, the latents of each image and its mirror image are kept.

    Raises:
        StopTraining: If latents are to be kept but the transforms do more than flip.
    """
    if not options.cache_latents:
        return Augmented(data, transforms, seed=options.seed)
    flips = [transform for transform in transforms if isinstance(transform, RandomFlip)]
    if len(flips) != len(transforms) or len(flips) > 1:
        changes = ", ".join(type(transform).__name__ for transform in transforms)
        raise StopTraining(
            f"--cache-latents works only if images are at most flipped, but {options.data} has {changes}. Leave it out."
        )
    path = (options.cache or options.out) / f"latents-{options.data}-{len(data)}.safetensors"
    accelerator.print(f"latents: {path}")
    latents = cached_latents(model.backbone, data, path, accelerator)
    return WithLatents(data, latents, seed=options.seed, flip=flips[0].probability if flips else 0.0)
