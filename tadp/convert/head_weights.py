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
    "torchvision": r"fpn\.inner_blocks\.(\d+)(?:\.0)?\.weight",
}


def head_widths(form: Form, state: Mapping[str, Tensor], levels: int) -> tuple[int, ...] | None:
    """Return the channels of the maps that the head takes, finest first; None if it takes only the U-Net's.

    Raises:
        ModelError: If the head takes a different number of maps.
    """
    if form.task == "depth":
        return None
    pattern = _LATERAL["torchvision" if form.head == "torchvision" else "mmcv"]
    keys = {int(match[1]): key for key in state if (match := re.fullmatch(pattern, key))}
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


def _torchvision(name: str) -> str:
    name = re.sub(r"^neck\.lateral_convs\.(\d+)\.", r"fpn.inner_blocks.\1.0.", name)
    name = re.sub(r"^neck\.fpn_convs\.(\d+)\.", r"fpn.layer_blocks.\1.0.", name)
    return name if name.startswith("fpn.") else f"decode_head.{name}"
