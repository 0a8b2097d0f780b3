"""`tadp caption`: write captions of images."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tadp.cli.app import (
    BatchSize,
    Device,
    DtypeOption,
    Images,
    MaxNewTokens,
    MinNewTokens,
    Overwrite,
    Revision,
    command,
)
from tadp.cli.terminal import TINY, Dtype, fail, load_captioner, progress, warn_about_tiny
from tadp.errors import CaptionError, ImageError, OutputError

if TYPE_CHECKING:
    from tadp.captioner import Captioner
    from tadp.captions import CaptionTable, Provenance
    from tadp.text.encoder import TextEncoder


@command(
    "tadp caption photos -o captions.json",
    "tadp caption photos -o captions.db --min-new-tokens 40",
    "tadp caption rex.jpg --num-beams 5",
)
def caption(
    images: Images,
    model: Annotated[str, typer.Option("--model", "-m", help="tadp-tiny, a folder, or a hub id.")] = TINY,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write: .json, .jsonl, .parquet or .db.", show_default=False),
    ] = None,
    min_new_tokens: MinNewTokens = 0,
    max_new_tokens: MaxNewTokens = 77,
    num_beams: Annotated[
        int, typer.Option("--num-beams", min=1, help="Width of the beam search; 1 is greedy decoding.")
    ] = 1,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="A text for the model to continue, or a question to answer.", show_default=False),
    ] = None,
    batch_size: BatchSize = 8,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            "--text-encoder",
            help="Warn about captions that are too long for this model's text encoder.",
            show_default="the captioner's own model, or else Stable Diffusion's CLIP",
        ),
    ] = None,
    dtype: DtypeOption = Dtype.float32,
    device: Device = None,
    revision: Revision = None,
    mix: Annotated[
        bool, typer.Option("--mix", help="Add to a .db even if its captions came from another model or other options.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Describe images in words, one line per image.

    With -o, the captions are also written to a file, by image id. An image's id is its file name without the suffix,
    such as "rex" for photos/rex.jpg. If two images have the same name, their ids are their paths below the folder,
    such as "a/rex" and "b/rex". A .json file has the format of the paper's authors, {"rex": {"captions": ["a dog on
    grass"]}}. Images that cannot be read, or for which the model writes no caption, are reported and left out. Captions
    that are too long for the text encoder are reported and kept.

    If you interrupt the command, it writes the captions it has, but it never replaces an existing complete file with an
    incomplete one. If the command is killed, or an existing file is kept, the captions are in captions.json.part.db
    (next to captions.json), and the same command continues from there. --overwrite replaces an existing file once all
    captions are complete, and discards a .part.db from another model or other options.

    For many images, write a .db file. Captions are saved after every batch, and a second run continues wherever the
    first stopped. If the file has captions from another model or other options, the command stops unless you pass
    --mix. In a .db, ids are paths below the folder you pass, such as pets/rex for photos/pets/rex.jpg in photos, so
    pass the same folder every time. An id that already belongs to another image file is refused.
    """
    import torch

    from tadp.captions import CaptionTable
    from tadp.extract import ImageList, caption_ids

    is_table = output is not None and check_caption_file(output, overwrite=overwrite)
    if mix and not is_table:
        raise typer.BadParameter("only a .db can be added to; pass --output with a .db.", param_hint="--mix")
    image_list = ImageList.of(images)
    keys = image_list.path_ids() if is_table else caption_ids(image_list.names)
    ids = {key: image for image, key in keys.items()}
    describe = load_captioner(
        model,
        device,
        batch_size=batch_size,
        min_new_tokens=min_new_tokens,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        prompt=prompt,
        dtype=getattr(torch, dtype.value),
        revision=revision,
    )
    how: dict[str, Any] = {"text_encoder": _load_text_encoder(text_encoder)}
    if output is None:
        failed = _fill_table(CaptionTable(), ids, describe, home=None, **how)
    elif is_table:
        failed = _fill_database(output, ids, describe, mix=mix, overwrite=overwrite, **how)
    else:
        failed = _fill_file(output, ids, describe, overwrite=overwrite, **how)
    warn_about_tiny(model, others="--model")
    if failed:
        raise typer.Exit(1)


