"""What the paper's schedules ask of a machine: arithmetic and memory, counted without running it.

    python examples/schedule_cost.py --out docs/results/schedule-cost.md

Everything is on PyTorch's meta device: shapes without numbers, at Stable Diffusion 1.5's size. Arithmetic is counted by
PyTorch's FlopCounterMode over the VAE encoder (forward) and the U-Net with the head (forward, loss, backward). Memory is
weights, gradients and AdamW's two averages, plus what autograd keeps of a batch for the way back.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from tadp import TADPBackbone, heads
from tadp.schedules import SCHEDULES
from tadp.text import Conditioning
from tadp.vae import VAEEncoder

UNET = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
TEXT_ENCODER_PARAMETERS = 123_060_480  # CLIP ViT-L/14's text model, which Stable Diffusion 1.x has
# Images to train on, and the side that the U-Net sees; NYU's crops of 480 are padded to 512.
DATA = {"ade20k": 20_210, "nyu": 24_231, "pascal": 10_582, "cityscapes": 2_975, "voc": 16_551}
SIDE = 512
# Dense matrix products in bfloat16 by the makers' data sheets, and their memory; a training reaches a part of it.
GPUS = {"RTX 4090": (165e12, 24), "A100": (312e12, 80), "H100": (989e12, 80)}
SHARE = 0.35  # of the sheet's rate: an assumption, not a measurement
GB = 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    steps = {task: training_step(task) for task in ("segmentation", "depth", "detection")}
    report = page(steps)
    print(report)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(report)


def training_step(task: str) -> dict[str, float]:
    """FLOPs an image, and bytes: of weights, of what trains, and of what autograd keeps an image."""
    with torch.device("meta"):
        backbone = TADPBackbone(
            vae=VAEEncoder(AutoencoderKL(**VAE)),
            unet=UNet2DConditionModel(**UNET),
            text_length=77,
            attach_attention=() if task == "depth" else (1, 2),
        ).train()
        head = build_head(task, backbone).train()
    latents = torch.empty(1, 4, SIDE // 8, SIDE // 8, device="meta")
    text = Conditioning(torch.empty(1, 77, 768, device="meta"))
    with FlopCounterMode(display=False) as encoding, torch.no_grad():
        backbone.vae(torch.empty(1, 3, SIDE, SIDE, device="meta"))
    kept = Kept(backbone, head)
    with FlopCounterMode(display=False) as training:
        with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
            loss = scalar(task, head, backbone.extract(latents, text))
        loss.backward()
    backbone.enable_gradient_checkpointing()
    less = Kept(backbone, head)
    with torch.autograd.graph.saved_tensors_hooks(less, lambda tensor: tensor):
        scalar(task, head, backbone.extract(latents, text))
    trained = count(backbone.unet, trained=True) + count(head, trained=True)
    frozen = count(backbone.unet) + count(head) - trained + count(backbone.vae) + TEXT_ENCODER_PARAMETERS
    return {
        "encode": encoding.get_total_flops(),
        "train": training.get_total_flops(),
        "trained": trained,
        "frozen": frozen,
        "kept": kept.bytes,
        "kept, checkpointed": less.bytes,
    }


def build_head(task: str, backbone: TADPBackbone) -> torch.nn.Module:
    if task == "depth":
        return heads.DepthHead(backbone.feature_info, max_depth_m=10.0)
    # Faster R-CNN's boxes need numbers; its pyramid, counted here, is most of its work on the features
    return heads.SegmentationHead(backbone.feature_info, num_classes=150)


def scalar(task: str, head: torch.nn.Module, features: Any) -> torch.Tensor:
    return head(features).sum()


def count(module: torch.nn.Module, *, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


class Kept:
    """Counts the bytes of tensors that autograd keeps, each storage once, parameters left out."""

    def __init__(self, *modules: torch.nn.Module):
        self.seen = {id(p.untyped_storage()) for module in modules for p in module.parameters()}
        self.own = {p.data_ptr() for module in modules for p in module.parameters()}
        self.storages: dict[int, Any] = {}
        self.parameters = {p._cdata for module in modules for p in module.parameters()}
        self.bytes = 0

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, torch.nn.Parameter):
            return tensor
        storage = tensor.untyped_storage()
        if storage._cdata not in self.storages:
            self.storages[storage._cdata] = storage
            self.bytes += storage.nbytes()
        return tensor


def page(steps: dict[str, dict[str, float]]) -> str:
    return str(steps)


if __name__ == "__main__":
    main()
