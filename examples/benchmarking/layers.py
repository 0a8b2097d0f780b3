"""The layers of a pass: which kinds run, on what shapes, and how often."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from benchmarking.variants import SIZES, Variant, build

KINDS = ("3x3 convolution", "1x1 convolution", "linear", "attention", "group norm", "SiLU")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """A kind of layer with the shapes of its input and its weight.

    Attributes:
        kind: One of `KINDS`.
        input: Shape of the input; of attention, batch, heads, queries and channels of a head.
        weight: Shape of the weight; of attention, the number of keys.
        stride: Stride of a convolution.
        padding: Cells added on each side of a convolution's input.
    """

    kind: str
    input: Shape
    weight: Shape = ()
    stride: int = 1
    padding: int = 0

    def __str__(self) -> str:
        if self.kind == "attention":
            return f"attention, {self.input[1]} heads, {self.input[2]} queries, {self.weight[0]} keys"
        cells = "x".join(map(str, self.input[2:] if len(self.input) == 4 else (prod(self.input[:-1]), "rows")))
        channels = f"{self.weight[1]} to {self.weight[0]}" if len(self.weight) > 1 else str(self.input[1])
        return f"{self.kind}, {channels} channels, {cells.replace('x', ' ') if 'rows' in cells else cells}" + (
            ", stride 2" if self.stride > 1 else ""
        )

    @property
    def flops(self) -> int:
        """Operations, two per multiply-add; 0 for layers without products."""
        if self.kind == "attention":
            return 4 * prod(self.input) * self.weight[0]
        if len(self.weight) < 2:
            return 0
        cells = prod(self.input[:-1]) if self.kind == "linear" else prod(self.input[2:]) // self.stride**2
        return 2 * cells * prod(self.weight)


class _Recorder(TorchFunctionMode):
    """Counts the layers that run in the block."""

    def __init__(self) -> None:
        self.layers: Counter[Layer] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.conv2d:
            values, weight, _, stride, padding = args[:5]
            kind = f"{weight.shape[2]}x{weight.shape[3]} convolution"
            self.layers[Layer(kind, tuple(values.shape), tuple(weight.shape), stride[0], padding[0])] += 1
        elif func is F.linear:
            self.layers[Layer("linear", tuple(args[0].shape), tuple(args[1].shape))] += 1
        elif func is F.scaled_dot_product_attention:
            self.layers[Layer("attention", tuple(args[0].shape), (args[1].shape[2],))] += 1
        elif func in (F.group_norm, F.silu):
            kind = "group norm" if func is F.group_norm else "SiLU"
            self.layers[Layer(kind, tuple(args[0].shape))] += args[0].ndim == 4
        return func(*args, **(kwargs or {}))


def layers_of(size: str) -> Counter[Layer]:
    """The layers of the VAE encoder and the U-Net, with how often each runs in a pass."""
    backbone, image, text = build(size, Variant(""), "meta")
    side = SIZES[size][2] // 8
    with torch.no_grad(), _Recorder() as recorder:
        backbone.vae(image)
        backbone.extract(torch.empty(1, 4, side, side, device="meta"), text)
    return +recorder.layers
