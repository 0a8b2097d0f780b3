"""Run the linear layers and small convolutions of a large network with oneDNN's matrix product on a CPU."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

LARGE_NETWORK = 3 * 10**7  # parameters from which a pass takes seconds; smaller networks keep their results to the bit
LARGE, ROWS = 10**5, 32  # weights and rows of a linear layer from which its arithmetic takes longer than calling it
WIDE, FEW_CELLS = 2**23, 256  # weights and cells for which a 3x3 convolution spends its time on laying out its weights


def fast_layers(module: nn.Module) -> AbstractContextManager[Any]:
    """A block in which a module runs the same layers with faster routines, if it computes on a CPU.

    PyTorch computes a linear layer in float32 with MKL. oneDNN, which PyTorch uses for convolutions, has a matrix
    product that is up to a quarter faster on processors of AMD (`examples/layer_speed.py` measures both). It also
    serves convolutions on maps of few cells, for which laying out the weights takes longer than the arithmetic.
    Results only differ by rounding. PyTorch's own routines remain where a gradient is computed, in small networks, and
    in small layers.

    Args:
        module: The module that runs, of which no part is compiled.
    """
    first = next(module.parameters(), None)
    if (
        first is None
        or (first.device.type, first.dtype) != ("cpu", torch.float32)
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)
        or torch._C._get_tracing_state() is not None
        or is_in_torch_dispatch_mode()
        or sum(map(Tensor.numel, module.parameters())) < LARGE_NETWORK
    ):
        return nullcontext()
    return _FastLayers()


class _FastLayers(TorchFunctionMode):
    """Replaces calls of `linear` and `conv2d` on large weights."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.linear and not kwargs and _is_large(*args[:2]) and args[0].numel() >= ROWS * args[0].shape[-1]:
            return _linear(*args)
        if func is F.conv2d and not kwargs and _is_large(*args[:2]) and _is_wide_on_few_cells(*args):
            return _convolve(*args[:3])
        return func(*args, **(kwargs or {}))


def _is_large(values: Tensor, weight: Tensor) -> bool:
    """Whether both are plain tensors in float32 on a CPU, the weight a large one."""
    return weight.numel() >= LARGE and all(
        type(tensor) in (Tensor, nn.Parameter) and tensor.dtype == torch.float32 and tensor.device.type == "cpu"
        for tensor in (values, weight)
    )


def _linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")


def _is_wide_on_few_cells(
    values: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups=1
) -> bool:
    """Whether it is a 3x3 convolution with a border of one cell, and `_convolve` is faster."""
    cells = values.shape[0] * values.shape[-2] * values.shape[-1]
    is_usual = (tuple(weight.shape[2:]), stride, padding, dilation, groups) == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
    return is_usual and weight.numel() >= WIDE and cells <= FEW_CELLS and weight.is_contiguous()


def _convolve(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution as one matrix product of the weights and the neighbourhoods of all cells."""
    batch, _, height, width = values.shape
    neighbours = F.unfold(values, 3, padding=1).transpose(1, 2).reshape(batch * height * width, -1)
    product = _linear(weight.flatten(1), neighbours).unflatten(1, (batch, height, width)).transpose(0, 1)
    return (product if bias is None else product.add_(bias[:, None, None])).contiguous()
