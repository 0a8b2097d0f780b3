"""Identify a module's weights: a short name for them, and a check that they are still those that were loaded."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tadp.files.diffusers_hooks import is_quantized_weight
from tadp.files.inference import uncompiled

# For each weight, its shape and values spread evenly over it.
WeightSample: TypeAlias = Mapping[str, tuple[torch.Size, Tensor]]

_NOTE = re.compile("_|(torch_)?dtype|transformers_version")  # the beginning of a key
_MOST_VALUES = 4096  # per weight; training changes all values, so a sample is enough


def fingerprint(module: nn.Module) -> str:
    """A short name for a module's weights and the configs of its parts, from a few thousand values of each weight.

    Retraining changes it, and so does another config with the same weights, such as another scaling of latents.
    """
    plain = uncompiled(module)
    configs = [_config(getattr(part, "config", None)) for part in plain.modules()]
    digest = hashlib.sha256(json.dumps(configs, sort_keys=True, default=str).encode())
    for name, weight in sorted(plain.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} ".encode() + _spread(weight).float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _config(config: Any) -> Any:
    """The config of a part of diffusers or transformers, without notes on versions, folders and the data type."""
    from transformers.configuration_utils import PreTrainedConfig  # here, because `tadp info` does not need it

    if isinstance(config, PreTrainedConfig):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {str(key): _config(value) for key, value in config.items() if not _NOTE.match(str(key))}
    return config


def sample_weights(module: nn.Module) -> WeightSample:
    """Sample some values of each weight, for `has_weights` to compare later. A LoRA in the module is ignored."""
    return {name: (weight.shape, _spread(weight).clone()) for name, weight in _own_weights(module).items()}


def has_weights(module: nn.Module, sample: WeightSample) -> bool:
    """Whether a module has the sampled weights, possibly rounded to half precision and converted back."""
    weights = _own_weights(module)
    return weights.keys() == sample.keys() and all(
        weight.shape == sample[name][0] and _is_rounded(_spread(weight), sample[name][1])
        for name, weight in weights.items()
    )


def _own_weights(module: nn.Module) -> dict[str, Tensor]:
    """The weights without LoRAs; under a LoRA, peft keeps a layer's own weight as `base_layer`."""
    return {
        name.replace(".base_layer.", "."): weight
        for name, weight in uncompiled(module).state_dict().items()
        if ".lora_" not in name
    }


def _spread(weight: Tensor) -> Tensor:
    flat = (weight.dequantize() if is_quantized_weight(weight) else weight).detach().flatten()
    return flat[:: max(1, -(-len(flat) // _MOST_VALUES))].cpu()


def _is_rounded(values: Tensor, before: Tensor) -> bool:
    precisions = (values.dtype, torch.float32, torch.bfloat16, torch.float16)
    return any(torch.equal(values, before.to(precision).to(values.dtype)) for precision in precisions)
