"""`tadp data`: inspect a data set before training."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tadp.cli.app import command
from tadp.cli.predict import Task
from tadp.cli.terminal import wrong_usage


@command(
    "tadp data export",
    "tadp data export -o look",
    "tadp data export --quick",
    "tadp data CamVid --class-names sky,building,pole,road --labels 11=255",
)
def data(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder of a data set, or its main file.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for sheet.png and inspection.json.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read only label files and the headers of images and masks.")
    ] = False,
    task: Annotated[
        Task | None,
        typer.Option("--task", help="The task, if the folder has labels of several kinds.", show_default=False),
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option("--class-names", help="Names of the classes, with commas between them.", show_default=False),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="What values of masks mean, such as 11=255,12=0.", show_default=False),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option("--scale", help="Metres of one unit in depth files, such as 0.001.", show_default=False),
    ] = None,
    invalid: Annotated[
        float | None,
        typer.Option("--invalid", help="A value that means unknown in depth files.", show_default=False),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            help="Images that stay in one part of a drawn split: folder, or a regular expression for ids.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Inspect a data set before training: sizes, classes, split, and everything that is wrong with it.

    The layout of the folder is recognised: COCO json, YOLO, Pascal VOC, masks or depth. Each finding says what to do
    about it. With --output, a sheet shows images with their labels.

    Measurements are kept, so only files that have changed are read the next time. The report says where.
    """
    from tadp.inspection import inspect

    options: dict[str, Any] = {"task": task and task.value, "scale": scale, "invalid": invalid}
    options["class_names"] = None if class_names is None else [name.strip() for name in class_names.split(",")]
    options["labels"] = None if labels is None else _labels(labels)
    given = {name: value for name, value in options.items() if value is not None}
    with wrong_usage():
        inspection = inspect(folder, output=output, quick=quick, group=group, show_progress=True, **given)
    typer.echo(str(inspection))
    if output is not None:
        typer.echo(f"\nwrote inspection.json and sheet.png to {output}")


def _labels(text: str) -> dict[int, int]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(old.strip().isdecimal() and new.strip().isdecimal() for old, _, new in pairs):
        raise typer.BadParameter(f"labels are written as 11=255,12=0; got {text!r}.", param_hint="--labels")
    return {int(old): int(new) for old, _, new in pairs}
