"""What `tadp caption` does with its images, batch by batch."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tadp.cli.terminal import fail, progress
from tadp.errors import CaptionError, ImageError

if TYPE_CHECKING:
    from tadp.captioner import Captioner
    from tadp.captions import CaptionTable


def fill_table(table: "CaptionTable", images: dict[str, Path], describe: "Captioner", *, home: Path | None) -> int:
    """Caption what a table lacks, printing each; returns how many images have none in the end.

    Args:
        table: In memory, or on disk.
        images: By id.
        describe: The captioner.
        home: The folder of a table on disk, from which the sources of its captions are told; None for one in memory.

    Raises:
        CaptionError: If the table has the caption of another file under an id.
    """
    from tadp.extract.names import SOURCE
    from tadp.images import to_pil

    todo = table.missing(images)
    if home is not None:
        _check_sources(table, images, set(todo), home)
    if len(todo) < len(images):
        typer.echo(f"{len(images) - len(todo)} done before")
    failed = 0
    with progress() as bar:
        task = bar.add_task("caption", total=len(todo))
        for start in range(0, len(todo), describe.batch_size):
            pictures = {}
            for key in todo[start : start + describe.batch_size]:
                try:
                    pictures[key] = to_pil(images[key])
                except ImageError as error:
                    failed += 1
                    fail(error)
            spoken = dict(zip(pictures, describe.describe(list(pictures.values())), strict=True)) if pictures else {}
            for key, caption in spoken.items():
                if caption.text:
                    fields = None if home is None else {SOURCE: _source(images[key], home)}
                    table.add(key, caption.text, fields=fields)
                failed += not caption.text
                typer.echo(f"{images[key]}: {caption.text or '(the captioner said nothing)'}")
                if caption.problem == "looping":
                    warning = f"{images[key]}: the caption goes round in circles, asked twice."
                    typer.secho(warning, fg="yellow", err=True)
            bar.advance(task, min(describe.batch_size, len(todo) - start))
    return failed


def _check_sources(table: "CaptionTable", images: dict[str, Path], missing: set[str], home: Path) -> None:
    from tadp.extract.names import SOURCE

    for key, image in images.items():
        if key in missing:
            continue
        known, source = table.record(key).fields.get(SOURCE), _source(image, home)  # None: by a tadp that kept none
        if known is not None and known != source:
            raise CaptionError(
                f"the table has a caption {key!r} already, of {home / known}, and {image} is another file. Pass a "
                "folder above both, or another table; if the file was moved, make the table anew with --overwrite."
            )


def _source(image: Path, home: Path) -> str:
    """Where an image is, seen from the table: both may be moved together."""
    try:
        return Path(os.path.relpath(image, home)).as_posix()
    except ValueError:  # on another drive
        return Path(os.path.abspath(image)).as_posix()  # noqa: PTH100  links stay