def _fill_database(
    output: Path,
    images: dict[str, Path],
    describe: "Captioner",
    *,
    mix: bool,
    overwrite: bool,
    text_encoder: "TextEncoder | None",
) -> int:
    """Caption images into a table on disk; returns how many images have no caption."""
    from tadp.captions import CaptionTable, Provenance

    if overwrite:
        output.unlink(missing_ok=True)
    with CaptionTable.create(output, provenance=Provenance.of(describe), mix=mix) as table:
        _check_sources(table, images, home=output.parent, redo="write the table again with --overwrite")
        return _fill_table(table, images, describe, home=output.parent, text_encoder=text_encoder)


def _write_table(table: "CaptionTable", output: Path) -> None:
    suffix = output.suffix.lower()
    if suffix == ".json":
        table.to_json(output)
    elif suffix == ".parquet":
        table.to_parquet(output)
    else:
        table.to_jsonl(output)


def _fill_table(
    table: "CaptionTable",
    images: dict[str, Path],
    describe: "Captioner",
    *,
    home: Path | None,
    text_encoder: "TextEncoder | None" = None,
) -> int:
    """Caption the images that a table has no caption for, and print each caption.

    Args:
        table: The table to fill, in memory or on disk.
        images: Paths of the images, by image id.
        describe: The captioner to run.
        home: The folder that contains a table on disk. The table stores the paths of images relative to it. None for a
            table in memory.
        text_encoder: The text encoder that captions should fit; longer captions are reported. None uses the captioner's
            own `token_counter`.

    Returns:
        The number of images that still have no caption.

    Raises:
        CaptionError: If the table has the caption of another image file under the id of an image.
    """
    from tadp.captions.image_ids import SOURCE
    from tadp.images.reading import to_pil

    counter = text_encoder or describe.token_counter
    todo = table.missing(images)
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
            captions = describe.describe(list(pictures.values()), text_encoder=counter) if pictures else []
            for key, caption in zip(pictures, captions, strict=True):
                if caption.text:
                    fields = None if home is None else {SOURCE: _source(images[key], home)}
                    table.add(key, caption.text, fields=fields)
                failed += not caption.text
                if caption.problem == "broken":
                    fail(f"{images[key]}: the captioner computed NaN or infinity; --dtype float32 may help.")
                    continue
                typer.echo(f"{images[key]}: {caption.text or '(the captioner wrote no caption)'}")
                if caption.problem == "looping":
                    _warn(f"{images[key]}: the caption repeats itself, also on a second try.")
                if caption.fits is False:
                    _warn(
                        f"{images[key]}: the caption has {caption.tokens} tokens, but the text encoder takes "
                        f"{counter.max_length}."
                    )
            bar.advance(task, min(describe.batch_size, len(todo) - start))
    return failed


def _fill_file(
    output: Path,
    images: dict[str, Path],
    describe: "Captioner",
    *,
    overwrite: bool,
    text_encoder: "TextEncoder | None",
) -> int:
    """Write the captions of images to a file that can only be written at the end, such as a .json file.

    Until then, the captions are in a table on disk next to the file, the part file. If a run is killed, the part file
    remains and the next run continues with it. An existing file is only replaced by a complete one. Captions that do
    not go into the file stay in the part file.

    Returns:
        The number of images that have no caption.

    Raises:
        CaptionError: If a part file comes from another model or other options and `overwrite` is false, or if a part
            file has captions of other image files under the same ids.
        OutputError: If another run is writing the file.
    """
    from tadp.captions import CaptionTable, Provenance

    part, provenance = output.with_name(f"{output.name}.part.db"), Provenance.of(describe)
    with _only_run(output), _part_table(part, provenance, overwrite=overwrite) as table:
        is_new, is_done = not output.exists(), False
        _check_sources(table, images, home=output.parent, redo=f"remove {part}")
        try:
            failed = _fill_table(table, images, describe, home=output.parent, text_encoder=text_encoder)
            is_done = True
            return failed
        finally:  # Ctrl-C included
            done = CaptionTable(provenance=provenance)
            done.update((key, table.all(key)) for key in images if key in table)  # in order, without the sources
            left = len(table) - len(done)
            table.close()
            if done and (is_done or is_new):
                _write_table(done, output)
            if not is_done and not is_new:
                _warn(f"{output} is unchanged. The new captions are in {part}; the same command continues from there.")
            elif left:
                _warn(f"{part} is kept: it has {left} captions of images that were not passed this time.")
            else:
                part.unlink(missing_ok=True)


