"""The CPU time of a pass for some levels, with random weights that share their memory."""

import statistics
import time
from typing import Any

import torch
from torch import nn

from tadp.diffusion.families import family_of

from .models import build, inputs, run


def fewer_blocks(family: dict[str, Any], divisor: int) -> dict[str, Any]:
    """The family with a part of its transformer's blocks, if its denoiser is a transformer."""
    config = family["config"]
    counts = {key: config[key] // divisor for key in ("num_layers", "num_single_layers") if key in config}
    return family | {"config": config | counts}


def level_seconds(family: dict[str, Any], side_px: int, rounds: int) -> list[float]:
    """Median CPU seconds of a pass by the finest level that is asked for, level 0 first, with attention recorded."""
    torch.set_num_threads(1)
    with torch.device("meta"):
        vae, denoiser = build(family)
    _fill(denoiser)
    _, latents, text = inputs(family, vae, denoiser, side_px)
    levels = range(len(family_of(denoiser).layout(denoiser).channels))
    seconds: dict[int, list[float]] = {finest: [] for finest in levels}
    with torch.no_grad():
        run(denoiser, latents, text, side_px)  # a warm-up
        for number in range(rounds):
            for finest in levels if number % 2 == 0 else reversed(levels):
                start = time.process_time()
                run(denoiser, latents, text, side_px, levels=levels[finest:])
                seconds[finest].append(time.process_time() - start)
    return [statistics.median(seconds[finest]) for finest in levels]


def _fill(denoiser: nn.Module) -> None:
    """Give a network on the meta device random weights. Those of one shape share their memory, so large models fit."""
    tensors: dict[torch.Size, torch.Tensor] = {}
    for module in denoiser.modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight.shape not in tensors:
                tensors[weight.shape] = torch.randn(weight.shape) * 0.01
            setattr(module, name, nn.Parameter(tensors[weight.shape], requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.randn(buffer.shape) * 0.01)
