"""State dicts as the paper's release, VPD and mmseg write them, built from our models.

The key names are written independently of `tadp.convert.key_names`: LDM's are listed in the order of its constructors
and mapped to ours by diffusers' own conversion.
"""

import re
from itertools import count
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn

SCHEDULE = ("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef1")
RESNET = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection")


def _numbered(keys: list[str]) -> dict[str, Tensor]:
    return {key: torch.tensor(number) for number, key in enumerate(keys)}


def _both(*names: str) -> list[str]:
    return [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


def _attention(at: str) -> list[str]:
    block = f"{at}.transformer_blocks.0"
    names = _both(*(f"{at}.{layer_name}" for layer_name in ("norm", "proj_in", "proj_out")))
    names += _both(*(f"{block}.norm{k}" for k in (1, 2, 3)))
    names += _both(f"{block}.ff.net.0.proj", f"{block}.ff.net.2")
    for layer in ("attn1", "attn2"):
        names += [f"{block}.{layer}.to_{kind}.weight" for kind in "qkv"] + _both(f"{block}.{layer}.to_out.0")
    return names


def ldm_unet(unet: Any) -> dict[str, str]:
    """Map diffusers' names to LDM's, which number the blocks of each level: its layers, then the resampling."""
    levels, layers = len(unet.config["block_out_channels"]), unet.config["layers_per_block"]
    keys = _both("time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2")
    number = count(1)
    for level in range(levels):
        for _ in range(layers):
            at = f"input_blocks.{next(number)}"
            keys += _both(*(f"{at}.0.{layer_name}" for layer_name in RESNET))
            keys += _attention(f"{at}.1") if level < levels - 1 else []
        if level < levels - 1:
            keys += _both(f"input_blocks.{next(number)}.0.op")
    for part in (0, 2):
        keys += _both(*(f"middle_block.{part}.{layer_name}" for layer_name in RESNET))
    keys += _attention("middle_block.1")
    number = count()
    for level in reversed(range(levels)):
        for layer in range(layers + 1):
            at, attended = f"output_blocks.{next(number)}", level < levels - 1
            keys += _both(*(f"{at}.0.{layer_name}" for layer_name in RESNET)) + (
                _attention(f"{at}.1") if attended else []
            )
            if layer == layers and level:
                keys += _both(f"{at}.{1 + attended}.conv")
    numbered = _numbered(keys)
    converted = convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{key}": number for key, number in numbered.items()}, dict(unet.config)
    )
    return {name: keys[int(converted[name])] for name in unet.state_dict()}


def ldm_vae(vae: Any) -> dict[str, str]:
    levels, layers = len(vae.config["block_out_channels"]), vae.config["layers_per_block"]
    inner = ("norm1", "conv1", "norm2", "conv2", "nin_shortcut")
    keys = _both("encoder.conv_in", "encoder.norm_out", "encoder.conv_out", "quant_conv")
    for level in range(levels):
        for layer in range(layers):
            keys += _both(*(f"encoder.down.{level}.block.{layer}.{layer_name}" for layer_name in inner))
        keys += _both(f"encoder.down.{level}.downsample.conv") if level < levels - 1 else []
    for part in (1, 2):
        keys += _both(*(f"encoder.mid.block_{part}.{layer_name}" for layer_name in inner))
    keys += _both(*(f"encoder.mid.attn_1.{layer_name}" for layer_name in ("norm", "q", "k", "v", "proj_out")))
    converted = convert_ldm_vae_checkpoint(
        {f"first_stage_model.{key}": number for key, number in _numbered(keys).items()}, dict(vae.config)
    )
    return {name: keys[int(converted[name])] for name in vae.state_dict()}


def write_unet(unet: Any, prefix: str, *, output: bool = True) -> dict[str, Tensor]:
    ours = unet.state_dict()
    state = {f"{prefix}{there}": ours[here].clone() for here, there in ldm_unet(unet).items()}
    return {key: value for key, value in state.items() if output or not key.startswith(f"{prefix}out.")}


