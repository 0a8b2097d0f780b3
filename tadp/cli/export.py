"""`tadp export`: write a backbone as an ONNX file."""

import re
from pathlib import Path
from typing import Annotated

import typer

from tadp.cli.app import Revision, Variant, command
from tadp.cli.terminal import Dtype, echo, load_backbone, status, wrong_usage


@command(
    "tadp export tadp-tiny -o tiny.onnx",
    'tadp export stable-diffusion-v1-5/stable-diffusion-v1-5 -o sd15.onnx --size 512x512 --text "a street"',
)
def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="tadp-tiny, a folder in diffusers layout, or a hub id.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.", show_default=False)],
    image_size: Annotated[
        str | None,
        typer.Option(
            "--size", help="Height x width of images in pixels, such as 512x512.", show_default="any from 8x8 up"
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Number of images per call.", show_default="any")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            "--text", help="A text for all images, stored in the file.", show_default="each call gets embeddings"
        ),
    ] = None,
    opset: Annotated[int, typer.Option("--opset", min=18, help="Version of the ONNX operator set.")] = 18,
    revision: Revision = None,
    variant: Variant = None,
) -> None:
    """Write a backbone as an ONNX file, which takes images and embeddings and returns maps.

    Needs pip install 'tadp[onnx]'. Attention is attached to the maps as the model's configuration says.
    """
    from tadp.export import to_onnx

    sides = re.fullmatch(r"(\d+)x(\d+)", image_size or "0x0")
    if sides is None:
        raise typer.BadParameter(
            f"{image_size!r} is not a size; pass height x width, such as 512x512.", param_hint="--size"
        )
    backbone = load_backbone(model, dtype=Dtype.float32, device="cpu", revision=revision, variant=variant)
    sides_px = None if image_size is None else (int(sides[1]), int(sides[2]))
    with status(f"exporting {model}"), wrong_usage():
        facts = to_onnx(backbone, output, image_size=sides_px, batch_size=batch_size, text=text, opset=opset)
    maps = ", ".join(
        f"{channels} at stride {stride}" for channels, stride in zip(facts.channels, facts.strides, strict=True)
    )
    echo(f"wrote {output}; maps of {maps} channels")
