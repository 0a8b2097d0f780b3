"""`tadp data`: inspect a data set before training."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tadp.cli.app import command
from tadp.cli.field_options import field_values, with_fields
from tadp.cli.predict import Task
from tadp.cli.terminal import echo, wrong_usage
from tadp.datasets.readers.data_options import DataOptions


@command(
    "tadp data export",
    "tadp data export -o look",
    "tadp data export --quick",
    "tadp data CamVid --class-names sky,building,pole,road --labels 11=255",
)
@with_fields(DataOptions)
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
    **options: Any,
) -> None:
    """Inspect a data set before training: sizes, classes, split, and everything that is wrong with it.

    The layout of the folder is recognised: COCO json, YOLO, Pascal VOC, masks or depth. Each finding says what to do
    about it. With --output, a sheet shows images with their labels.

    Measurements are kept, so only files that have changed are read the next time. The report says where.

    The exit code is 1 if the split cannot be used (a wrong list or an image in two parts, for example), and 0 with
    other findings.
    """
    from tadp.inspection import inspect

    chosen = {name: value for name, value in field_values(options).items() if value is not None}
    chosen |= {} if task is None else {"task": task.value}
    with wrong_usage():
        inspection = inspect(folder, output=output, quick=quick, show_progress=True, **chosen)
    echo(str(inspection))
    if output is not None:
        echo(f"\nwrote inspection.json and sheet.png to {output}")
    if any(finding.kind in ("wrong split", "wrong list") for finding in inspection.findings):
        echo("the split cannot be used; see the findings", err=True)
        raise typer.Exit(1)
