"""`tadp convert`: a trained file of the paper's release, of VPD or of mmseg's VPD becomes a folder of ours."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tadp.cli.app import Revision, command
from tadp.cli.terminal import silence, status

if TYPE_CHECKING:
    from tadp.convert import Report


class ConvertTask(StrEnum):
    """What a file must be."""

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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint: a pickle, or safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write: new, or empty.")],
    base_model: Annotated[
        str,
        typer.Option("--base-model", help="The Stable Diffusion it was trained from; VAE and text encoder are its."),
    ] = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    task: Annotated[ConvertTask, typer.Option("--task", help="What the file must be; auto takes what it is.")] = (
        ConvertTask.auto
    ),
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Names in the order of the outputs, with commas.", show_default="of the file"),
    ] = None,
    scale_latents: Annotated[
        bool | None,
        typer.Option(
            "--scale-latents/--no-scale-latents", help="For depth files, which do not tell.", show_default="as released"
        ),
    ] = None,
    imagenet_pixels: Annotated[
        bool | None,
        typer.Option(
            "--imagenet-pixels/--no-imagenet-pixels", help="How pixels were normalised.", show_default="as released"
        ),
    ] = None,
    room: Annotated[
        str | None,
        typer.Option("--room", help="The room of VPD's 27 that images show.", show_default="the mean of all"),
    ] = None,
    learned_token: Annotated[
        str | None,
        typer.Option(
            "--learned-token", help="What a token in the file is called; '' leaves it out.", show_default=False
        ),
    ] = None,
    allow_unused: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-unused", help="Pattern of tensors that may be left out; may be repeated.", show_default=False
        ),
    ] = None,
    ignore_frozen: Annotated[
        bool, typer.Option("--ignore-frozen", help="Use the base's VAE and text encoder though the file has others.")
    ] = False,
    revision: Revision = None,
) -> None:
    """Turn a file of the paper's release, of VPD or of mmseg's VPD into a folder that tadp loads.

    Nothing in the file is run. Every tensor is converted, compared with the base, or dropped for a reason that is
    printed; a file with a tensor that is unknown or missing is refused.
    """
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
    _show(report)
    typer.echo(f"wrote {output}; tadp predict {report.task} IMAGE --model {output}")


def _show(report: "Report") -> None:
    table = Table("part", "tensors", "what became of it", title=Text(f"{report.kind} ({report.task})"))
    table.columns[1].justify = "right"
    for part in report.parts:
        table.add_row(Text(part.name), str(part.tensors), Text(part.fate))
    console = Console()
    console.print(table)
    for name, value in report.options.items():
        typer.echo(f"{name} = {value}")
    for note in report.notes:
        typer.echo(f"note: {note}")
