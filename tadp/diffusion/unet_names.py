"""The levels of a Stable Diffusion U-Net, from its config and the names of its layers. It imports no diffusers.

`tadp info` uses this for models of which it only reads the headers of the weight files.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tadp.errors import ModelError

DOWN_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")
MID_BLOCKS = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)
# Options of UNet2DConditionModel that change what a pass does, with their values in Stable Diffusion 1.x, 2.x and XL.
_FIXED_OPTIONS = {
    "class_embed_type": None,
    "num_class_embeds": None,
    "encoder_hid_dim_type": None,
    "time_cond_proj_dim": None,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "attention_type": "default",
}


def fixed_options() -> dict[str, Any]:
    """Options that must have these values, which are also those of configs that lack them."""
    return {**_FIXED_OPTIONS, "mid_block_type": MID_BLOCKS[0], "addition_embed_type": None}


def check_unet(config: Mapping[str, Any]) -> None:
    """Check that a U-Net is laid out like those of Stable Diffusion 1.x, 2.x and XL.

    Raises:
        ModelError: If it is not; the message says what differs.
    """
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
            f"the U-Net's config has cross_attention_dim={config['cross_attention_dim']!r}; tadp passes one text to "
            "all levels, so it must be one number."
        )


def tap_names(names: Iterable[str], *, depth: int) -> tuple[str, ...]:
    """The names of the layers whose outputs are the maps, finest level first; see `unet_taps`.

    Args:
        names: Names of layers or of weights of the U-Net.
        depth: Number of up blocks.
    """
    layers = {match[0] for name in names if (match := re.match(r"up_blocks\.\d+\.(resnets|attentions)\.\d+", name))}
    taps = []
    for level in range(depth):
        block = f"up_blocks.{depth - 1 - level}"
        resnets = sum(layer.startswith(f"{block}.resnets.") for layer in layers)
        kind = "attentions" if f"{block}.attentions.0" in layers else "resnets"
        taps.append(f"{block}.{kind}.{tapped_layer(resnets, level)}")
    return tuple(taps)


def tapped_layer(layers: int, level: int) -> int:
    """The number of the layer whose output is the map of an up block's level, from its number of layers."""
    return layers - 1 if level == 0 else max(layers - 2, 0)


def attention_names(names: Iterable[str], *, depth: int) -> dict[str, int]:
    """The level of each cross-attention layer by name, without the middle block, which has no level.

    Args:
        names: Names of layers or of weights of the U-Net.
        depth: Number of up blocks.
    """
    layers = {}
    for name in names:
        if match := re.match(r"((down|up)_blocks\.(\d+)\..*\.attn2)(\.|$)", name):
            number = int(match[3])
            layers[match[1]] = number if match[2] == "down" else depth - 1 - number
    return layers
