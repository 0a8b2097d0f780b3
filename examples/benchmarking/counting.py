"""The work of a pass, the best rate of this machine, and the difference between two passes."""

import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarking.variants import ATTENTION_LEVELS, SIZES
from tadp import Conditioning, TADPBackbone


def count_flops(size: str) -> dict[str, float]:
    """FLOP of one pass (two per multiply-add), counted without running it."""
    unet_config, vae_config, side = SIZES[size]
    with torch.device("meta"):
        backbone = TADPBackbone(
            vae=AutoencoderKL(**vae_config),
            unet=UNet2DConditionModel(**unet_config),
            attach_attention=ATTENTION_LEVELS,
            text_length=77,
        ).eval()
        image, text = torch.rand(1, 3, side, side), Conditioning(torch.rand(1, 77, unet_config["cross_attention_dim"]))
        latents = torch.rand(1, 4, side // 8, side // 8)
    with torch.no_grad(), FlopCounterMode(display=False) as encode:
        backbone.vae(image)
    with torch.no_grad(), FlopCounterMode(display=False) as extract:
        backbone.extract(latents, text)
    return {"VAE encoder": encode.get_total_flops() / 1e9, "U-Net": extract.get_total_flops() / 1e9}


CONVOLUTIONS = {  # channels and side of the U-Net's convolutions, then of the VAE's
    "sd15": ((320, 64), (640, 32), (1280, 16), (256, 256), (512, 64)),
    "tiny": ((32, 32), (64, 16), (64, 8), (32, 128), (64, 32)),
}


def best_convolution_rate(size: str, dtype: torch.dtype, memory_format: torch.memory_format) -> float:
    """GFLOP/s of the fastest 3x3 convolution on this machine, among the shapes in the U-Net and the VAE."""
    best = 0.0
    for channels, side in CONVOLUTIONS[size]:
        conv = torch.nn.Conv2d(channels, channels, 3, padding=1, dtype=dtype).to(memory_format=memory_format)
        x = torch.randn(1, channels, side, side, dtype=dtype).contiguous(memory_format=memory_format)
        with torch.inference_mode():
            for _ in range(4):
                start = time.perf_counter()
                conv(x)
                best = max(best, 2 * 9 * channels**2 * side**2 / (time.perf_counter() - start) / 1e9)
    return best


def relative_error(maps: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    """The largest relative L2 error of any map."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(maps, reference, strict=True))
