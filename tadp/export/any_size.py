"""Padding before and cropping after a graph that takes multiples, written in ONNX, so that a file takes any size."""

from typing import Any

from onnx import TensorProto, helper


def take_any_size(model: Any, *, multiple: int, strides: dict[str, int]) -> None:
    """Put padding in front of a graph's `pixels`, and cropping behind its maps.

    As the backbone does: the last row and column are repeated up to a multiple, and a map is cut to
    ceil(side / stride) cells.

    Args:
        model: An `onnx.ModelProto`, which is changed.
        multiple: What the graph takes multiples of, in pixels.
        strides: For each output, pixels a cell.
    """
    graph = model.graph
    renamed = {name: f"tadp/padded/{name}" for name in ("pixels", *strides)}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    padding = [
        helper.make_node("Shape", ["pixels"], ["tadp/size"], start=2, end=4),
        helper.make_node("Neg", ["tadp/size"], ["tadp/minus_size"]),
        helper.make_node("Mod", ["tadp/minus_size", "tadp/multiple"], ["tadp/missing"]),  # of the divisor's sign
        helper.make_node("Concat", ["tadp/before", "tadp/missing"], ["tadp/pads"], axis=0),
        helper.make_node("Pad", ["pixels", "tadp/pads"], [renamed["pixels"]], mode="edge"),
    ]
    # ONNX lists pads as all befores, then all afters, an axis each.
    constants = {"tadp/multiple": [multiple], "tadp/before": [0] * 6, "tadp/starts": [0, 0], "tadp/axes": [2, 3]}
    cropping = []
    for name, stride in strides.items():
        step, rest, reach, cells = (f"tadp/{name}/{part}" for part in ("stride", "rest", "reach", "cells"))
        constants |= {step: [stride], rest: [stride - 1]}
        cropping += [
            helper.make_node("Add", ["tadp/size", rest], [reach]),
            helper.make_node("Div", [reach, step], [cells]),
            helper.make_node("Slice", [renamed[name], "tadp/starts", cells, "tadp/axes"], [name]),
        ]
    nodes = [*padding, *graph.node, *cropping]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        helper.make_tensor(name, TensorProto.INT64, [len(values)], values) for name, values in constants.items()
    )


def name_sizes(model: Any, *, strides: dict[str, int]) -> None:
    """Call what varies of inputs and outputs "batch", "height", "width" and "ceil(height / 8)".

    Args:
        model: An `onnx.ModelProto`, which is changed.
        strides: For each output, pixels a cell.
    """
    for value in (*model.graph.input, *model.graph.output):
        stride = strides.get(value.name)
        sides = [side if stride is None else f"ceil({side} / {stride})" for side in ("height", "width")]
        dimensions = value.type.tensor_type.shape.dim
        for dimension, name in zip((dimensions[0], *dimensions[2:]), ("batch", *sides), strict=False):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name
