"""`tadp convert`: convert a checkpoint of the paper's release, of VPD or of mmseg's VPD to a folder of tadp."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from tadp.cli.app import Revision, command
from tadp.cli.terminal import cell, echo, no_gc, silence, status

if TYPE_CHECKING:
    from tadp.convert import Report


class ConvertTask(StrEnum):
    """The task that a checkpoint must be for."""

    auto = "auto"
    segmentation = "segmentation"
    depth = "depth"
    detection = "detection"


@command(
    "tadp convert tadp_depth_blipmin40.ckpt -o tadp-depth",
    "tadp convert vpd_depth_480x480.pth -o vpd-kitchen --room kitchen",
    "tadp convert tadp_watercolor.pt -o tadp-watercolor --learned-token '<watercolor>'",
)
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The checkpoint: a pickle or a safetensors file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to; it must be new or empty.")],
    base_model: Annotated[
        str,
        typer.Option(
            "--base-model",
            help="The Stable Diffusion model it was trained from, which provides the VAE and the text encoder.",
        ),
    ] = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    task: Annotated[
        ConvertTask, typer.Option("--task", help="The task that the file must be for; auto accepts any.")
    ] = ConvertTask.auto,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="Class names in the order of the outputs, separated by commas.",
            show_default="those in the file or of its data set",
        ),
    ] = None,
    scale_latents: Annotated[
        bool | None,
        typer.Option(
            "--scale-latents/--no-scale-latents",
            help="Whether latents were scaled in training; only depth files do not record it.",
            show_default="as released",
        ),
    ] = None,
    imagenet_pixels: Annotated[
        bool | None,
        typer.Option(
            "--imagenet-pixels/--no-imagenet-pixels",
            help="Whether pixels were normalised by ImageNet's mean and deviation.",
            show_default="as released",
        ),
    ] = None,
    room: Annotated[
        str | None,
        typer.Option(
            "--room",
            help="The room that all images show, one of VPD's 27.",
            show_default="all rooms are kept, and the model takes one for each image",
        ),
    ] = None,
    learned_token: Annotated[
        str | None,
        typer.Option(
            "--learned-token", help="Name of a learned token in the file; '' leaves it out.", show_default=False
        ),
    ] = None,
    allow_unused: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-unused", help="Pattern of tensor names that may be left out. Repeatable.", show_default=False
        ),
    ] = None,
    ignore_frozen: Annotated[
        bool,
        typer.Option(
            "--ignore-frozen", help="Use the base model's VAE and text encoder even if the file has different ones."
        ),
    ] = False,
    revision: Revision = None,
) -> None:
    """Convert a checkpoint of the paper's release, of VPD, or of VPD in mmsegmentation to a folder that tadp loads.

    No code in the file is run. Every tensor is converted, compared with the base model, or left out for a reason that
    is printed. A file with unknown or missing tensors is refused.
    """
    with no_gc():
        from tadp.convert import convert_file

        silence()
    with status(f"converting {file}"):
        report = convert_file(
            file,
            output,
            base_model=base_model,
            task=task.value,
            class_names=None if classes is None else [name.strip() for name in classes.split(",")],
            scale_latents=scale_latents,
            imagenet_pixels=imagenet_pixels,
            room=room,
            learned_token=learned_token,
            allow_unused=allow_unused or (),
            ignore_frozen=ignore_frozen,
            revision=revision,
        )
    _print_report(report)
    echo(f"wrote {output}. To use it: tadp predict {report.task} IMAGE --model {shlex.quote(str(output))}")


def _print_report(report: "Report") -> None:
    table = Table("part", "tensors", "result", title=cell(f"{report.kind} ({report.task})"))
    table.columns[1].justify = "right"
    for part in report.parts:
        table.add_row(cell(part.name), str(part.tensors), cell(part.fate))
    console = Console()
    console.print(table)
    for name, value in report.options.items():
        echo(f"{name} = {value}")
    for note in report.notes:
        echo(f"note: {note}")
