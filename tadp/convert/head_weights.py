"""The sizes of the original heads, read from a file, and the names of their tensors there."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tadp.convert.forms import Form
from tadp.errors import Argument, ModelError

_DEPTH = {
    "layer1.": "encoder.layer1.",
    "layer2.": "encoder.layer2.",
    "out_layer.": "encoder.out_layer.",
    "deconv_layers.": "decoder.deconv_layers.",
    "conv_layers.": "decoder.conv_layers.",
    "last_layer_depth.": "last_layer_depth.",
}
_MMSEG_DEPTH = {
    "layer1.": "decode_head.conv1.",
    "layer2.0.": "decode_head.conv2.",
    "out_layer.": "decode_head.conv_aggregation.",
    "deconv_layers.": "decode_head.decoder.deconv_layers.",
    "conv_layers.": "decode_head.decoder.conv_layers.",
    "last_layer_depth.": "decode_head.depth_pred_layer.",
}
_BEFORE_TORCHVISION_0_13 = (  # convolutions were not wrapped in a block
    re.compile(r"^(fpn\.(?:inner|layer)_blocks\.\d+)\.0\."),
    re.compile(r"^(decode_head\.rpn\.head\.conv)\.0\.0\."),
)


_LATERAL = {
    "mmcv": r"neck\.lateral_convs\.(\d+)\.conv\.weight",
    "smp": r"decode_head\.decoder\.p(\d+)(?:\.skip_conv)?\.weight",
    "torchvision": r"fpn\.inner_blocks\.(\d+)(?:\.0)?\.weight",
}
_FINEST = 2  # smp numbers the levels of its pyramid from 2


def head_widths(form: Form, state: Mapping[str, Tensor], levels: int) -> tuple[int, ...] | None:
    """Return the channels of the maps that the head takes, finest first; None if it takes only the U-Net's.

    Raises:
        ModelError: If the head takes a different number of maps.
    """
    if form.task == "depth":
        return None
    pattern, first = _LATERAL[form.head], _FINEST if form.head == "smp" else 0
    keys = {int(match[1]) - first: key for key in state if (match := re.fullmatch(pattern, key))}
    if sorted(keys) != list(range(levels)):
        raise ModelError(
            f"the head of this file takes {len(keys)} maps, but the base's U-Net has {levels}. Pass ",
            Argument("base_model", ...),
            ".",
        )
    return tuple(int(state[keys[level]].shape[1]) for level in range(levels))


def head_options(form: Form, state: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Any], int]:
    """Return the arguments of our head, and the number of classes, 0 for depth.

    Raises:
        ModelError: If a tensor is missing that determines a size.
    """
    if form.head == "torchvision":
        hidden = _shape(state, "decode_head.roi_heads.box_head.fc6.weight", path)
        classes = _shape(state, "decode_head.roi_heads.box_predictor.cls_score.weight", path)
        pyramid = next(key for key in state if re.fullmatch(_LATERAL["torchvision"], key))
        return {"channels": int(state[pyramid].shape[0]), "hidden_channels": hidden[0]}, classes[0] - 1
    if form.head == "mmcv":
        pyramid, last = (
            _shape(state, "neck.lateral_convs.0.conv.weight", path),
            _shape(state, "decode_head.conv_seg.weight", path),
        )
        return {"fpn_channels": pyramid[0], "channels": last[1]}, last[0]
    if form.head == "smp":
        pyramid = _shape(state, f"decode_head.decoder.p{_FINEST}.skip_conv.weight", path)
        last = _shape(state, "decode_head.segmentation_head.0.weight", path)
        return {"fpn_channels": pyramid[0], "channels": last[1]}, last[0]
    table = _DEPTH if form.head == "depth" else _MMSEG_DEPTH
    deconvolutions = re.compile(re.escape(table["deconv_layers."]) + r"\d+\.weight")
    weights = [state[key] for key in state if deconvolutions.fullmatch(key) and state[key].ndim == 4]
    channels = _shape(state, f"{table['conv_layers.']}0.weight", path)[0]
    return {"channels": channels, "deconv_channels": [int(weight.shape[1]) for weight in weights]}, 0


def _shape(state: Mapping[str, Tensor], key: str, path: Path) -> Sequence[int]:
    if key not in state or state[key].ndim == 0:
        raise ModelError(f"{path} cannot be converted. 1 missing: {key}, which determines a size of the head.")
    return [int(side) for side in state[key].shape]


def head_names(form: Form, head: nn.Module, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Map our names of a head's tensors to the file's."""
    if form.head == "smp":
        return _smp_names(head)
    rename = {"mmcv": _mmcv, "torchvision": _torchvision, "depth": _depth, "mmseg depth": _mmseg_depth}[form.head]
    names = {name: rename(name) for name in head.state_dict()}
    for old in _BEFORE_TORCHVISION_0_13 if form.head == "torchvision" else ():
        plain = {name: old.sub(r"\1.", there) for name, there in names.items()}
        if not any(there in state for name, there in names.items() if plain[name] != there):
            names = plain
    return names


def _depth(name: str) -> str:
    return _prefixed(name, _DEPTH)


def _mmseg_depth(name: str) -> str:
    return _prefixed(name, _MMSEG_DEPTH)


def _prefixed(name: str, table: Mapping[str, str]) -> str:
    here = next(prefix for prefix in table if name.startswith(prefix))
    return table[here] + name.removeprefix(here)


def _mmcv(name: str) -> str:
    match = re.fullmatch(r"scale_heads\.(\d+)\.(\d+)\.(conv|norm)\.(\w+)", name)
    if match:  # an upsampling between two convolutions counts as a layer
        part = "bn" if match[3] == "norm" else "conv"
        return f"decode_head.scale_heads.{match[1]}.{2 * int(match[2])}.{part}.{match[4]}"
    if name.startswith("classifier."):
        return name.replace("classifier.", "decode_head.conv_seg.")
    return re.sub(r"_convs\.(\d+)\.", r"_convs.\1.conv.", name)


def _smp_names(head: nn.Module) -> dict[str, str]:
    """Name the tensors of the paper's Pascal head, which lists the decoder's branches from the coarsest level."""
    names = list(head.state_dict())
    coarsest = max(int(name.split(".")[2]) for name in names if name.startswith("neck."))
    there = {}
    for name in names:
        part, *places, kind = name.split(".")
        if part == "neck":  # only the finer levels add their map to one from above
            level = int(places[1])
            place = f"decoder.p{level + _FINEST}" + ".skip_conv" * (level < coarsest)
        elif part == "scale_heads":
            layer = 0 if places[2] == "conv" else 1
            place = f"decoder.seg_blocks.{coarsest - int(places[0])}.block.{places[1]}.block.{layer}"
        else:
            place = "segmentation_head.0"
        there[name] = f"decode_head.{place}.{kind}"
    return there


def _torchvision(name: str) -> str:
    name = re.sub(r"^neck\.lateral_convs\.(\d+)\.", r"fpn.inner_blocks.\1.0.", name)
    name = re.sub(r"^neck\.fpn_convs\.(\d+)\.", r"fpn.layer_blocks.\1.0.", name)
    return name if name.startswith("fpn.") else f"decode_head.{name}"
