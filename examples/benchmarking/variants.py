"""Variants of the same two networks, VAE encoder and U-Net, and how they are built."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from tadp import Conditioning, TADPBackbone
from tadp.diffusion.vae import VAEEncoder

SD15_UNET = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
SD15_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TINY_UNET = SD15_UNET | {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 32}
TINY_VAE = SD15_VAE | {"block_out_channels": (32, 32, 64, 64)}
SIZES = {
    "sd15": (SD15_UNET, SD15_VAE, 512),
    "tiny": (TINY_UNET, TINY_VAE, 256),
    "tiniest": (  # so small that a process's memory does not show a pass
        TINY_UNET | {"layers_per_block": 1},
        TINY_VAE | {"layers_per_block": 1},
        64,
    ),
}
# of training steps: U-Net, VAE, side in pixels, channels of the head
STEP_SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], int, int]] = {
    "sd15": (SD15_UNET, SD15_VAE, 512, 256),
    "half": (
        SD15_UNET | {"block_out_channels": (160, 320, 640, 640)},
        SD15_VAE | {"block_out_channels": (64, 128, 256, 256)},
        256,
        128,
    ),
    "fifth": (
        SD15_UNET | {"block_out_channels": (64, 128, 256, 256)},
        SD15_VAE | {"block_out_channels": (32, 32, 64, 64)},
        256,
        48,
    ),
    "tiny": (
        SD15_UNET | {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 32},
        SD15_VAE | {"block_out_channels": (32, 32, 64, 64)},
        64,
        8,
    ),
}
ATTENTION_LEVELS = (1, 2)


@dataclass(frozen=True)
class Variant:
    """One way to run the networks.

    Attributes:
        name: Name of its row.
        way: "tadp"; "diffusers", which calls the U-Net as a whole, with fused attention; "hooks", which also takes the
            maps by hooks; "by hand", which writes every attention probability to memory, like the paper's released
            code; "stopped", which stops the U-Net after an up block, like DIFT; or "tadp stopped", tadp up to the same
            module.
        compiled: How `backbone.compile()` is called: with weights as constants ("freezing"), with CUDA graphs
            ("reduce-overhead"), or with its defaults. An empty string means that it is not called.
        levels: Levels whose maps tadp computes; None is all of them.
        attention: Whether tadp attaches attention.
    """

    name: str
    way: Literal["tadp", "diffusers", "hooks", "by hand", "stopped", "tadp stopped"] = "tadp"
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    compiled: Literal["", "default", "freezing", "reduce-overhead"] = ""
    levels: tuple[int, ...] | None = None
    attention: bool = True

    @property
    def encodes(self) -> bool:
        """Whether its VAE encoder differs from those of other rows."""
        return self.attention and self.levels is None and "stopped" not in self.way


def build(
    size: str, variant: Variant, device: str = "cpu", *, shares: bool = False, side: int | None = None
) -> tuple[TADPBackbone, Tensor, Conditioning]:
    """Build a backbone with random weights in the format of a variant, an image and a text.

    Args:
        size: Size of the networks, a key of `SIZES`.
        variant: The variant, whose dtype and memory format the backbone gets.
        device: Device of the backbone.
        shares: Whether weights of one shape share their memory, so that several backbones fit into it.
        side: Side of the image in pixels; None is that of the size.
    """
    unet_config, vae_config, usual = SIZES[size]
    with torch.device("meta"):
        unet, encoder = UNet2DConditionModel(**unet_config), VAEEncoder(AutoencoderKL(**vae_config))
    torch.manual_seed(0)
    for network in (unet, encoder):
        _fill(network, variant, device, {} if shares else None)
    backbone = TADPBackbone(vae=encoder, unet=unet, attach_attention=ATTENTION_LEVELS, text_length=77).freeze().eval()
    if variant.compiled == "freezing":
        backbone.compile(options={"freezing": True})
    elif variant.compiled:
        backbone.compile(mode=None if variant.compiled == "default" else variant.compiled)
    text = Conditioning(torch.randn(1, 77, unet_config["cross_attention_dim"], device=device))
    return backbone, torch.rand(1, 3, side or usual, side or usual, device=device), text


def _fill(network: nn.Module, variant: Variant, device: str, shared: dict[Any, Tensor] | None) -> None:
    """Give a network on the meta device weights: random matrices, ones as scales and zeros as shifts."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            key = parameter.shape, name == "weight"
            values = None if shared is None else shared.get(key)
            if values is None:
                values = torch.empty(parameter.shape, device=device)
                if parameter.ndim > 1:
                    values.normal_(std=parameter[0].numel() ** -0.5)
                else:
                    values.fill_(float(name == "weight"))
                values = values.to(variant.dtype)
                if parameter.ndim == 4:
                    values = values.contiguous(memory_format=variant.memory_format)
                if shared is not None:
                    shared[key] = values
            setattr(module, name, nn.Parameter(values))
