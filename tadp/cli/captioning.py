"""What `tadp caption` does with its images, batch by batch."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tadp.cli.terminal import TINY, fail, progress
from tadp.errors import CaptionError, ImageError

if TYPE_CHECKING:
    from tadp.captioner import Captioner
    from tadp.captions import CaptionTable
    from tadp.text import TextEncoder


def fill_table(
    table: "CaptionTable",
    images: dict[str, Path],
    describe: "Captioner",
    *,
    home: Path | None,
    text_encoder: "TextEncoder | None" = None,
) -> int:
    """Caption what a table lacks, printing each; returns how many images have none in the end.

    Args:
        table: In memory, or on disk.
        images: By id.
        describe: The captioner.
        home: The folder of a table on disk, from which the sources of its captions are told; None for one in memory.
        text_encoder: Captions that it cannot take whole are named; None counts nothing.

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
            said = describe.describe(list(pictures.values()), text_encoder=text_encoder) if pictures else []
            spoken = dict(zip(pictures, said, strict=True))
            for key, caption in spoken.items():
                if caption.text:
                    fields = None if home is None else {SOURCE: _source(images[key], home)}
                    table.add(key, caption.text, fields=fields)
                failed += not caption.text
                typer.echo(f"{images[key]}: {caption.text or '(the captioner said nothing)'}")
                if caption.problem == "looping":
                    warn(f"{images[key]}: the caption goes round in circles, asked twice.")
                if caption.fits is False and text_encoder is not None:
                    most = text_encoder.max_length
                    warn(f"{images[key]}: the caption has {caption.tokens} tokens, the text encoder takes {most}.")
            bar.advance(task, min(describe.batch_size, len(todo) - start))
    return failed


def fill_file(
    write: "Callable[[CaptionTable], None]",
    output: Path,
    images: dict[str, Path],
    describe: "Captioner",
    *,
    overwrite: bool,
    text_encoder: "TextEncoder | None",
) -> int:
    """Caption images into a file that can only be written at the end; returns how many have no caption.

    Till then captions are in a table on disk beside it. A run that is killed leaves that, and the next goes on with it.

    Raises:
        CaptionError: If a run with another model or other options left one.
    """
    from tadp.captions import CaptionTable, Provenance

    part, provenance = output.with_name(f"{output.name}.part.db"), Provenance.of(describe)
    if overwrite:
        part.unlink(missing_ok=True)
    try:
        table = CaptionTable.create(part, provenance=provenance)
    except CaptionError as error:
        raise CaptionError(
            f"{part} was left by a run that was killed, and cannot be gone on with; --overwrite drops it. {error}"
        ) from error
    done = CaptionTable(provenance=provenance)
    with table:
        try:
            return fill_table(table, images, describe, home=output.parent, text_encoder=text_encoder)
        finally:  # Ctrl-C included
            done.update((key, table.all(key)) for key in images if key in table)  # in order, without their sources
            if done:
                write(done)
            table.close()
            part.unlink()


def load_text_encoder(captioner: str, asked: str | None) -> "TextEncoder | None":
    """The text encoder that captions are counted for: the one asked for, or that of the model the captioner is part of.

    Raises:
        ModelError: If it was asked for and is not to be had.
    """
    import torch

    from tadp.loading import model_folder
    from tadp.text_loading import load_text_encoder

    model = asked
    if model is None:
        beside = Path(captioner).parent
        is_part = Path(captioner).name == "captioner" and (beside / "text_encoder").is_dir()
        model = TINY if captioner == TINY else str(beside) if is_part else None
    if model is None:
        return None
    return load_text_encoder(model_folder(model), variant=None, dtype=torch.float32)


def warn(message: str) -> None:
    """A line that is no error."""
    typer.secho(message, fg="yellow", err=True)


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
