"""What weights look like in a module that saves memory by diffusers' means: offloaded, stored in 8 bits, or quantized.

Group offloading keeps weights on another device, and layerwise casting keeps them in 8 bits. Both do so with hooks that
move or convert the weights of a layer just before it runs, so its weights between two calls do not say where and in
which dtype it computes.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tadp.errors import ModelError

# diffusers' names of its hooks
_OFFLOADING, _CASTING, _PREFETCHING = "group_offloading", "layerwise_casting", "lazy_prefetch_group_offloading"
_QUANTIZERS = ("torchao", "bitsandbytes", "optimum")  # packages whose tensors hold quantized weights
LOAD_WITHOUT = "Load the backbone without group_offload=, storage_dtype= and quantization_config="


def compute_dtype(module: nn.Module) -> torch.dtype:
    """The dtype in which a module computes: that of its first weight, unless layerwise casting converts that weight.

    Weights of 8 bits do not count, because nothing computes with them.
    """
    for part in module.modules():
        hook = None if torch.compiler.is_compiling() else _hook(part, _CASTING)
        if hook is not None:
            return hook.compute_dtype
        for weight in part._parameters.values():
            if weight is not None and weight.is_floating_point() and weight.dtype.itemsize > 1:
                return weight.dtype
    return torch.float32


def compute_device(module: nn.Module) -> torch.device:
    """The device on which a module computes: that of its first weight, unless group offloading moves that weight."""
    for part in module.modules():
        hook = None if torch.compiler.is_compiling() else _hook(part, _OFFLOADING)
        if hook is not None:
            return hook.group.onload_device
        for weight in part._parameters.values():
            if weight is not None:
                return weight.device
    return next(module.buffers()).device


def is_hooked(part: nn.Module) -> bool:
    """Whether a module itself has a hook of diffusers. Such a module cannot be copied: the hook belongs to it."""
    registry = None if torch.compiler.is_compiling() else part.__dict__.get("_diffusers_hook")
    return registry is not None and bool(registry.hooks)


def is_offloaded(module: nn.Module | None) -> bool:
    """Whether weights of a module are group-offloaded."""
    return module is not None and any(_hook(part, _OFFLOADING) for part in module.modules())


def is_cast(module: nn.Module | None) -> bool:
    """Whether weights of a module are stored in another dtype than the one in which they compute."""
    return module is not None and any(_hook(part, _CASTING) for part in module.modules())


def is_quantized(module: nn.Module | None) -> bool:
    """Whether a module has quantized weights."""
    return module is not None and any(map(is_quantized_weight, module.parameters()))


def is_quantized_weight(weight: Tensor) -> bool:
    """Whether a weight is quantized by one of the packages that diffusers and transformers use for it."""
    return type(weight).__module__.partition(".")[0] in _QUANTIZERS


def kept_small(module: nn.Module) -> str:
    """What saves memory in a module, for messages; "" if nothing does."""
    ways = {"offloaded": is_offloaded(module), "stored in 8 bits": is_cast(module), "quantized": is_quantized(module)}
    return " and ".join(way for way, is_used in ways.items() if is_used)


def check_trains(module: nn.Module, what: str) -> None:
    """Refuse to train a module that saves memory in a way in which its weights cannot change.

    Args:
        module: The module.
        what: The module in messages, such as "unet".

    Raises:
        ModelError: If its weights are quantized, offloaded or stored in 8 bits.
    """
    if way := kept_small(module):
        raise ModelError(
            f"the {what} cannot train, because its weights are {way}. {LOAD_WITHOUT}, or train only a head: "
            "tune='nothing'."
        )


def check_gradient(module: nn.Module, what: str) -> None:
    """Refuse a gradient through a module whose weights are moved or converted again after each layer.

    Args:
        module: The module.
        what: The module in messages, such as "unet".

    Raises:
        ModelError: If the backward pass would find other weights than the forward pass used.
    """
    if any(map(is_hooked, module.modules())):
        raise ModelError(
            f"no gradient passes through the {what}, because its weights are {kept_small(module)} again after each "
            f"layer. {LOAD_WITHOUT}, or train only a head: tune='nothing' and no text adapter."
        )


def check_hooks(module: nn.Module, uncalled: Iterable[nn.Module], what: str) -> None:
    """Refuse hooks of diffusers on modules that a pass does not call, because it calls their parts one by one.

    Args:
        module: The module that is going to run.
        uncalled: Those of its modules that are not called.
        what: The module in messages, such as "unet".

    Raises:
        ModelError: If such a module has a hook that moves or converts weights, which would never run.
    """
    for part in uncalled:
        offloading = _hook(part, _OFFLOADING)
        has_weights = offloading and (
            offloading.group.modules or offloading.group.parameters or offloading.group.buffers
        )
        if has_weights or _hook(part, _CASTING) or _hook(part, _PREFETCHING):
            name = next(name for name, other in module.named_modules() if other is part)
            raise ModelError(
                f"diffusers' {'offloading' if offloading else 'casting'} waits for a call of "
                f"{f'{name} in the {what}' if name else f'the {what} itself'}, but tadp calls its parts one by one. "
                "Load the model again with group_offload= or storage_dtype= of from_pretrained, or use "
                "offload_type='leaf_level' without use_stream."
            )


def _hook(part: nn.Module, name: str) -> Any:
    registry = part.__dict__.get("_diffusers_hook")
    return None if registry is None else registry.get_hook(name)
