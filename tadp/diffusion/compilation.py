"""Compile the repeated parts of a network in place, such as resnets and transformer blocks, with `torch.compile`.

Parts of one kind, which have the same class and the same shapes of weights, share their compiled code. So a network is
compiled as often as it has kinds of parts. Names and weights of the network do not change: like
`torch.nn.Module.compile`, this only sets what a call of a part runs.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from tadp.diffusion.attention import AttentionRecorder
from tadp.files.inference import makes_graph

Backend: TypeAlias = str | Callable[..., Any]
# Torch's default, 8, is too low for a kind: it has code of its own with and without gradients, with and without
# recorded attention, and for a single image and a single row or column of cells.
RECOMPILE_LIMIT = 64


def compile_parts(
    parts: Mapping[str, nn.Module],
    *,
    backend: Backend,
    mode: str | None,
    options: Mapping[str, Any] | None,
    fullgraph: bool,
    dynamic: bool | None,
) -> None:
    """Compile parts of a network in place. Each is compiled when it first runs.

    Args:
        parts: The parts by name. No part contains another.
        backend: Name of a backend of `torch.compile`, or a function.
        mode: Mode of the backend; None is the default mode.
        options: Options of the backend. With "freezing", each part is compiled for itself where no gradient is
            computed, for each size of images, and again if its weights change.
        fullgraph: Whether a part that does not become one graph is an error.
        dynamic: Whether sizes may vary. With None, code is compiled for any batch size and any number of cells, except
            that one image and one cell have code of their own.

    Raises:
        TypeError: If `backend` is neither a name nor a function.
        ValueError: If `torch.compile` refuses an argument.
    """
    if not isinstance(backend, str) and not callable(backend):
        raise TypeError(f"backend must be the name of a backend of torch.compile or a function; got {backend!r}.")
    arguments: dict[str, Any] = {"backend": backend, "fullgraph": fullgraph, "dynamic": dynamic}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:  # absent in torch 2.8
        arguments["recompile_limit"] = RECOMPILE_LIMIT
    frozen = copies = False
    try:
        if backend == "inductor" and (mode is None or options is None):
            on_cpu = all(weight.device.type == "cpu" for part in parts.values() for weight in part.parameters())
            chosen = ({"layout_optimization": False} if on_cpu else {}) | dict(options or {})
            if mode is not None:
                chosen |= torch._inductor.list_mode_options(mode)
            inductor: Any = torch._inductor
            frozen = chosen.get("freezing", inductor.config.freezing)
            copies = chosen.get("triton.cudagraphs", False)
            arguments["options"] = chosen
        else:
            arguments |= {"mode": mode, "options": options}
        _compiled("check", arguments)  # raises the errors
    except (RuntimeError, AttributeError, AssertionError, TypeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"torch.compile refuses an argument of backbone.compile(): {reason}") from error
    kinds: dict[Any, Callable[..., Any]] = {}
    for name, part in parts.items():
        kind = type(part), tuple((key, weight.shape) for key, weight in part.named_parameters())
        if kind not in kinds:
            kinds[kind] = _compiled(f"{type(part).__name__}_{len(kinds)}", arguments)
        compiled_part = _CompiledPart(name, part, kinds[kind], arguments, freezes=frozen, copies_outputs=copies)
        part._compiled_call_impl = compiled_part


def _compiled(name: str, arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """A compiled `_run` with a code object of its own, because torch counts and limits recompilations by code object.

    Args:
        name: Name of the function in torch's messages.
        arguments: Arguments of `torch.compile`.
    """
    code = _run.__code__.replace(co_name=name)
    function = FunctionType(code, _run.__globals__, name, None, _run.__closure__)
    options = arguments["options"]
    copied: dict[str, Any] = {"options": None if options is None else dict(options)}  # torch.compile changes it
    return torch.compile(function, **(dict(arguments) | copied))


class _CompiledPart:
    """What a call of a compiled part runs.

    Args:
        name: The part's name in its network.
        part: The part.
        compiled: `_run`, compiled for all parts of the same kind.
        arguments: Arguments of `torch.compile`.
        freezes: Whether weights become constants where no gradient is computed.
        copies_outputs: Whether outputs are copied, because the next run of a CUDA graph overwrites them.
    """

    def __init__(
        self,
        name: str,
        part: Any,
        compiled: Callable[..., Any],
        arguments: dict[str, Any],
        *,
        freezes: bool,
        copies_outputs: bool,
    ):
        self.name, self.part, self.compiled, self.arguments = name, part, compiled, arguments
        self.freezes, self.copies_outputs = freezes, copies_outputs
        self._frozen: tuple[Any, Callable[..., Any]] | None = None  # the weights and the code that has them

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the part with its own arguments."""
        if makes_graph():  # the part becomes a piece of a larger graph
            return self.part._call_impl(*arguments, **named)
        values = [*arguments, *named.values()]
        recorder = next((value["recorder"] for value in values if _has_recorder(value)), None)
        levels, keep_heads = (), False
        if recorder is not None:
            levels = tuple(sorted(recorder.levels & _levels(self.part)))
            keep_heads = bool(levels) and recorder.keep_heads
        inputs = self.part, _with_recorder(values, None), tuple(named), levels, keep_heads
        if self.freezes and not torch.is_grad_enabled():
            output, recorded = self._run_frozen(*inputs)
        else:
            if self.arguments["dynamic"] is None:
                _mark_sizes(values)
            output, recorded = self.compiled(*inputs)
        if self.copies_outputs:
            output, recorded = tree_map_only(Tensor, torch.clone, (output, recorded))
        if recorder is not None:
            for number, (level, probabilities) in enumerate(recorded):
                recorder.store(f"{self.name}.{number}", level, probabilities)
        return output

    def _run_frozen(self, *inputs: Any) -> Any:
        """Run code in which the weights are constants, after compiling it if the weights are others than before."""
        tensors = [*self.part.parameters(), *self.part.buffers()]
        weights = [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
        if self._frozen is None or self._frozen[0] != weights:
            arguments = self.arguments | {"dynamic": False}  # kernels for weights in this layout are slow for any size
            self._frozen = weights, _compiled(f"{type(self.part).__name__}_{self.name}", arguments)
        inductor: Any = torch._inductor
        with inductor.config.patch(freezing=True):  # torch.compile reads it only from there
            return self._frozen[1](*inputs)


class _PartRecorder(AttentionRecorder):
    """A recorder for one part, which lists its maps. It does not read the names of layers, which would be constants."""

    def __init__(self, levels: Iterable[int], *, keep_heads: bool):
        super().__init__(tuple(levels), keep_heads=keep_heads)
        self.recorded: list[tuple[int, Tensor]] = []

    def store(self, layer: str, level: int, probabilities: Tensor) -> None:
        """Keep one layer's map."""
        self.recorded.append((level, probabilities))


def _run(
    part: Any, values: list[Any], names: tuple[str, ...], levels: tuple[int, ...], keep_heads: bool
) -> tuple[Any, list[tuple[int, Tensor]]]:
    """Run a part, and return its output and the attention that it recorded.

    Args:
        part: The part.
        values: The part's arguments, of which the last have names.
        names: Names of the last arguments.
        levels: Levels to record, among those of the part.
        keep_heads: Whether to also record every head.
    """
    recorder = _PartRecorder(levels, keep_heads=keep_heads) if levels else None
    values = _with_recorder(values, recorder)
    count = len(values) - len(names)
    output = part._call_impl(*values[:count], **dict(zip(names, values[count:], strict=True)))
    return output, [] if recorder is None else recorder.recorded


def _has_recorder(value: Any) -> bool:
    return isinstance(value, dict) and value.get("recorder") is not None


def _with_recorder(values: list[Any], recorder: AttentionRecorder | None) -> list[Any]:
    """The arguments of a part with another recorder."""
    return [
        value | {"recorder": recorder} if isinstance(value, dict) and "recorder" in value else value for value in values
    ]


def _levels(part: nn.Module) -> frozenset[int]:
    """The levels whose attention the part can record."""
    processors = [module.__dict__["processor"] for module in part.modules() if "processor" in module.__dict__]
    levels = [getattr(processor, "level", None) for processor in processors]
    return frozenset(level for level in levels if level is not None)


def _mark_sizes(values: Iterable[Any]) -> None:
    """Tell `torch.compile` which sizes of tensors vary: those of the batch and of the image, not those of channels."""
    for value in values:
        if isinstance(value, Tensor):
            sizes = (0, 2, 3) if value.ndim == 4 else tuple(range(value.ndim - 1))
            torch._dynamo.maybe_mark_dynamic(value, sizes)
        elif isinstance(value, list | tuple):
            _mark_sizes(value)
