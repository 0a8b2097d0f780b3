"""A LoRA over a base model: added to the weights of its denoiser and of its text encoders when the model is loaded."""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from tadp.diffusion.families import family_of
from tadp.errors import MissingFileError, ModelError
from tadp.files.checks import needs
from tadp.files.hub import HubOptions, check_readable, local_file, local_folder

LORA_NAME = "pytorch_lora_weights.safetensors"  # what diffusers writes
_SUFFIX = ".safetensors"
_ADAPTER = "tadp"
# A layer and which factor: as peft names them, as diffusers did before, and as it did before that.
_NAMES = (
    re.compile(r"(?P<layer>.+)\.lora_(?P<factor>A|B)\.weight"),
    re.compile(r"(?P<layer>.+)\.lora_linear_layer\.(?P<factor>down|up)\.weight"),
    re.compile(r"(?P<block>.+\.self_attn)\.to_(?P<which>q|k|v|out)_lora\.(?P<factor>down|up)\.weight"),
)
_FACTORS = {"A": "A", "B": "B", "down": "A", "up": "B"}
_DEFAULT_ALPHA = 8  # peft's


def fuse_lora(unet: Any, encoders: Mapping[str, Any], name: str | Path, *, scale: float, hub: HubOptions) -> None:
    """Add a LoRA to a denoiser's weights and to its text encoders', where it costs nothing and is saved with them.

    Read by diffusers' own loader, so files of diffusers, peft and kohya's scripts will do.

    Args:
        unet: Of the family the LoRA was trained for; it is changed.
        encoders: Models of the text encoders by their folder's name, "text_encoder"; they are changed.
        name: A .safetensors file, a folder with one, or either on the hub.
        scale: How much of it is added.
        hub: How it is downloaded.

    Raises:
        UnknownModelError, MissingFileError, CorruptFileError: If it is not to be had.
        ModelError: If it was trained for another family; the message says what does not fit.
        MissingExtraError: If peft is not installed.
    """
    path = _lora_file(name, hub)
    prefix = family_of(unet).part
    state, alphas = _read(unet, path)
    metadata = _metadata(path)
    parts = {part: _below(state, part) for part in (prefix, *encoders)}
    if not any(parts.values()):
        raise ModelError(f"{path} changes nothing of the {prefix}. {_cure(unet)}")
    _check_lora(unet, parts[prefix], path)
    for part, model in encoders.items():
        add_to_encoder(
            model, parts[part], path, alphas=_below(alphas or {}, part), metadata=_below(metadata, part), scale=scale
        )
    known = tuple(f"{part}." for part in parts)
    _tell_of_rest([key for key in state if not key.startswith(known)], path)
    if parts[prefix]:
        _fuse_denoiser(unet, prefix, state, alphas=alphas, metadata=metadata, scale=scale)


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


def _fuse_denoiser(
    unet: Any, prefix: str, state: dict[str, Tensor], *, alphas: Any, metadata: dict[str, Any], scale: float
) -> None:
    lora = family_of(unet).lora(unet)
    load = lora.mixin.load_lora_into_unet if prefix == "unet" else lora.mixin.load_lora_into_transformer
    scales: dict[str, Any] = {"network_alphas": alphas} if lora.takes_alphas else {}
    if _below(metadata, prefix):
        scales = dict.fromkeys(scales) | {"metadata": metadata}  # peft's settings say alphas too
    with needs("a LoRA needs peft", install="pip install 'tadp[train]'"):
        load(state, **{prefix: unet}, adapter_name=_ADAPTER, **scales)
    unet.fuse_lora(lora_scale=scale)
    unet.unload_lora()
    unet.requires_grad_(True)  # peft froze it


def _read(unet: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, float] | None]:
    """Tensors by diffusers' names, and alphas if they come apart."""
    lora = family_of(unet).lora(unet)
    tensors = load_file(path)
    if any("dora_scale" in key or "lora_magnitude_vector" in key for key in tensors):
        raise ModelError(f"{path} is a DoRA, which diffusers would read without its magnitudes; tadp adds LoRAs alone.")
    try:
        found = lora.mixin.lora_state_dict(tensors, **lora.options)
    except (ValueError, LookupError, RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(f"{path} is no LoRA that diffusers reads for a {type(unet).__name__}: {error}") from error
    return found if isinstance(found, tuple) else (found, None)


def _metadata(path: Path) -> dict[str, Any]:
    """Settings of peft for each part, which newer files of diffusers hold: "unet.lora_alpha" and so on."""
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))


def _below(named: Mapping[str, Any], part: str) -> dict[str, Any]:
    """What belongs to a part, without its name."""
    return {key.removeprefix(f"{part}."): one for key, one in named.items() if key.startswith(f"{part}.")}


def _lora_file(name: str | Path, hub: HubOptions) -> Path:
    if str(name).endswith(_SUFFIX):
        path = local_file(name, hub=hub)
    else:
        known = f"Pass a {_SUFFIX} file, or a folder or hub id with {LORA_NAME}."
        folder = local_folder(name, patterns=[LORA_NAME], known=known, hub=hub)
        there = [LORA_NAME] if (folder / LORA_NAME).exists() else sorted(one.name for one in folder.glob(f"*{_SUFFIX}"))
        if len(there) != 1:
            raise MissingFileError(f"no {LORA_NAME} in {name}, which has {', '.join(there) or 'none'}; name the file.")
        path = folder / there[0]
    check_readable(path)
    return path


def _check_lora(unet: Any, named: dict[str, Tensor], path: Path) -> None:
    """Every tensor has a layer whose weight it fits, or a ModelError."""
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    if named and not any(".lora_A" in key for key in named):
        named = convert_unet_state_dict_to_peft(named)
    layers = dict(unet.named_modules())
    for key, tensor in named.items():
        layer, _, factor = key.partition(".lora_")
        if factor not in ("A.weight", "B.weight"):
            continue
        weight = getattr(layers.get(layer), "weight", None)
        if weight is None:
            raise ModelError(f"{path} changes {layer}, which this model has not. {_cure(unet)}")
        side = 1 if factor.startswith("A") else 0
        if tensor.shape[side] != weight.shape[side]:
            what = "takes" if side else "gives"
            raise ModelError(
                f"{path} changes {layer}, where it {what} {tensor.shape[side]} channels and the model's layer "
                f"{weight.shape[side]}. {_cure(unet)}"
            )


def _cure(unet: Any) -> str:
    return f"It was trained for another family than this {type(unet).__name__}."


def _tell_of_rest(keys: list[str], path: Path) -> None:
    if keys:
        warnings.warn(
            f"{path} also changes parts that this model has not ({len(keys)} tensors, {keys[0]} first); they are left "
            "out.",
            stacklevel=5,  # the caller of `from_pretrained`
        )


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
