"""A backbone as a `torch.export` program."""

from typing import Any

import torch
from torch.export import ExportedProgram

from tadp.backbone import TADPBackbone
from tadp.export.graph import ExportedBackbone, Shape, check_any_size, check_exportable, checked_text, text_inputs
from tadp.text.conditioning import Conditioning


def to_program(
    backbone: TADPBackbone,
    *,
    image_size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    text: str | Conditioning | None = None,
) -> ExportedProgram:
    """Trace a backbone into a program: pixels and embeddings in, maps out.

    The inputs are `pixels` (B, 3, H, W) in [0, 1], which are not checked, `embeddings` (B, L, D) and, for models that
    take them, pooled embeddings `pooled` (B, P), all float32. The program returns a dictionary: `map_0`, the finest, to
    `map_n`, with attention attached as in the backbone, and `attention_1` and so on for each level of
    `record_attention`.

    Args:
        backbone: A backbone of any dtype. It is exported in evaluation mode.
        image_size: (height, width) in pixels; padding and cropping then become part of the program. With None, height
            and width may be any multiples of the backbone's own multiple (64 pixels for Stable Diffusion 1.x), at least
            two times it; pad images before and crop maps after the call (docs/export.md).
        batch_size: Images per call. None allows 1 to 63.
        text: One text for all images, which becomes part of the program. The program then takes only pixels.

    Returns:
        A program for `torch.export.save` to write; `program.module()(pixels, embeddings)` runs it.

    Raises:
        ValueError: If a size is too small, or the backbone does something that cannot be exported.
    """
    program, _ = trace(backbone, image_size=image_size, batch_size=batch_size, text=text)
    return program


def trace(
    backbone: TADPBackbone,
    *,
    image_size: tuple[int, int] | None,
    batch_size: int | None,
    text: str | Conditioning | None,
) -> tuple[ExportedProgram, Conditioning | None]:
    """Trace a backbone; return the program, and the text that is part of it."""
    check_exportable(backbone)
    multiple = backbone.vae.reduction * backbone.layout.multiple
    shape = Shape(image_size, batch_size, multiple)
    check_any_size(backbone, shape)
    fixed_text = checked_text(backbone, text)
    count, height, width = shape.example()
    device = backbone.device
    arguments: dict[str, torch.Tensor] = {"pixels": torch.zeros(count, 3, height, width, device=device)}
    pixel_dimensions, text_dimensions = shape.dynamic()
    dimensions: dict[str, Any] = {"pixels": pixel_dimensions}
    for name, sides in ({} if fixed_text else text_inputs(backbone)).items():
        arguments[name] = torch.zeros((count, *sides), device=device)
        dimensions[name] = text_dimensions
    was_training = backbone.training
    try:
        graph = ExportedBackbone(backbone.eval(), fixed_text).eval()
        with torch.no_grad():
            return torch.export.export(graph, tuple(arguments.values()), dynamic_shapes=dimensions), fixed_text
    finally:
        backbone.train(was_training)
