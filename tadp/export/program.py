"""A backbone as a `torch.export` program."""

from typing import Any

import torch
from torch.export import ExportedProgram

from tadp.backbone import TADPBackbone
from tadp.export.graph import ExportedBackbone, check_exportable, checked_shape, checked_text, text_inputs
from tadp.files.inference import in_evaluation
from tadp.text.conditioning import Conditioning


def to_program(
    backbone: TADPBackbone,
    *,
    image_size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    text: str | Conditioning | None = None,
) -> ExportedProgram:
    """Trace a backbone with torch.export into a program from pixels and embeddings to maps.

    The inputs are `pixels` (B, 3, H, W) in [0, 1], which are not checked, `embeddings` (B, L, D) and, for models that
    take them, the pooled embeddings `pooled` (B, P), all float32. The program returns a dictionary with the maps
    `map_0` (the finest), `map_1` …, with attention attached as in the backbone, and the attention of each level in the
    option `record_attention`, such as `attention_1` for level 1.

    Args:
        backbone: A backbone of any dtype. It is exported in evaluation mode.
        image_size: (height, width) of the images in pixels; padding and cropping then become part of the program. With
            None, height and width can be any multiples of the coarsest level's stride (64 pixels for Stable Diffusion
            1.x) from twice this stride on; pad images before the call, and crop maps after it (docs/export.md).
        batch_size: Number of images per call; None allows 1 to 63.
        text: One text for all images, which becomes part of the program, so that `pixels` is the only input. With None,
            embeddings are an input.

    Returns:
        The program. `torch.export.save` writes it, and `program.module()(pixels, embeddings)` runs it.

    Raises:
        ValueError: If a size is too small, or the backbone has an option that cannot be exported.
    """
    program, _ = trace(backbone, image_size=image_size, batch_size=batch_size, text=text)
    return program


def trace(
    backbone: TADPBackbone,
    *,
    image_size: tuple[int, int] | None,
    batch_size: int | None,
    text: str | Conditioning | None,
    allocate: bool = True,
) -> tuple[ExportedProgram, Conditioning | None]:
    """Trace a backbone; return the program, and the text that is part of it.

    With `allocate=False` the example inputs take no memory, but they are not contiguous.
    """
    check_exportable(backbone)
    shape = checked_shape(backbone, image_size, batch_size)
    fixed_text = checked_text(backbone, text)
    count, height, width = shape.example()
    device = backbone.device
    shapes: dict[str, tuple[int, ...]] = {"pixels": (count, 3, height, width)}
    pixel_dimensions, text_dimensions = shape.dynamic()
    dimensions: dict[str, Any] = {"pixels": pixel_dimensions}
    for name, sides in ({} if fixed_text else text_inputs(backbone)).items():
        shapes[name] = (count, *sides)
        dimensions[name] = text_dimensions
    zero = torch.zeros((), device=device)
    arguments = tuple(
        torch.zeros(sides, device=device) if allocate else zero.expand(sides) for sides in shapes.values()
    )
    graph = ExportedBackbone(in_evaluation(backbone), fixed_text).eval()
    with torch.no_grad():
        return torch.export.export(graph, arguments, dynamic_shapes=dimensions), fixed_text