def write_vae(vae: Any, prefix: str) -> dict[str, Tensor]:
    state, ours = {}, vae.state_dict()
    for here, there in ldm_vae(vae).items():
        tensor = ours[here].clone()
        projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", there)
        state[f"{prefix}{there}"] = tensor[:, :, None, None] if projection else tensor
    return state | {
        f"{prefix}post_quant_conv.weight": torch.ones(4, 4, 1, 1),
        f"{prefix}post_quant_conv.bias": torch.ones(4),
    }


def write_text(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The text encoder's weights, named as transformers named them in 2023, with the position ids it stored then."""
    state = {
        f"{prefix}text_model.{key.removeprefix('text_model.')}": value.clone()
        for key, value in model.state_dict().items()
    }
    return state | {f"{prefix}text_model.embeddings.position_ids": torch.arange(77)[None]}


def write_adapter(adapter: nn.Module, prefix: str) -> dict[str, Tensor]:
    state = {key.replace("mlp.", "text_adapter.fc."): value.clone() for key, value in adapter.state_dict().items()}
    state["gamma"] = state.pop("gate")
    return {f"{prefix}{key}": value for key, value in state.items()}


def write_schedule(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": torch.rand(1000, generator=torch.Generator().manual_seed(0)) for name in SCHEDULE}


def write_depth_head(head: nn.Module) -> dict[str, Tensor]:
    state = {}
    for key, value in head.state_dict().items():
        place = {"deconv_layers": "decoder.", "conv_layers": "decoder.", "last_layer_depth": ""}
        state[place.get(key.split(".")[0], "encoder.") + key] = value.clone()
    return state


def write_mmseg_depth_head(head: nn.Module) -> dict[str, Tensor]:
    renamed = {
        "layer1": "conv1",
        "layer2.0": "conv2",
        "out_layer": "conv_aggregation",
        "last_layer_depth": "depth_pred_layer",
    }
    state = {}
    for key, value in head.state_dict().items():
        for here, there in renamed.items():
            key = re.sub(rf"^{re.escape(here)}\.", f"{there}.", key)
        key = re.sub(r"^(de)?conv_layers\.", r"decoder.\g<0>", key)
        state[f"decode_head.{key}"] = value.clone()
    return state


def write_mmcv_head(head: nn.Module) -> dict[str, Tensor]:
    """Name layers as mmcv's `ConvModule` does: conv and bn. In a scale head, every second module is an upsampling."""
    state = {}
    for key, value in head.state_dict().items():
        parts = key.split(".")
        if parts[0] == "neck":
            key = ".".join((*parts[:3], "conv", parts[3]))
        elif parts[0] == "scale_heads":
            kind = {"conv": "conv", "norm": "bn"}[parts[3]]
            key = f"decode_head.scale_heads.{parts[1]}.{int(parts[2]) * 2}.{kind}.{parts[4]}"
        else:
            key = f"decode_head.conv_seg.{parts[1]}"
        state[key] = value.clone()
    return state


def write_smp_head(head: nn.Module) -> dict[str, Tensor]:
    """Name the tensors of a head on four maps as segmentation_models_pytorch's `FPNDecoder` and `SegmentationHead` do.

    The decoder's levels are p2 (finest) to p5, and p5 is a plain convolution. Its branches begin with the coarsest.
    """
    levels = ("p2.skip_conv", "p3.skip_conv", "p4.skip_conv", "p5")
    state = {}
    for key, value in head.state_dict().items():
        parts = key.split(".")
        if parts[0] == "neck":
            there = f"decoder.{levels[int(parts[2])]}"
        elif parts[0] == "scale_heads":
            layer = {"conv": 0, "norm": 1}[parts[3]]
            there = f"decoder.seg_blocks.{3 - int(parts[1])}.block.{parts[2]}.block.{layer}"
        else:
            there = "segmentation_head.0"
        state[f"decode_head.{there}.{parts[-1]}"] = value.clone()
    return state


def write_detection_head(head: nn.Module) -> dict[str, Tensor]:
    names = {"lateral_convs": "inner_blocks", "fpn_convs": "layer_blocks"}
    state = {"decode_head.backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}
    for key, value in head.state_dict().items():
        parts = key.split(".")
        there = f"fpn.{names[parts[1]]}.{parts[2]}.0.{parts[3]}" if parts[0] == "neck" else f"decode_head.{key}"
        state[there] = value.clone()
    return state
