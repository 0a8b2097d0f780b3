"""The work of a pass or a training step, the best rate of this machine, and the difference between two passes."""

import time
from functools import cache, partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarking.rows import Group
from benchmarking.variants import Variant, build
from benchmarking.ways import extract, step


def count_flops(size: str, side: int, variant: Variant, group: Group) -> dict[str, float]:
    """GFLOP of the VAE encoder and the U-Net (two per multiply-add), counted without running them."""
    work = Variant("", variant.way, levels=variant.levels, attention=variant.attention)
    return _count(size, work, group.batch, side // group.shrink, group.trains)


@cache
def _count(size: str, variant: Variant, batch: int, side: int, trains: bool) -> dict[str, float]:
    backbone, image, text = build(size, Variant(""), "meta", side=side)
    latents, text = torch.rand(batch, 4, side // 8, side // 8, device="meta"), text.take([0] * batch)
    run = step if trains else extract
    parts = {"encode": partial(backbone.vae, image), "extract": partial(run, backbone, variant, latents, text)}
    if trains:
        backbone.unfreeze()
    counted = {}
    for part, function in parts.items():
        with torch.set_grad_enabled(trains), FlopCounterMode(display=False) as counter:
            function()
        counted[part] = counter.get_total_flops() / 1e9
    return counted


CONVOLUTIONS = {  # channels and side of the U-Net's convolutions, then of the VAE's
    "sd15": ((320, 64), (640, 32), (1280, 16), (256, 256), (512, 64)),
    "tiny": ((32, 32), (64, 16), (64, 8), (32, 128), (64, 32)),
}


def best_convolution_rate(size: str, dtype: torch.dtype, memory_format: torch.memory_format) -> float:
    """GFLOP per CPU second of the fastest 3x3 convolution here, among the shapes in the U-Net and the VAE."""
    best = 0.0
    for channels, side in CONVOLUTIONS[size]:
        conv = torch.nn.Conv2d(channels, channels, 3, padding=1, dtype=dtype).to(memory_format=memory_format)
        x = torch.randn(1, channels, side, side, dtype=dtype).contiguous(memory_format=memory_format)
        with torch.inference_mode():
            for _ in range(3):
                start = time.process_time()
                conv(x)
                best = max(best, 2 * 9 * channels**2 * side**2 / (time.process_time() - start) / 1e9)
    return best


def relative_error(maps: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> float:
    """The largest relative L2 error of any map, by name. Attention comes last and is left out where one lacks it."""
    pairs = [(own[:, : reference[name].shape[1]], reference[name][:, : own.shape[1]]) for name, own in maps.items()]
    return max(float((own - other).norm() / other.norm()) for own, other in pairs)
