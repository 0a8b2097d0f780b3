"""Add a LoRA to the weights of a base model's denoiser and text encoders when the model is loaded."""

import json
import math
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from tadp.diffusion.families import family_of
from tadp.errors import MissingFileError, ModelError
from tadp.files.building import Sizes, explained
from tadp.files.checks import check_numbers, is_finite_number, needs
from tadp.files.hub import HubOptions, check_readable, local_file, local_folder
from tadp.files.schema import HINT, check_types, shown
from tadp.files.weight_values import check_finite, check_weights

LORA_NAME = "pytorch_lora_weights.safetensors"  # the name that diffusers writes
_SUFFIX = ".safetensors"
_ADAPTER = "tadp"
# The layer and the factor in a tensor's name, in the three spellings: peft's, diffusers' older one and its oldest.
_NAMES = (
    re.compile(r"(?P<layer>.+)\.lora_(?P<factor>A|B)\.weight"),
    re.compile(r"(?P<layer>.+)\.lora_linear_layer\.(?P<factor>down|up)\.weight"),
    re.compile(r"(?P<block>.+\.self_attn)\.to_(?P<which>q|k|v|out)_lora\.(?P<factor>down|up)\.weight"),
)
_LAYER = re.compile(r"\^?[\w.-]+")  # "^" at the front asks for the whole name
_FACTORS = {"A": "A", "B": "B", "down": "A", "up": "B"}
_DEFAULT_ALPHA = 8  # peft's default


def fuse_lora(unet: Any, encoders: Mapping[str, Any], name: str | Path, *, scale: float, hub: HubOptions) -> None:
    """Add a LoRA to the weights of a denoiser and its text encoders.

    The LoRA then needs no computation of its own and is saved with the weights. diffusers' own loader reads the file,
    so files from diffusers, peft and kohya's scripts all work.

    Args:
        unet: The denoiser to change. It must belong to the family of base models that the LoRA was trained for.
        encoders: The text encoder models to change, by folder name, such as "text_encoder".
        name: A .safetensors file or a folder that contains one, on this machine or on the hub.
        scale: Factor by which the LoRA's change of the weights is multiplied; 1 applies it as trained.
        hub: The revision to download, and how to download it.

    Raises:
        UnknownModelError, MissingFileError, CorruptFileError: If the file cannot be found, downloaded or read.
        ModelError: If the LoRA was trained for another family. The message says what does not fit.
        MissingExtraError: If peft is not installed.
    """
    check_numbers(lora_scale=scale)
    path = _lora_file(name, hub)
    prefix = family_of(unet).part
    state, alphas = _read(unet, path)
    metadata = _metadata(path)
    parts = {part: _below(state, part) for part in (prefix, *encoders)}
    if not any(parts.values()):
        raise ModelError(f"{path} has no weights for the {prefix}. {_hint(unet)}")
    _check_lora(unet, parts[prefix], path)
    for part, model in encoders.items():
        add_to_encoder(
            model, parts[part], path, alphas=_below(alphas or {}, part), metadata=_below(metadata, part), scale=scale
        )
    known = tuple(f"{part}." for part in parts)
    _warn_about_rest([key for key in state if not key.startswith(known)], path)
    if parts[prefix]:
        used = {key: value for key, value in metadata.items() if key.startswith(f"{prefix}.")}
        with explained(path, used, what="a LoRA") if used else nullcontext():
            _fuse_denoiser(unet, prefix, state, alphas=alphas, metadata=used, scale=scale)
    for model in (unet, *encoders.values()):
        check_finite(model.named_parameters(), path)  # a huge factor overflows in float16


def add_to_encoder(
    model: nn.Module,
    state: Mapping[str, Tensor],
    path: Path,
    *,
    alphas: Mapping[str, float],
    metadata: Mapping[str, Any],
    scale: float,
) -> None:
    """Add a LoRA to a text encoder's weights.

    Args:
        model: The CLIP text model to change.
        state: The low-rank factors of the LoRA, under the names that diffusers' loaders give them, without the prefix
            "text_encoder".
        path: The file's path, for error messages.
        alphas: The alpha of each layer, under the name of its first factor plus ".alpha". A layer without an entry
            takes its alpha from `metadata`; if that is empty too, alpha is the layer's rank.
        metadata: peft's settings; empty if the file has none.
        scale: Factor by which the LoRA's change of the weights is multiplied.

    Raises:
        ModelError: If a tensor in `state` is not a factor of a LoRA, or the model lacks the factor's layer or has it
            with another width. The model is then unchanged.
    """
    layers = {name.removeprefix("text_model."): module for name, module in model.named_modules()}
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


