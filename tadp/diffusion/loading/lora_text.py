"""The part of a LoRA that changes a CLIP text encoder: W becomes W + scale · alpha / rank · B A, layer by layer."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tadp.errors import ModelError

# A layer and which factor: as peft names them, as diffusers did before, and as it did before that.
_NAMES = (
    re.compile(r"(?P<layer>.+)\.lora_(?P<factor>A|B)\.weight"),
    re.compile(r"(?P<layer>.+)\.lora_linear_layer\.(?P<factor>down|up)\.weight"),
    re.compile(r"(?P<block>.+\.self_attn)\.to_(?P<which>q|k|v|out)_lora\.(?P<factor>down|up)\.weight"),
)
_FACTORS = {"A": "A", "B": "B", "down": "A", "up": "B"}
_DEFAULT_ALPHA = 8  # peft's


def add_to_encoder(
    model: nn.Module,
    state: Mapping[str, Tensor],
    path: Path,
    *,
    alphas: Mapping[str, float],
    metadata: Mapping[str, Any],
    scale: float,
) -> None:
    """Add the factors of a LoRA to a text encoder's weights.

    Args:
        model: A CLIP text model, which is changed.
        state: The factors, named as diffusers' readers give them, without the part's name.
        path: The file, for messages.
        alphas: Of layers, under the name of the first factor and ".alpha"; a layer without has its rank.
        metadata: peft's settings, which say alphas in place of these, if there are any.
        scale: How much is added.

    Raises:
        ModelError: If a tensor is of another kind, or its layer is not there or of other widths; nothing was changed.
    """
    layers = {name.removeprefix("text_model."): one for name, one in model.named_modules()}
    factors: dict[str, dict[str, Tensor]] = {}
    scales: dict[str, float] = {}
    for key, tensor in state.items():
        layer, factor = _place(key, path)
        factors.setdefault(layer, {})[factor] = tensor
        if factor == "A":
            alpha = alphas.get(f"{key}.alpha")
            scales[layer] = _scale(layer, len(tensor), metadata) if alpha is None else alpha / len(tensor)
    weights = {layer: _checked(layers.get(layer), layer, pair, path) for layer, pair in factors.items()}
    with torch.no_grad():
        for layer, weight in weights.items():
            change = factors[layer]["B"].float() @ factors[layer]["A"].float()
            weight += (scale * scales[layer] * change).to(weight)


def _place(key: str, path: Path) -> tuple[str, str]:
    """The layer that a tensor belongs to, and whether it is its factor A or B."""
    match = next(filter(None, (pattern.fullmatch(key) for pattern in _NAMES)), None)
    if match is None:
        raise ModelError(f"{path} has {key!r} for the text encoder, which is no factor of a LoRA that tadp knows.")
    found = match.groupdict()
    layer = found.get("layer") or f"{found['block']}.{found['which']}_proj"
    return layer.removeprefix("text_model."), _FACTORS[found["factor"]]


def _scale(layer: str, rank: int, metadata: Mapping[str, Any]) -> float:
    """What B A is multiplied by, alpha / rank, as peft reads its settings; 1 where there are none."""
    if not metadata:
        return 1.0
    patterns = metadata.get("alpha_pattern") or {}
    named = (alpha for name, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({name})", layer))
    alpha = next(named, metadata.get("lora_alpha", _DEFAULT_ALPHA))
    return alpha / (rank**0.5 if metadata.get("use_rslora") else rank)


def _checked(module: Any, layer: str, pair: Mapping[str, Tensor], path: Path) -> Tensor:
    """The weight of a layer, which the factors fit."""
    cure = "It was trained for another text encoder."
    if not isinstance(module, nn.Linear):
        raise ModelError(f"{path} changes {layer} of the text encoder, which this model has not. {cure}")
    if len(pair) != 2:
        raise ModelError(f"{path} has one of the two factors of {layer} of the text encoder. Get the file again.")
    made = (pair["B"].shape[0], pair["A"].shape[1])
    if made != tuple(module.weight.shape) or pair["B"].shape[1] != pair["A"].shape[0]:
        raise ModelError(
            f"{path} changes {layer} of the text encoder as a {made[0]}x{made[1]} matrix, and the model's is "
            f"{module.weight.shape[0]}x{module.weight.shape[1]}. {cure}"
        )
    return module.weight
