"""The names of Stable Diffusion's tensors in its original code, LDM, which files of the paper, VPD and mmseg use.

Each function takes a module of diffusers or transformers, and returns LDM's name for every name in its `state_dict`.
The names are derived from the module's own blocks, so they are right for any size and number of layers.
"""

import re
from typing import TYPE_CHECKING, Any

from torch import nn

from tadp.diffusion.vae import VAEEncoder

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

_UNET_PLACES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_LAYERS = {  # layers of a residual block; attention layers have the same names in both
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_LAYERS = (
    (r"^encoder\.conv_norm_out\.", "encoder.norm_out."),
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"encoder.down.\1.block.\2."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"^encoder\.mid_block\.resnets\.0\.", "encoder.mid.block_1."),
    (r"^encoder\.mid_block\.resnets\.1\.", "encoder.mid.block_2."),
    (r"^encoder\.mid_block\.attentions\.0\.", "encoder.mid.attn_1."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.to_([qkv])\.", r".\1."),
)


def ldm_unet_names(unet: "UNet2DConditionModel") -> dict[str, str]:
    """Map the names of a U-Net's tensors in diffusers to those in LDM.

    LDM numbers the input and output blocks of all levels consecutively. Downsampling is a block of its own, and
    upsampling is the last part of a block.
    """
    places = dict(_UNET_PLACES)
    blocks: Any = unet.down_blocks
    count = 1
    for level, block in enumerate(blocks):
        count = _layers(places, block, f"down_blocks.{level}", "input_blocks", count)
        if block.downsamplers:
            places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{count}.0.op"
            count += 1
    middle: Any = unet.mid_block
    for number in range(0 if middle is None else len(middle.resnets)):
        places[f"mid_block.resnets.{number}"] = f"middle_block.{2 * number}"
        places[f"mid_block.attentions.{number}"] = f"middle_block.{2 * number + 1}"
    blocks, count = unet.up_blocks, 0
    for level, block in enumerate(blocks):
        count = _layers(places, block, f"up_blocks.{level}", "output_blocks", count)
        if block.upsamplers:
            part = 2 if _has_attention(block) else 1
            places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{count - 1}.{part}.conv"
    return {name: _ldm_unet_name(name, places) for name in unet.state_dict()}


def _layers(places: dict[str, str], block: Any, here: str, there: str, count: int) -> int:
    for number in range(len(block.resnets)):
        places[f"{here}.resnets.{number}"] = f"{there}.{count}.0"
        if _has_attention(block):
            places[f"{here}.attentions.{number}"] = f"{there}.{count}.1"
        count += 1
    return count


def _has_attention(block: nn.Module) -> bool:
    return any(name == "attentions" for name, _ in block.named_children())


def _ldm_unet_name(name: str, places: dict[str, str]) -> str:
    place = max((place for place in places if name.startswith(f"{place}.")), key=len)
    first, *rest = name.removeprefix(f"{place}.").split(".")
    if ".resnets." in place:
        first = _UNET_LAYERS[first]
    return ".".join((places[place], first, *rest))


def ldm_vae_names(vae: VAEEncoder) -> dict[str, str]:
    """Map the names of a VAE encoder's tensors in tadp, which are those of diffusers, to the names in LDM.

    The projections of the encoder's attention are 1x1 convolutions in LDM and matrices in tadp.

    Example:
        >>> import tadp
        >>> names = ldm_vae_names(tadp.TADPBackbone.from_pretrained("tadp-tiny").vae)
        >>> names["encoder.down_blocks.0.resnets.0.norm1.weight"], names["quant_conv.bias"]
        ('encoder.down.0.block.0.norm1.weight', 'quant_conv.bias')
    """
    names = {}
    for name in vae.state_dict():
        there = name
        for pattern, replacement in _VAE_LAYERS:
            there = re.sub(pattern, replacement, there)
        names[name] = there
    return names


def ldm_text_names(model: nn.Module) -> dict[str, str]:
    """Map the names of a CLIP text model's tensors in transformers to those in LDM's `cond_stage_model.transformer`.

    Only some versions of transformers have the prefix `text_model.`.
    """
    return {name: f"text_model.{name.removeprefix('text_model.')}" for name in model.state_dict()}