def _fuse_denoiser(
    unet: Any, prefix: str, state: dict[str, Tensor], *, alphas: Any, metadata: dict[str, Any], scale: float
) -> None:
    lora = family_of(unet).lora(unet)
    load = lora.mixin.load_lora_into_unet if prefix == "unet" else lora.mixin.load_lora_into_transformer
    scales: dict[str, Any] = {"network_alphas": alphas} if lora.takes_alphas else {}
    if metadata:  # peft's settings contain the alphas
        defaults = {f"{prefix}.rank_pattern": {}, f"{prefix}.target_modules": None}  # diffusers 0.37 requires both
        scales = dict.fromkeys(scales) | {"metadata": defaults | metadata}
    with needs("a LoRA needs peft", install="pip install 'tadp[train]'"):
        load(state, **{prefix: unet}, adapter_name=_ADAPTER, **scales)
    unet.fuse_lora(lora_scale=scale)
    unet.unload_lora()
    unet.requires_grad_(True)  # peft froze it


def _read(unet: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, float] | None]:
    """The tensors under diffusers' names, and the alphas if the file stores them separately."""
    lora = family_of(unet).lora(unet)
    tensors = load_file(path)
    check_weights(tensors, path)
    if any("dora_scale" in key or "lora_magnitude_vector" in key for key in tensors):
        raise ModelError(
            f"{path} is a DoRA, whose magnitudes diffusers would ignore. tadp only adds LoRAs; pass a LoRA."
        )
    try:
        content = lora.mixin.lora_state_dict(tensors, **lora.options)
    except (ValueError, LookupError, RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(f"{path} is not a LoRA that diffusers reads for a {type(unet).__name__}: {error}") from error
    return content if isinstance(content, tuple) else (content, None)


def _metadata(path: Path) -> dict[str, Any]:
    """Settings of peft for each part, such as "unet.lora_alpha", which newer files from diffusers contain."""
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its lora_adapter_metadata is not JSON: {error}. Get the file again.") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: its lora_adapter_metadata must be an object; got {shown(settings)}. {HINT}")
    known = signature(_peft_settings).parameters
    settings = {key: value for key, value in settings.items() if key.rpartition(".")[2] in known}
    for key, value in settings.items():
        part, _, name = key.rpartition(".")
        _check_setting(key, value, path)
        check_types({name: value}, _peft_settings, path, below=part)
    return settings


def _peft_settings(
    *,
    r: int,
    lora_alpha: float,
    target_modules: list[str] | str | None,
    exclude_modules: list[str] | str | None,
    layers_to_transform: list[int] | int | None,
    layers_pattern: list[str] | str | None,
    rank_pattern: dict[str, int] | None,
    alpha_pattern: dict[str, float] | None,
    use_rslora: bool,
    use_dora: bool,
    lora_bias: bool,
    init_lora_weights: bool | str | None,
) -> None:
    """The settings of peft that change the result, as a schema. The others are about training, and are ignored."""


def _check_setting(key: str, value: Any, path: Path) -> None:
    """Check peft's settings that are used. peft would run names of layers as regular expressions, which we refuse."""
    name = key.rpartition(".")[2]
    layers, numbers = [], []
    if name in ("alpha_pattern", "rank_pattern"):
        if not isinstance(value, dict | None):
            raise ModelError(f"{path}: {key} must be an object; got {shown(value)}. {HINT}")
        layers, numbers = list(value or {}), list((value or {}).values())
    elif name in ("r", "lora_alpha"):
        numbers = [value]
    elif name.endswith(("_modules", "_pattern")):
        layers = value if isinstance(value, list) else [value] if value is not None else []
    for layer in layers:
        if not isinstance(layer, str) or not _LAYER.fullmatch(layer):
            raise ModelError(
                f"{path}: {key} has {shown(layer)}, but tadp reads only names of layers there, not patterns. Save the "
                "LoRA with the full names of its layers."
            )
    least, most = (0, math.inf) if "alpha" in name else (1, Sizes.of([path]).largest)
    for number in numbers:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not is_finite_number(number) or not least <= number <= most:
            raise ModelError(f"{path}: {key} must be a number from {least} to {most}; got {shown(number)}. {HINT}")


