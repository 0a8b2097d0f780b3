"""Where a U-Net keeps its levels, and one pass that returns them.

The pass calls the U-Net's own blocks in the order `UNet2DConditionModel.forward` does and takes each level's map on
the way, without hooks, so it is safe under threads, gradient checkpointing and `torch.compile`. A test holds it to
`forward`, bit for bit.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tadp.diffusion.attention import AttentionRecorder
from tadp.diffusion.layout import Layout
from tadp.errors import ModelError

DOWN_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")
MID_BLOCKS = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)
TIME_IDS = 6  # of SDXL: height and width of the original, top and left of the crop, height and width of the target
# Options of UNet2DConditionModel that change what a pass needs, and what they are in Stable Diffusion 1.x, 2.x and XL.
_FIXED_OPTIONS = {
    "class_embed_type": None,
    "num_class_embeds": None,
    "encoder_hid_dim_type": None,
    "time_cond_proj_dim": None,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "attention_type": "default",
}


@dataclass(frozen=True)
class UNetLayout(Layout):
    """Where the levels of a U-Net are; level 0 is the finest.

    Attributes:
        taps: For each up block, coarse to fine, the number of the layer whose output is the level's map.
        layer_levels: Level of each cross-attention layer's processor; the middle block's are left out.
    """

    taps: tuple[int, ...]
    layer_levels: dict[str, int]


def read_layout(unet: UNet2DConditionModel) -> UNetLayout:
    """Find the levels of a U-Net from its config.

    Each up block is a level. Its map is the output of the last layer but one, of the last at the finest, before the
    upsampler.

    Raises:
        ModelError: If the U-Net has block types or inputs that Stable Diffusion 1.x, 2.x and XL don't have.

    Source:
        VPD's output blocks 1, 4, 7 and 11, which TADP keeps; `layers_per_block` 2 gives those.
    """
    config = unet.config
    for kind, blocks, known in (
        ("down", config["down_block_types"], DOWN_BLOCKS),
        ("mid", [config["mid_block_type"]], MID_BLOCKS),
        ("up", config["up_block_types"], UP_BLOCKS),
    ):
        for block in blocks:
            if block not in known:
                names = " and ".join(name for name in known if name)
                raise ModelError(f"unknown {kind} block {block!r} in the U-Net; tadp reads {names}.")
    if config["addition_embed_type"] not in (None, "text_time"):
        raise ModelError(
            f"the U-Net's config has addition_embed_type={config['addition_embed_type']!r}; tadp reads None (Stable "
            "Diffusion 1.x and 2.x) and 'text_time' (XL)."
        )
    for option, value in _FIXED_OPTIONS.items():
        if config[option] != value:
            raise ModelError(
                f"the U-Net's config has {option}={config[option]!r}; tadp reads U-Nets laid out like Stable "
                f"Diffusion 1.x, 2.x and XL, where it is {value!r}."
            )
    if not isinstance(config["cross_attention_dim"], int):
        raise ModelError(
            f"the U-Net's config has cross_attention_dim={config['cross_attention_dim']!r}; tadp feeds one text to all "
            "levels, so it must be one number."
        )
    depth = len(config["up_block_types"])
    up_blocks: Any = unet.up_blocks
    layers = [len(block.resnets) for block in up_blocks]
    layer_levels = {}
    for name in unet.attn_processors:
        match = re.match(r"(down|up)_blocks\.(\d+)\..*\.attn2\.processor$", name)
        if match:
            number = int(match[2])
            layer_levels[name] = number if match[1] == "down" else depth - 1 - number
    return UNetLayout(
        channels=tuple(config["block_out_channels"]),
        reduction=tuple(2**level for level in range(depth)),
        attention_levels=tuple(sorted(set(layer_levels.values()))),
        latent_channels=config["in_channels"],
        text_width=config["cross_attention_dim"],
        pooled_width=_pooled_width(config),
        taps=(*(max(count - 2, 0) for count in layers[:-1]), layers[-1] - 1),
        layer_levels=layer_levels,
    )


def unet_tap_names(unet: UNet2DConditionModel, layout: UNetLayout) -> tuple[str, ...]:
    """The layers whose outputs are the maps, finest first."""
    blocks: Any = unet.up_blocks
    names = [
        f"up_blocks.{number}.{'attentions' if _has_text(block) else 'resnets'}.{tap}"
        for number, (block, tap) in enumerate(zip(blocks, layout.taps, strict=True))
    ]
    return tuple(reversed(names))


def _pooled_width(config: Any) -> int | None:
    if config["addition_embed_type"] is None:
        return None
    return config["projection_class_embeddings_input_dim"] - TIME_IDS * config["addition_time_embed_dim"]


def freeze_unused(unet: UNet2DConditionModel) -> None:
    """Stop gradients of the layers after the last map, which a pass never runs, so that DDP does not wait for them."""
    for module in (unet.conv_norm_out, unet.conv_out):
        if module is not None:
            module.requires_grad_(False)


def unet_pass(
    unet: UNet2DConditionModel,
    layout: UNetLayout,
    latents: Float[Tensor, "b c h w"],
    *,
    timestep: int | Tensor,
    embeddings: Float[Tensor, "b l d"],
    mask: Bool[Tensor, "b l"] | None = None,
    pooled: Float[Tensor, "b p"] | None = None,
    image_size: tuple[int, int] | None = None,
    record_levels: Collection[int] = (),
) -> tuple[tuple[Float[Tensor, "_b _c _h _w"], ...], dict[int, Float[Tensor, "_b _l _h _w"]]]:
    """Run a U-Net once and keep its levels.

    Args:
        unet: With the processors of `install_recording`, if any level is to be recorded.
        layout: Its own, from `read_layout`.
        latents: (B, C, H, W), height and width multiples of `layout.multiple`.
        timestep: Diffusion time, 0 to 999.
        embeddings: Text, (B, L, D).
        mask: True where a token may be attended to, (B, L); None for all.
        pooled: The text as a whole, (B, P); for SDXL.
        image_size: (height, width) in pixels, which SDXL is told as the original's and the target's, uncropped.
        record_levels: Levels whose cross-attention is kept.

    Returns:
        The maps, finest first, (B, channels[k], H / reduction[k], W / reduction[k]); and for each recorded level its
        head- and layer-averaged attention, (B, L, h, w).
    """
    recorder = AttentionRecorder(record_levels)
    text: dict[str, Any] = {
        "encoder_hidden_states": embeddings,
        "cross_attention_kwargs": {"recorder": recorder} if record_levels else None,
        # diffusers' own bias for masked tokens
        "encoder_attention_mask": None if mask is None else ((1 - mask.to(latents.dtype)) * -10000.0).unsqueeze(1),
    }
    if unet.config["center_input_sample"]:
        latents = 2 * latents - 1
    time = unet.time_embedding(unet.get_time_embed(latents, timestep))
    if layout.pooled_width is not None:
        if pooled is None or image_size is None:
            raise ValueError("this U-Net is told the pooled text and the image's size; pass pooled= and image_size=.")
        # float32, as bfloat16 cannot count pixels
        ids = torch.tensor([*image_size, 0, 0, *image_size], device=latents.device, dtype=torch.float32)
        ids = ids.expand(latents.shape[0], -1)
        time = time + unet.get_aug_embed(time, embeddings, {"text_embeds": pooled, "time_ids": ids})
    if unet.time_embed_act is not None:
        time = unet.time_embed_act(time)

    hidden = unet.conv_in(latents)
    skips = [hidden]
    for block in unet.down_blocks:
        hidden, outputs = block(hidden_states=hidden, temb=time, **(text if _has_text(block) else {}))
        skips.extend(outputs)
    if unet.mid_block is not None:
        hidden = unet.mid_block(hidden, time, **(text if _has_text(unet.mid_block) else {}))
    maps = []
    up_blocks: Any = unet.up_blocks
    for block, tap in zip(up_blocks, layout.taps, strict=True):
        block_skips = [skips.pop() for _ in block.resnets]
        hidden, level_map = _up_block(block, hidden, block_skips, time, text, tap)
        maps.append(level_map)
    sizes = {level: (feature.shape[2], feature.shape[3]) for level, feature in enumerate(reversed(maps))}
    return tuple(reversed(maps)), recorder.close(sizes)


def _up_block(
    block: Any, hidden: Tensor, skips: list[Tensor], time: Tensor, text: dict[str, Any], tap: int
) -> tuple[Tensor, Tensor]:
    """One up block; returns its output and the output of its layer number `tap`."""
    level_map = hidden
    for number, (resnet, skip) in enumerate(zip(block.resnets, skips, strict=True)):
        hidden = torch.cat([hidden, skip], dim=1)
        if torch.is_grad_enabled() and block.gradient_checkpointing:
            hidden = checkpoint(resnet, hidden, time, use_reentrant=False)
        else:
            hidden = resnet(hidden, time)
        if _has_text(block):
            hidden = block.attentions[number](hidden, **text, return_dict=False)[0]
        if number == tap:
            level_map = hidden
    for upsampler in block.upsamplers or ():
        hidden = upsampler(hidden)
    return hidden, level_map


def _has_text(block: torch.nn.Module) -> bool:
    # UpBlock2D, DownBlock2D and UNetMidBlock2D lack the attribute that the others set to True.
    return getattr(block, "has_cross_attention", False)
