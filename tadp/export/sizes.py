"""Sizes that vary in an ONNX file: formulas in place of the numbers of a graph that was traced at one size.

Tracing with symbols takes several times as long as tracing at one size, because PyTorch then asks a computer algebra
system about the shape of every intermediate result. But a size in a graph is a product, such as channels × batch ×
rows × columns. If batch size, rows and columns are primes that divide nothing else, the prime factors of each number
tell which of them it contains.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.node import map_aggregate

from tadp.backbone import TADPBackbone
from tadp.export.graph import Shape
from tadp.export.program import trace
from tadp.files.checks import need
from tadp.text.conditioning import Conditioning

# Batch size, and rows and columns of the coarsest level, to trace with; then others to compare with. They are above
# 999, the last timestep, and divide neither usual numbers of channels or tokens nor 2**63 - 1, ONNX's "to the end".
PRIMES = ((10007, 1009, 1013), (10009, 1019, 1021))
MAX_AXES = 8  # longest list of integers that is read as a shape


@dataclass(frozen=True)
class Varying:
    """A dimension of the images that varies.

    Attributes:
        axis: The axis of the images.
        unit: Number of pixels in a row or column of the coarsest level; 1 for the batch size.
        prime: Number of units that the graph was traced with.
        other: Number of units that the graph is compared with.
    """

    axis: int
    unit: int
    prime: int
    other: int


def varying(shape: Shape) -> list[Varying]:
    """The dimensions of the images that vary."""
    (batch, rows, columns), others = PRIMES
    dimensions = [Varying(0, 1, batch, others[0])] if shape.batch_size is None else []
    if shape.image_size is None:
        dimensions.append(Varying(2, shape.multiple, rows, others[1]))
        dimensions.append(Varying(3, shape.multiple, columns, others[2]))
    return dimensions


def trace_at_primes(
    backbone: TADPBackbone, shape: Shape, text: str | Conditioning | None
) -> tuple[ExportedProgram, Conditioning | None]:
    """Trace a backbone at one size, with a prime number in place of each dimension that varies.

    A second trace with other primes checks that nothing in the graph depends on the sizes except through products.

    Returns:
        The program, and the text that is part of it.

    Raises:
        ValueError: If something in the graph does, or if the backbone has integers that contain one of the primes.
    """
    dimensions = varying(shape)
    traces = [
        trace(
            backbone,
            image_size=shape.image_size or (rows * shape.multiple, columns * shape.multiple),
            batch_size=shape.batch_size or batch,
            text=text,
            allocate=False,
        )
        for batch, rows, columns in (PRIMES if dimensions else PRIMES[:1])
    ]
    if dimensions:
        _check_products(traces[0][0], traces[1][0], dimensions)
    return traces[0]


def _check_products(program: ExportedProgram, other: ExportedProgram, dimensions: list[Varying]) -> None:
    def at_other(value: Any) -> Any:
        while type(value) is int and (dimension := _contained(value, dimensions)):
            value = value // dimension.prime * dimension.other
        return value

    expected = [(target, str(map_aggregate(arguments, at_other))) for target, arguments in _operations(program)]
    constants = (*program.constants.values(), *program.state_dict.values())
    tensors = [constant for constant in constants if isinstance(constant, torch.Tensor)]
    integers = [tensor for tensor in tensors if tensor.dtype in (torch.int32, torch.int64)]
    if expected != [(target, str(arguments)) for target, arguments in _operations(other)] or any(
        ((tensor > 0) & (tensor % dimension.prime == 0)).any() for tensor in integers for dimension in dimensions
    ):
        raise ValueError(_refusal(dimensions))


def _operations(program: ExportedProgram) -> list[tuple[str, Any]]:
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, GraphModule)]
    return [(str(node.target), (node.args, node.kwargs)) for graph in graphs for node in graph.nodes]


def _contained(value: int, dimensions: list[Varying]) -> Varying | None:
    """The first of the dimensions that a number contains as a factor; None if it contains none."""
    return next((dimension for dimension in dimensions if value > 0 and value % dimension.prime == 0), None)


def _refusal(dimensions: list[Varying]) -> str:
    arguments = ["batch_size=1"] if dimensions[0].axis == 0 else []
    arguments += ["image_size=(height, width)"] if dimensions[-1].axis == 3 else []
    return (
        "this backbone uses the size of its images or of the batch in another way than in the shapes of its maps, so "
        f"a graph works for a single size; pass {' and '.join(arguments)}."
    )


class _Formulas:
    """Nodes that compute the numbers of a graph from the shape of its input `pixels`."""

    def __init__(self, onnx: Any, dimensions: list[Varying]):
        self.onnx, self.dimensions = onnx, dimensions
        self.nodes = [onnx.helper.make_node("Shape", ["pixels"], ["tadp/shape"])]
        self.constants: list[Any] = []
        self._sizes: dict[int, str] = {}

    def size(self, value: int) -> str:
        """The name of a tensor of one element that is this number at the size of the trace."""
        if value not in self._sizes:
            self._sizes[value] = f"tadp/sizes/{value}"
            self._compute(value)
        return self._sizes[value]

    def _compute(self, value: int) -> None:
        name, dimension = f"tadp/sizes/{value}", _contained(value, self.dimensions)
        if dimension is None:
            self.constants.append(self.onnx.helper.make_tensor(name, self.onnx.TensorProto.INT64, [1], [value]))
        elif value == dimension.prime:
            self._node("Gather", ["tadp/shape", self.size(dimension.axis)], f"{name}/pixels")
            self._node("Div", [f"{name}/pixels", self.size(dimension.unit)], name)
        else:
            self._node("Mul", [self.size(value // dimension.prime), self.size(dimension.prime)], name)

    def replace(self, tensor: Any, values: list[int]) -> None:
        """Compute a constant of the graph."""
        parts = [self.size(value) for value in values]
        if tensor.dims:
            self._node("Concat", parts, tensor.name, axis=0)
        else:
            self._node("Squeeze", parts, tensor.name)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: int) -> None:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], **attributes))


def vary_sizes(model: Any, shape: Shape, *, install: str) -> None:
    """Replace the numbers of a graph that depend on the size of its input `pixels` by formulas.

    Args:
        model: An `onnx.ModelProto` of a program that `trace_at_primes` returned, which is changed in place.
        shape: The shape that `trace_at_primes` received.
        install: Command that installs onnx.

    Raises:
        ValueError: If a size became part of an attribute or of the shape of a constant, where no formula can be.
    """
    onnx = need("onnx", install=install)
    graph, dimensions = model.graph, varying(shape)
    if not dimensions:
        return
    fixed = [side for tensor in graph.initializer for side in tensor.dims]
    fixed += [value for node in graph.node for attribute in node.attribute for value in (attribute.i, *attribute.ints)]
    if any(_contained(value, dimensions) for value in fixed):
        raise ValueError(_refusal(dimensions))
    formulas, kept = _Formulas(onnx, dimensions), []
    for tensor in graph.initializer:
        values = []
        if tensor.data_type == onnx.TensorProto.INT64 and sum(tensor.dims) <= MAX_AXES:
            values = onnx.numpy_helper.to_array(tensor).flatten().tolist()
        if any(_contained(value, dimensions) for value in values):
            formulas.replace(tensor, values)
        else:
            kept.append(tensor)
    nodes = [*formulas.nodes, *graph.node]
    del graph.initializer[:], graph.node[:], graph.value_info[:]  # the last has the shapes at the primes
    graph.initializer.extend([*kept, *formulas.constants])
    graph.node.extend(nodes)