def _below(named: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The entries of one part, without the part's name in their keys."""
    return {key.removeprefix(f"{part}."): value for key, value in named.items() if key.startswith(f"{part}.")}


def _lora_file(name: str | Path, hub: HubOptions) -> Path:
    if str(name).endswith(_SUFFIX):
        path = local_file(name, hub=hub)
    else:
        known = f"Pass a {_SUFFIX} file, or a folder or hub id that contains {LORA_NAME}."
        folder = local_folder(name, patterns=[LORA_NAME], known=known, hub=hub)
        files = (
            [LORA_NAME] if (folder / LORA_NAME).exists() else sorted(file.name for file in folder.glob(f"*{_SUFFIX}"))
        )
        if len(files) != 1:
            contents = ", ".join(files) or f"no {_SUFFIX} file"
            raise MissingFileError(f"no {LORA_NAME} in {name}, which has {contents}. Pass the path of the file itself.")
        path = folder / files[0]
    check_readable(path)
    return path


def _check_lora(unet: Any, named: dict[str, Tensor], path: Path) -> None:
    """Check that every tensor fits the weight of a layer; otherwise raise a ModelError."""
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    if named and not any(".lora_A" in key for key in named):
        named = convert_unet_state_dict_to_peft(named)
    layers = dict(unet.named_modules())
    for key, tensor in named.items():
        layer, _, factor = key.partition(".lora_")
        if factor == "B.bias":
            continue
        if factor not in ("A.weight", "B.weight"):
            raise ModelError(f"{path} has {key}, which is not a LoRA factor that tadp knows. Get the file again.")
        other = f"{layer}.lora_{'B' if factor.startswith('A') else 'A'}.weight"
        if other not in named:
            raise ModelError(f"{path} has {key}, but not {other}; a LoRA changes a layer by both. Get the file again.")
        weight = getattr(layers.get(layer), "weight", None)
        if weight is None:
            raise ModelError(f"{path} changes {layer}, which this model lacks. {_hint(unet)}")
        side = 1 if factor.startswith("A") else 0
        if tensor.shape[side] != weight.shape[side]:
            channels = "input" if side else "output"
            raise ModelError(
                f"{path} changes {layer} with {tensor.shape[side]} {channels} channels, but the model's layer has "
                f"{weight.shape[side]}. {_hint(unet)}"
            )


def _hint(unet: Any) -> str:
    return f"It was trained for another family than that of this {type(unet).__name__}."


def _warn_about_rest(keys: list[str], path: Path) -> None:
    if keys:
        warnings.warn(
            f"{path} also changes parts that this model lacks ({len(keys)} tensors, the first is {keys[0]}); they are "
            "ignored.",
            stacklevel=5,  # the caller of `from_pretrained`
        )


def _place(key: str, path: Path) -> tuple[str, str]:
    """The layer that a tensor belongs to, and which of its two factors it is, A or B."""
    match = next(filter(None, (pattern.fullmatch(key) for pattern in _NAMES)), None)
    if match is None:
        raise ModelError(f"{path} has {key!r} for the text encoder, which is not a LoRA factor that tadp knows.")
    groups = match.groupdict()
    layer = groups.get("layer") or f"{groups['block']}.{groups['which']}_proj"
    return layer.removeprefix("text_model."), _FACTORS[groups["factor"]]


def _scale(layer: str, rank: int, metadata: Mapping[str, Any]) -> float:
    """The factor of the product B A: alpha / rank, read from peft's settings as peft does; 1 without settings."""
    if not metadata:
        return 1.0
    patterns = metadata.get("alpha_pattern") or {}
    named = (alpha for name, alpha in patterns.items() if name == f"^{layer}" or f".{layer}".endswith(f".{name}"))
    alpha = next(named, metadata.get("lora_alpha", _DEFAULT_ALPHA))
    return alpha / (rank**0.5 if metadata.get("use_rslora") else rank)


def _checked(module: Any, layer: str, pair: Mapping[str, Tensor], path: Path) -> Tensor:
    """The weight of a layer, after checking that the factors fit it."""
    hint = "It was trained for another text encoder."
    if not isinstance(module, nn.Linear):
        raise ModelError(f"{path} changes {layer} of the text encoder, which this model lacks. {hint}")
    if len(pair) != 2:
        raise ModelError(f"{path} has only one of the two factors of {layer} of the text encoder. Get the file again.")
    size = (pair["B"].shape[0], pair["A"].shape[1])
    if size != tuple(module.weight.shape) or pair["B"].shape[1] != pair["A"].shape[0]:
        raise ModelError(
            f"{path} changes {layer} of the text encoder as a {size[0]}x{size[1]} matrix, but the model's is "
            f"{module.weight.shape[0]}x{module.weight.shape[1]}. {hint}"
        )
    return module.weight
