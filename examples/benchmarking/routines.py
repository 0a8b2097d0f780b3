"""The public routines that compute a layer of a pass, and their time."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarking.layers import Layer
from tadp.files.fast_layers import fast_layers

TADP, DIFFERS = "tadp", "differs by"
BOUND = 1e-5  # relative L2 difference up to which two results are the same but for rounding
LAST = torch.channels_last
MKLDNN, PLAIN = torch.ops.mkldnn, ("none", [], "")  # no operation is fused


def time_of(layer: Layer, repeats: int) -> dict[str, float]:
    """The CPU seconds of each routine for a layer. All routines run in turn.

    The name of a routine whose result differs by more than the bound says so; it does not count.
    """
    routines = (_attention if layer.kind == "attention" else _product if layer.weight else _pointwise)(layer)
    expected, seconds, errors = None, dict.fromkeys(routines, float("inf")), {}
    for _ in range(repeats):
        for name, routine in routines.items():
            start = time.process_time()
            result = routine()
            seconds[name] = min(seconds[name], time.process_time() - start)
            expected = result if expected is None else expected
            errors[name] = float((result.reshape(expected.shape) - expected).norm() / expected.norm())
    return {
        name if errors[name] <= BOUND else f"{name} ({DIFFERS} {errors[name]:.0e})": value
        for name, value in seconds.items()
    }


def _product(layer: Layer) -> dict[str, Callable[[], Tensor]]:
    """Routines of a convolution or a linear layer."""
    values, weight = torch.randn(layer.input), torch.randn(layer.weight)
    bias = torch.randn(layer.weight[0])
    large = nn.Linear(6000, 6000, device="meta").to_empty(device="cpu")  # tadp changes routines in large networks only

    def tadp() -> Tensor:
        with fast_layers(large):
            return plain()

    if layer.kind == "linear":

        def plain() -> Tensor:
            return F.linear(values, weight, bias)

        rows = values.reshape(-1, layer.input[-1])
        image, kernel = rows.t()[None, :, :, None], weight[:, :, None, None]
        packed = MKLDNN._reorder_linear_weight(weight, rows.shape[0])
        return {
            TADP: tadp,
            "linear": plain,
            "addmm": lambda: torch.addmm(bias, rows, weight.t()),
            "matmul": lambda: (rows @ weight.t()).add_(bias),
            "convolution": lambda: F.conv2d(image, kernel, bias)[0, :, :, 0].t(),
            "oneDNN": lambda: MKLDNN._linear_pointwise(rows, weight, bias, *PLAIN),
            "packed oneDNN": lambda: MKLDNN._linear_pointwise(rows, packed, bias, *PLAIN),
        }
    stride, padding = (layer.stride,) * 2, (layer.padding,) * 2
    values_last, weight_last = (tensor.contiguous(memory_format=LAST) for tensor in (values, weight))
    packed = MKLDNN._reorder_convolution_weight(weight, padding, stride, (1, 1), 1, layer.input)

    def plain() -> Tensor:
        return F.conv2d(values, weight, bias, stride, padding, (1, 1), 1)

    def onednn(images: Tensor, kernels: Tensor) -> Tensor:
        return MKLDNN._convolution_pointwise(images, kernels, bias, padding, stride, (1, 1), 1, *PLAIN)

    routines: dict[str, Callable[[], Tensor]] = {
        TADP: tadp,
        "conv2d": plain,
        "oneDNN": lambda: onednn(values, weight),
        "packed oneDNN": lambda: onednn(values, packed),
        "channels_last conv2d": lambda: F.conv2d(values_last, weight_last, bias, stride, padding),
        "packed channels_last oneDNN": lambda: onednn(values_last, packed),
    }
    if layer.kind == "1x1 convolution":
        routines["addmm"] = lambda: torch.addmm(bias[:, None], weight.flatten(1), values.flatten(2)[0])
    return routines


def _attention(layer: Layer) -> dict[str, Callable[[], Tensor]]:
    """Routines of attention between queries and keys."""
    batch, heads, queries, width = layer.input
    sizes = (queries, layer.weight[0], layer.weight[0])
    query, key, value = (torch.randn(batch, size, heads, width).transpose(1, 2) for size in sizes)
    contiguous = [tensor.contiguous() for tensor in (query, key, value)]
    empty = torch.empty(1, 1, 1)

    def products() -> Tensor:
        own, other, result = (tensor.flatten(0, 1) for tensor in contiguous)
        scores = torch.baddbmm(empty, own, other.mT, beta=0, alpha=width**-0.5)
        return (scores.softmax(dim=-1) @ result).unflatten(0, (batch, heads))

    return {
        TADP: lambda: F.scaled_dot_product_attention(query, key, value),
        "of contiguous heads": lambda: F.scaled_dot_product_attention(*contiguous),
        "two products": products,
    }


def _pointwise(layer: Layer) -> dict[str, Callable[[], Tensor]]:
    """Routines of a group norm or of SiLU."""
    values = torch.randn(layer.input)
    last = values.contiguous(memory_format=LAST)
    if layer.kind == "SiLU":
        return {TADP: lambda: F.silu(values), "channels_last": lambda: F.silu(last)}
    scale, shift = torch.randn(2, layer.input[1])
    return {
        TADP: lambda: F.group_norm(values, 32, scale, shift),
        "in two steps": lambda: _in_two_steps(values, scale, shift),
        "channels_last group_norm": lambda: F.group_norm(last, 32, scale, shift),
    }


def _in_two_steps(values: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """A group norm from the mean and deviation of each group."""
    groups = values.view(1, 32, -1)
    variance, mean = torch.var_mean(groups, dim=2, correction=0, keepdim=True)
    factor = scale.view(1, 32, -1) / (variance + 1e-5).sqrt()
    offset = shift.view(1, 32, -1) - mean * factor
    return torch.addcmul(offset.view(1, -1, 1, 1), values, factor.view(1, -1, 1, 1))
