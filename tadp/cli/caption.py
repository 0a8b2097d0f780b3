"""`tadp caption`: images in words."""

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
    num_beams: Annotated[int, typer.Option("--num-beams", min=1, help="Width of the beam search; 1 is greedy.")] = 1,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="What the model continues or answers.", show_default=False)
    ] = None,
    batch_size: BatchSize = 8,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            "--text-encoder",
            help="Name the captions that this model's text encoder cannot take whole.",
            show_default="the captioner's model's, or else CLIP, as Stable Diffusion has it",
        ),
    ] = None,
    dtype: DtypeOption = Dtype.float32,
    device: Device = None,
    revision: Revision = None,
    mix: Annotated[bool, typer.Option("--mix", help="Add to a .db by another model, or with other options.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Describe images in words, one line per image.

    With -o it writes a file by image id: the image's file name without suffix, "rex" for photos/rex.jpg; where two
    images have the same name, their paths below the folder, "a/rex" and "b/rex". A .json has the form of the paper's
    authors, {"rex": {"captions": ["a dog on grass"]}}. Images that cannot be read, or about which the model says
    nothing, are named and left out; captions that are too long for the text encoder are named and kept. Interrupted, it
    writes what it has, unless there is a whole file to replace, which stays; killed, or where a file stays, it leaves
    captions.json.part.db, with which the same command goes on. --overwrite replaces a file when its captions are
    complete, and drops a .part.db of another model or other options.

    A .db is for many images: captions are kept batch by batch, a second run goes on where the first stopped, whatever
    stopped it, and captions by another model or with other options are refused, unless you pass --mix. Its ids are
    paths below the folder you name, pets/rex for photos/pets/rex.jpg of photos, so name the same folder each time; an
    id that another file has already is refused.
    """
    import torch

    from tadp.captions import CaptionTable
    from tadp.extract import ImageList, caption_ids

    is_table = output is not None and check_caption_file(output, overwrite=overwrite)
    if mix and not is_table:
        raise typer.BadParameter("this is for a .db, which another run adds to.", param_hint="--mix")
    found = ImageList.of(images)
    ids = {key: image for image, key in (found.path_ids() if is_table else caption_ids(found.names)).items()}
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
    """Caption images into a table on disk; how many have no caption."""
    from tadp.captions import CaptionTable, Provenance

    if overwrite:
        output.unlink(missing_ok=True)
    with CaptionTable.create(output, provenance=Provenance.of(describe), mix=mix) as table:
        _check_sources(table, images, home=output.parent, redo="make the table anew with --overwrite")
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
    """Caption what a table lacks, printing each; returns how many images have none in the end.

    Args:
        table: In memory, or on disk.
        images: By id.
        describe: The captioner.
        home: The folder of a table on disk, from which the sources of its captions are told; None for one in memory.
        text_encoder: Captions that it cannot take whole are named; None is the captioner's own `token_counter`.

    Raises:
        CaptionError: If the table has the caption of another file under an id.
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
            said = describe.describe(list(pictures.values()), text_encoder=counter) if pictures else []
            spoken = dict(zip(pictures, said, strict=True))
            for key, caption in spoken.items():
                if caption.text:
                    fields = None if home is None else {SOURCE: _source(images[key], home)}
                    table.add(key, caption.text, fields=fields)
                failed += not caption.text
                typer.echo(f"{images[key]}: {caption.text or '(the captioner said nothing)'}")
                if caption.problem == "looping":
                    _warn(f"{images[key]}: the caption goes round in circles, asked twice.")
                if caption.fits is False:
                    _warn(
                        f"{images[key]}: the caption has {caption.tokens} tokens, the text encoder takes "
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
    """Caption images into a file that can only be written at the end; returns how many have no caption.

    Till then captions are in a table on disk beside it, the part file. A run that is killed leaves that, and the next
    goes on with it. A file that was there is replaced only by a whole one. What does not go into the file stays in the
    part file.

    Raises:
        CaptionError: If a run with another model or other options left one, and `overwrite` is false; or one with
            other files of the same ids.
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
            done.update((key, table.all(key)) for key in images if key in table)  # in order, without their sources
            left = len(table) - len(done)
            table.close()
            if done and (is_done or is_new):
                _write_table(done, output)
            if not is_done and not is_new:
                _warn(f"{output} is as it was. What is captioned is in {part}, with which the same command goes on.")
            elif left:
                _warn(f"{part} stays: it has {left} captions of other images, for a run that names those too.")
            else:
                part.unlink(missing_ok=True)


@contextmanager
def _only_run(output: Path) -> Iterator[None]:
    """Hold a lock on a file to be written, which ends with the process whatever ends that.

    Raises:
        OutputError: If another process holds it, or the folder cannot be written.
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
    """A part file to go on with, or a new one; `overwrite` drops one of another origin."""
    from tadp.captions import CaptionTable
    from tadp.captions.records import differences

    try:
        table = CaptionTable.create(part, provenance=provenance, mix=True)
        others = [one for one in table.provenances if one != provenance]
        if not others:
            return table
        table.close()
        why = ["its captions are of another origin: ", *differences(others[0], provenance), "."]
    except CaptionError as error:
        why = list(error.args)
    if not overwrite:
        raise CaptionError(
            f"{part} was left by a run that did not finish, and cannot be continued: ",
            *why,
            " Pass --overwrite to drop it, or the options of that run to go on with it.",
        )
    part.unlink()
    return CaptionTable.create(part, provenance=provenance, mix=True)


def _check_sources(table: "CaptionTable", images: dict[str, Path], *, home: Path, redo: str) -> None:
    """Refuse images of which the table has the caption of another file under their id.

    Args:
        table: On disk.
        images: By id.
        home: The table's folder.
        redo: What to do if the file was moved.

    Raises:
        CaptionError: If there is such an image.
    """
    from tadp.captions.image_ids import SOURCE

    missing = set(table.missing(images))
    for key, image in images.items():
        if key in missing:
            continue
        known, source = table.record(key).fields.get(SOURCE), _source(image, home)  # None: by a tadp that kept none
        if known is not None and known != source:
            raise CaptionError(
                f"the table has a caption {key!r} already, of {home / known}, and {image} is another file. Pass a "
                f"folder above both, or another table; if the file was moved, {redo}."
            )


def check_caption_file(output: Path, *, overwrite: bool, tables: bool = True) -> bool:
    """Whether it is a table on disk, which a run can resume; refuse what cannot be written before any work is done.

    Args:
        output: The file.
        overwrite: It may be there.
        tables: Tables on disk can be written.
    """
    from tadp.captions import SUFFIXES

    suffix = output.suffix.lower()
    if tables and suffix in SUFFIXES:
        return True
    if suffix not in (".json", ".jsonl", ".ndjson", ".parquet"):
        raise typer.BadParameter(
            f"{output} has none of the suffixes .json, .jsonl, .parquet{', .db' * tables}.", param_hint="--output"
        )
    if output.exists() and not overwrite:
        raise OutputError(
            f"{output} is there already. Pass --overwrite to replace it, or another name"
            f"{'; to resume a run, use a .db' * tables}."
        )
    return False


def _load_text_encoder(model: str | None) -> "TextEncoder | None":
    """The text encoder of a model that captions are counted for, if one was asked for.

    Raises:
        ModelError: If it is not available.
    """
    import torch

    from tadp.files.model_folder import model_folder
    from tadp.text.encoder_files import load_text_encoder

    return None if model is None else load_text_encoder(model_folder(model), variant=None, dtype=torch.float32)


def _warn(message: str) -> None:
    """A line that is no error."""
    typer.secho(message, fg="yellow", err=True)


def _source(image: Path, home: Path) -> str:
    """Where an image is, seen from the table: both may be moved together."""
    try:
        return Path(os.path.relpath(image, home)).as_posix()
    except ValueError:  # on another drive
        return Path(os.path.abspath(image)).as_posix()  # noqa: PTH100  links stay
