"""A backbone as an ONNX file."""

import warnings
from pathlib import Path
from typing import Any

import torch

from tadp.backbone import TADPBackbone
from tadp.errors import OutputError
from tadp.export.facts import KEY, Facts
from tadp.export.graph import Shape, checked_shape, output_names, text_inputs
from tadp.export.sizes import trace_at_primes, vary_sizes
from tadp.files.atomic import check_target, replace_folder
from tadp.files.checks import need
from tadp.text.conditioning import Conditioning

INSTALL = "pip install 'tadp[onnx]'"
FOLDED = 4096  # largest number of elements of a constant that is computed at export
OPSET = 18  # the opset that PyTorch's exporter writes; it converts to newer ones


def to_onnx(
    backbone: TADPBackbone,
    path: str | Path,
    *,
    image_size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    text: str | Conditioning | None = None,
    opset: int = OPSET,
) -> Facts:
    """Write a backbone as an ONNX file that any ONNX runtime can run. This needs the extra `onnx`.

    The inputs are `pixels` (B, 3, H, W) in [0, 1], which are not checked, `embeddings` (B, L, D) and, for models that
    take them, the pooled embeddings `pooled` (B, P). The outputs are the maps `map_0` (the finest), `map_1` …, with
    attention attached as in the backbone, and the attention of each level in the option `record_attention`, such as
    `attention_1` for level 1. All are float32. Padding and cropping are part of the graph. The metadata under "tadp"
    contains channels, strides and more (see `Facts`).

    Args:
        backbone: The backbone. It is exported in evaluation mode.
        path: File to write, such as `backbone.onnx`. Weights of more than 1.5 GB are written to a second file next to
            it, `….onnx.data`.
        image_size: (height, width) of the images in pixels. None allows any size from 8 pixels up, which works for
            Stable Diffusion 1.x and 2.x.
        batch_size: Number of images per call; None allows any number.
        text: One text for all images, which becomes part of the file, so that `pixels` is the only input. With None,
            embeddings are an input.
        opset: Version of ONNX's operators, 18 or newer.

    Returns:
        The information that was written to the metadata.

    Raises:
        ValueError: If a size is too small, `opset` is too old, the backbone has an option that cannot be exported, or
            its computation depends on a varying size in another way than through the shapes of its maps.
        MissingExtraError: If onnx or onnxscript is not installed.
        OutputError: If the file cannot be written.
    """
    onnx = need("onnx", install=INSTALL)
    need("onnxscript", install=INSTALL)
    if opset < OPSET:
        raise ValueError(f"opset must be {OPSET} or newer, as PyTorch's exporter writes; got {opset}.")
    path = Path(path).expanduser()
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name the file to write: {path / 'backbone.onnx'}.")
    check_target(path)
    shape = checked_shape(backbone, image_size, batch_size)
    program, fixed_text = trace_at_primes(backbone, shape, text)
    names = text_inputs(backbone)
    tokens = names["embeddings"][0] if fixed_text is None else fixed_text.embeddings.shape[1]
    facts = Facts.of(backbone, tokens=tokens, image_size=image_size, batch_size=batch_size, text=fixed_text)
    converted = _convert(program, ["pixels", *(() if fixed_text else names)], output_names(backbone), opset)
    strides = {name: backbone.strides[int(name.partition("_")[2])] for name in output_names(backbone)}
    with replace_folder(path.parent) as folder:
        file = folder / path.name
        converted.save(file)  # under its final name, which it stores to find its weights
        model = onnx.load(file, load_external_data=False)
        vary_sizes(model, shape, install=INSTALL)
        if image_size is None:
            take_any_size(model, multiple=shape.multiple, strides=strides)
        name_sizes(model, strides=strides, shape=shape)
        onnx.helper.set_model_props(model, {KEY: facts.to_json()})
        onnx.save(model, file)
        onnx.checker.check_model(file)
    return facts


def _convert(program: Any, inputs: list[str], outputs: list[str], opset: int) -> Any:
    """Convert a program, and simplify it as PyTorch's optimizer does, but without its rewrite rules.

    They take half of the time of a conversion, and change nothing that ONNX Runtime does not change at load.
    """
    optimizer = need("onnxscript.optimizer", install=INSTALL)
    passes = need("onnx_ir.passes.common", install=INSTALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=inputs,
            output_names=outputs,
            opset_version=opset,
            optimize=False,
        )
        optimizer.fold_constants(converted.model, output_size_limit=FOLDED, onnx_shape_inference=True)
    for simplify in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
    ):
        simplify(converted.model)
    return converted


def take_any_size(model: Any, *, multiple: int, strides: dict[str, int]) -> None:
    """Add padding after a graph's input `pixels`, and cropping before its outputs, so that it takes images of any size.

    Padding and cropping are those of the backbone: the last row and column are repeated up to a multiple, and a map is
    cropped to ceil(side / stride) cells.

    Args:
        model: An `onnx.ModelProto`, which is changed in place.
        multiple: Number of pixels that the graph's height and width must be multiples of.
        strides: Stride of each output in pixels, by name.
    """
    onnx = need("onnx", install=INSTALL)
    graph, helper = model.graph, onnx.helper
    renamed = {name: f"tadp/padded/{name}" for name in ("pixels", *strides)}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    padding = [
        helper.make_node("Shape", ["pixels"], ["tadp/size"], start=2, end=4),
        helper.make_node("Neg", ["tadp/size"], ["tadp/minus_size"]),
        helper.make_node("Mod", ["tadp/minus_size", "tadp/multiple"], ["tadp/missing"]),  # has the sign of the divisor
        helper.make_node("Concat", ["tadp/before", "tadp/missing"], ["tadp/pads"], axis=0),
        helper.make_node("Pad", ["pixels", "tadp/pads"], [renamed["pixels"]], mode="edge"),
    ]
    # ONNX lists the pads before each axis first, then the pads after each axis.
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
        helper.make_tensor(name, onnx.TensorProto.INT64, [len(values)], values) for name, values in constants.items()
    )


def name_sizes(model: Any, *, strides: dict[str, int], shape: Shape) -> None:
    """Name the variable dimensions of inputs and outputs "batch", "height", "width", "ceil(height / 8)" and so on.

    Args:
        model: An `onnx.ModelProto`, which is changed in place.
        strides: Stride of each output in pixels, by name.
        shape: Shape of the images.
    """
    for value in (*model.graph.input, *model.graph.output):
        names = {} if shape.batch_size is not None else {0: "batch"}
        if shape.image_size is None and (value.name == "pixels" or value.name in strides):
            stride = strides.get(value.name)
            sides = {2: "height", 3: "width"}
            names |= {axis: side if stride is None else f"ceil({side} / {stride})" for axis, side in sides.items()}
        for axis, name in names.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
