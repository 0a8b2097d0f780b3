"""A backbone as a program of `torch.export`."""

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
    """Trace a backbone: pixels and embeddings in, maps out.

    The program's inputs are `pixels` (B, 3, H, W) in [0, 1], which are not checked, `embeddings` (B, L, D) and, for
    models that take it, `pooled` (B, P); all float32. It returns a dictionary: `map_0`, the finest, to `map_n`, with
    attention attached as the backbone does, and `attention_1` and so on for each level of `record_attention`.

    Args:
        backbone: As it is in evaluation mode; of any dtype.
        image_size: (height, width) in pixels; padding and cropping become a part. None for any multiples of the
            backbone's own (64 pixels for Stable Diffusion 1.x) from two of them up: pad before and crop after, see
            docs/export.md.
        batch_size: Images of a call; None for 1 to 63.
        text: One text for all images, which becomes a part of the program; then it takes pixels alone.

    Returns:
        A program that `torch.export.save` writes; `program.module()(pixels, embeddings)` runs it.

    Raises:
        ValueError: If a size is too small, or the backbone does what no graph can.
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
    """The program, and the text in it."""
    check_exportable(backbone)
    multiple = backbone.vae.reduction * backbone.layout.multiple
    shape = Shape(image_size, batch_size, multiple)
    check_any_size(backbone, shape)
    held = checked_text(backbone, text)
    count, height, width = shape.example()
    place: Any = {"device": backbone.device}
    arguments: dict[str, torch.Tensor] = {"pixels": torch.zeros(count, 3, height, width, **place)}
    of_pixels, of_text = shape.dynamic()
    varies: dict[str, Any] = {"pixels": of_pixels}
    for name, sides in ({} if held else text_inputs(backbone)).items():
        arguments[name] = torch.zeros(count, *sides, **place)
        varies[name] = of_text
    was_training = backbone.training
    try:
        graph = ExportedBackbone(backbone.eval(), held).eval()
        with torch.no_grad():
            return torch.export.export(graph, tuple(arguments.values()), dynamic_shapes=varies), held
    finally:
        backbone.train(was_training)
