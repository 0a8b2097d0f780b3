"""Run modules without changing them, and refuse to run them in a forked process, where they would hang."""

import copy
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import nn

from tadp.errors import ModelError
from tadp.files.diffusers_hooks import is_hooked
from tadp.files.fast_layers import fast_layers

Module = TypeVar("Module", bound=nn.Module)

_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks")
_ABOUT_TYPES = re.compile(r"type|same device|meta\b")  # torch's words about tensors that do not go together
_first_pass: list[int] = []  # the process that computed first; a forked child inherits the entry


def in_evaluation(module: Module) -> Module:
    """A copy of a module in evaluation mode. It shares all tensors, and the module itself keeps its mode.

    Switching the module itself would also switch it for a thread that trains it at that moment. Parts that are compiled
    run uncompiled in the copy, because a compiled part is bound to the module itself. A module in evaluation mode that
    is frozen or compiled is returned unchanged.

    Args:
        module: The module to run.
    """
    parts = list(module.modules())
    if any(part.training for part in parts):
        return shallow_copy(module)
    is_frozen = not any(parameter.requires_grad for parameter in module.parameters())
    return module if is_frozen or any(map(_is_compiled, parts)) else shallow_copy(module)


def uncompiled(module: Module) -> Module:
    """A module whose parts are not compiled, so that its weights have the names of its config. It is for saving."""
    return shallow_copy(module) if any(map(_is_compiled, module.modules())) else module


def shallow_copy(module: Module) -> Module:
    """A copy of a module and its parts, uncompiled and in evaluation mode, that shares all tensors."""
    return _copy(module, {})


def _copy(module: Any, copies: dict[int, Any]) -> Any:
    # A script module has its mode and its parts inside C++, and a hook of diffusers moves weights of one module only.
    if isinstance(module, torch.jit.ScriptModule) or is_hooked(module):
        return module
    module = module._modules.get("_orig_mod", module)  # the module inside one that torch.compile wrapped
    if id(module) in copies:
        return copies[id(module)]
    twin = copies[id(module)] = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    # Hooks that a library registers during a call stay in the copy.
    twin.__dict__.update({name: copy.copy(module.__dict__[name]) for name in _HOOKS if name in module.__dict__})
    twin.__dict__["training"] = False
    if module._compiled_call_impl is not None:
        twin.__dict__["_compiled_call_impl"] = None
    for name in ("forward", "_old_forward"):  # accelerate's hooks replace `forward` on the instance
        if name in module.__dict__:
            twin.__dict__[name] = _rebound(module.__dict__[name], module, twin)
    twin.__dict__["_modules"] = {
        name: None if part is None else _copy(part, copies) for name, part in module._modules.items()
    }
    return twin


def _rebound(function: Any, module: nn.Module, twin: nn.Module) -> Any:
    """A method of a module, or a partial function of it, as one of its copy."""
    if isinstance(function, MethodType) and function.__self__ is module:
        return MethodType(function.__func__, twin)
    if isinstance(function, partial) and function.args and function.args[0] is module:
        return partial(function.func, twin, *function.args[1:], **function.keywords)
    return function


def _is_compiled(module: Any) -> bool:
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules


def makes_graph() -> bool:
    """Whether a graph is being made from this call: by torch.compile, torch.export, or TorchScript's tracer."""
    return torch.compiler.is_compiling() or is_tracing()


def is_tracing() -> bool:
    """Whether TorchScript's tracer records this call."""
    return torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def autocasts(device: torch.device) -> bool:
    """Whether autocast chooses dtypes on a device. A device without autocast, such as "meta", returns False."""
    # torch.compile of torch 2.8 does not trace is_autocast_available, and compiles for no device without autocast.
    is_available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type)
    return is_available and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A block in which modules compute in their own dtype, whatever autocast says."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()


def computing(module: nn.Module, what: str) -> AbstractContextManager[None]:
    """A block in which a module runs. Torch's error about parts in several dtypes or places becomes a clear one.

    Args:
        module: The module that runs.
        what: The module in messages, such as "unet".

    Raises:
        ModelError: If the module's parts differ in dtype or device and torch therefore failed.
        RuntimeError: If the process was forked; see `check_process`.
    """
    return nullcontext() if torch.compiler.is_compiling() else _computing(module, what)


@contextmanager
def _computing(module: nn.Module, what: str) -> Iterator[None]:
    check_process()
    try:
        with nullcontext() if any(map(_is_compiled, module.modules())) else fast_layers(module):
            yield
    except (RuntimeError, NotImplementedError) as error:
        parameters = list(module.parameters())
        dtypes = {str(weight.dtype).removeprefix("torch.") for weight in parameters if weight.is_floating_point()}
        devices = {str(weight.device) for weight in parameters}
        is_mixed = len(dtypes) > 1 or len(devices) > 1 or devices == {"meta"}
        if not is_mixed or not _ABOUT_TYPES.search(str(error)) or isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelError(
            f"the {what} has weights of {' and '.join(sorted(dtypes))} on {' and '.join(sorted(devices))}, with which "
            f"torch cannot compute ({next(iter(str(error).splitlines()), 'no message')}). Convert and move it as a "
            "whole."
        ) from error


def check_process(*, starts: bool = True) -> None:
    """Refuse to compute in a process that was forked after its parent had computed.

    A forked child lacks the parent's OpenMP threads and waits for them forever. With one thread, as in the workers of a
    DataLoader, nothing waits.

    Args:
        starts: Whether what follows counts as computing if nothing has computed before.

    Raises:
        RuntimeError: If the process is such a child.
    """
    if torch.compiler.is_compiling():
        return
    if starts and not _first_pass:
        _first_pass.append(os.getpid())
    if _first_pass and _first_pass[0] != os.getpid() and torch.get_num_threads() > 1:
        raise RuntimeError(
            "this process was forked after its parent had computed with tadp, and torch would wait forever for the "
            "parent's threads. Start processes with multiprocessing.get_context('spawn'), or call "
            "torch.set_num_threads(1) in the child."
        )
