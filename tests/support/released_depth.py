"""The released depth model (TADP/tadp_depth.py), written again without any code of ours, in evaluation."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def spread(head: nn.Module) -> None:
    """Give a depth head random weights that are large enough for depth to vary over an image."""
    generator = torch.Generator().manual_seed(1)
    for name, value in head.state_dict().items():
        if not value.is_floating_point():
            continue
        if value.ndim == 4:
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
        else:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5 * ("running_var" in name))


def depth_of_maps(weights: dict[str, Tensor], maps: list[Tensor], *, kept: tuple[int, int] | None = None) -> Tensor:
    """The part after the U-Net, step by step.

    Args:
        weights: The weights of the head, under the names of ours.
        maps: The maps of the U-Net.
        kept: Rows and columns of cells of 32 pixels that reach the decoder; None keeps all.
    """

    def conv(name: str, value: Tensor, **options: int) -> Tensor:
        return F.conv2d(value, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)

    def batch_norm(name: str, value: Tensor) -> Tensor:
        parts = [weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(value, *parts))

    def group_norm(name: str, value: Tensor) -> Tensor:
        groups = 16 if value.shape[1] % 32 == 0 else value.shape[1] // 2
        return F.relu(F.group_norm(value, groups, weights[f"{name}.weight"], weights[f"{name}.bias"]))

    first = conv("layer1.0", maps[0], stride=2, padding=1)
    first = conv("layer1.3", group_norm("layer1.1", first), stride=2, padding=1)
    second = conv("layer2.0", maps[1], stride=2, padding=1)
    joined = torch.cat([first, second, maps[2], F.interpolate(maps[3], scale_factor=2)], dim=1)
    value = group_norm("out_layer.1", conv("out_layer.0", joined))
    if kept is not None:
        value = value[:, :, : kept[0], : kept[1]]
    for number in (0, 3, 6):
        value = F.conv_transpose2d(value, weights[f"deconv_layers.{number}.weight"], stride=2)
        value = batch_norm(f"deconv_layers.{number + 1}", value)
    value = batch_norm("conv_layers.1", conv("conv_layers.0", value, padding=1))
    for _ in range(2):
        value = F.interpolate(value, scale_factor=2, mode="bilinear", align_corners=False)
    value = conv("last_layer_depth.2", F.relu(conv("last_layer_depth.0", value, padding=1)), padding=1)
    return 10 * torch.sigmoid(value[:, 0])


@torch.no_grad()
def released_depth(vae: Any, unet: Any, weights: dict[str, Tensor], pixels: Tensor, text: Tensor) -> Tensor:
    """`TADPDepth.forward`, with scaled latents.

    The released code pads 480x480 to 512x512 and 352x352 to 384x384 with zeros, and drops the last row and column of
    cells; it refuses all sizes but these and 512x512. Other sizes are treated by the same rule here: to a multiple of
    64, without the cells of 32 pixels that hold only padding.

    Args:
        vae: diffusers' AutoencoderKL.
        unet: diffusers' U-Net of four levels with one layer per block.
        weights: The weights of the head, under the names of ours.
        pixels: Images, (B, 3, H, W), in [0, 1].
        text: Embeddings of the text, (1, L, D).
    """
    height, width = pixels.shape[2:]
    canvas = torch.zeros(len(pixels), 3, 64 * math.ceil(height / 64), 64 * math.ceil(width / 64), dtype=pixels.dtype)
    canvas[:, :, :height, :width] = pixels * 2.0 - 1.0
    latents = vae.encode(canvas).latent_dist.mode() * vae.config.scaling_factor
    maps: dict[str, Tensor] = {}
    taps = ("3.attentions.1", "2.attentions.0", "1.attentions.0", "0.resnets.0")  # finest first

    def keep(name: str) -> Any:
        return lambda module, inputs, output: maps.update({name: getattr(output, "sample", output)})

    hooks = [unet.get_submodule(f"up_blocks.{name}").register_forward_hook(keep(name)) for name in taps]
    try:
        unet(latents, 1, encoder_hidden_states=text.expand(len(pixels), -1, -1))
    finally:
        for hook in hooks:
            hook.remove()
    ordered = [value[0] if isinstance(value := maps[name], tuple) else value for name in taps]
    depth = depth_of_maps(weights, ordered, kept=(math.ceil(height / 32), math.ceil(width / 32)))
    return depth[:, :height, :width]
