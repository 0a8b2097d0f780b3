"""Add noise to an image and remove it again with a text, by diffusers' own pipeline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from tadp.personalize import load_diffusion

STEPS, GUIDANCE = 25, 4.0  # as tadp.personalize draws tadp-tiny; 7.5 is usual for Stable Diffusion


def pipeline(name: str, device: str) -> Any:
    """Diffusers' image-to-image pipeline with DDIM, loaded from the folder of a model."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import StableDiffusionImg2ImgPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(load_diffusion(name).folder, safety_checker=None)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def redraw(pipe: Any, images: Sequence[np.ndarray], texts: Sequence[str], *, strength: float) -> list[Image.Image]:
    """Redraw each image with its text. The noise of an image is the same for all texts."""
    results = []
    batch = 8 if len({image.shape for image in images}) == 1 else 1
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        noise = [torch.Generator().manual_seed(start + number) for number in range(len(images[part]))]
        results += pipe(
            prompt=list(texts[part]), image=[Image.fromarray(image) for image in images[part]], strength=strength,
            num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise,
        ).images  # fmt: skip
    return results