@contextmanager
def _only_run(output: Path) -> Iterator[None]:
    """Hold a lock on the output file. However the process ends, the lock is released.

    Raises:
        OutputError: If another process holds the lock, or the folder cannot be written.
    """
    lock = output.with_name(f"{output.name}.part.lock")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        held = sqlite3.connect(lock, timeout=0, isolation_level=None)
        try:
            held.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error:
            held.close()
            raise
    except (OSError, sqlite3.Error) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise OutputError(f"another run is writing {output}. Wait for it, or choose another name.") from error
        raise OutputError(f"cannot write {output}: {error}. Choose another folder.") from error
    try:
        yield
    finally:
        held.close()
        with suppress(OSError):
            lock.unlink()


def _part_table(part: Path, provenance: "Provenance", *, overwrite: bool) -> "CaptionTable":
    """A part file to continue with, or a new one; `overwrite` replaces one with captions of another origin."""
    from tadp.captions import CaptionTable
    from tadp.captions.records import differences

    try:
        table = CaptionTable.create(part, provenance=provenance, mix=True)
        foreign = [origin for origin in table.provenances if origin != provenance]
        if not foreign:
            return table
        table.close()
        why = ["its captions have another origin: ", *differences(foreign[0], provenance), "."]
    except CaptionError as error:
        why = list(error.args)
    if not overwrite:
        raise CaptionError(
            f"{part} was left by a run that did not finish, and this run cannot continue it: ",
            *why,
            " Pass --overwrite to replace it, or the options of that run to continue it.",
        )
    part.unlink()
    return CaptionTable.create(part, provenance=provenance, mix=True)


def _check_sources(table: "CaptionTable", images: dict[str, Path], *, home: Path, redo: str) -> None:
    """Check that the captions that a table has for images belong to the same image files.

    Args:
        table: A table on disk.
        images: Paths of the images, by image id.
        home: The folder that contains the table.
        redo: The advice for the case that an image was moved, for the error message.

    Raises:
        CaptionError: If the table has the caption of another image file under the id of an image.
    """
    from tadp.captions.image_ids import SOURCE

    missing = set(table.missing(images))
    for key, image in images.items():
        if key in missing:
            continue
        known, source = (
            table.record(key).fields.get(SOURCE),
            _source(image, home),
        )  # None: written by a tadp that kept no sources
        if known is not None and known != source:
            raise CaptionError(
                f"the table already has a caption {key!r}, of {home / known}, and {image} is another file. Pass a "
                f"folder that contains both, or another table; if the file was moved, {redo}."
            )


def check_caption_file(output: Path, *, overwrite: bool, tables: bool = True) -> bool:
    """Check that a file of captions can be written, before any work is done.

    Args:
        output: The file to write.
        overwrite: Whether an existing file may be replaced.
        tables: Whether the command can write an SQLite table.

    Returns:
        Whether the file is an SQLite table, which is written as the run proceeds and can be resumed. Other files are
        written at the end.
    """
    from tadp.captions import SUFFIXES

    suffix = output.suffix.lower()
    if tables and suffix in SUFFIXES:
        return True
    if suffix not in (".json", ".jsonl", ".ndjson", ".parquet"):
        raise typer.BadParameter(
            f"{output} must have one of the suffixes .json, .jsonl, .parquet{', .db' * tables}.", param_hint="--output"
        )
    if output.exists() and not overwrite:
        raise OutputError(
            f"{output} already exists. Pass --overwrite to replace it, or another name"
            f"{'; to resume a run, use a .db' * tables}."
        )
    return False


def _load_text_encoder(model: str | None) -> "TextEncoder | None":
    """The text encoder of a model, which counts the tokens of captions; None if no model is named.

    Raises:
        ModelError: If the model is not available.
    """
    import torch

    from tadp.files.model_folder import model_folder
    from tadp.text.encoder_files import load_text_encoder

    return None if model is None else load_text_encoder(model_folder(model), variant=None, dtype=torch.float32)


def _warn(message: str) -> None:
    """Print a line that is not an error."""
    typer.secho(message, fg="yellow", err=True)


def _source(image: Path, home: Path) -> str:
    """An image's path relative to the table's folder, so that both can be moved together."""
    try:
        return Path(os.path.relpath(image, home)).as_posix()
    except ValueError:  # on another drive
        return Path(os.path.abspath(image)).as_posix()  # noqa: PTH100  does not resolve links
