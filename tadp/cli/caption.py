"""`tadp caption`: write captions of images."""

import os
from collections.abc import Iterator, Mapping
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
from tadp.cli.terminal import TINY, Dtype, echo, fail, load_captioner, no_gc, progress, report_left_out, warn_about_tiny
from tadp.errors import CaptionError, ImageError, OutputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from tadp.captioner import Captioner
    from tadp.captioner.quality import Caption
    from tadp.captions import CaptionTable
    from tadp.captions.partial import Partial
    from tadp.text.clip_tokenizer import TokenCounter
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

    The file gets its name only when every image has been tried. Until then, even if the command is interrupted,
    fails or is killed, the captions are in a file next to it, such as captions.json.part.db for captions.json, and
    the same command continues from there. --overwrite replaces an existing file once the new one is complete, and
    discards a .part.db from another model or other options.

    For many images, write a .db file. Captions are saved after every batch, and a second run continues wherever the
    first stopped. If the file has captions from another model or other options, the command stops unless you pass
    --mix. In a .db, ids are paths below the folder you pass, such as pets/rex for photos/pets/rex.jpg in photos, so
    pass the same folder every time. An id that already belongs to another image file is refused.
    """
    with no_gc():
        from tadp.captions import CaptionTable
        from tadp.captions.image_ids import ImageList, caption_ids

    is_table = output is not None and check_caption_file(output, overwrite=overwrite)
    if mix and not is_table:
        raise typer.BadParameter("only a .db can be added to; pass --output with a .db.", param_hint="--mix")
    image_list = ImageList.of(images)
    keys = image_list.path_ids() if is_table else caption_ids(image_list.names)
    report_left_out(image_list.left_out)
    ids, failed = _usable_ids(keys)
    for error in image_list.unreadable.values():
        fail(error)
    describe = load_captioner(
        model,
        device,
        batch_size=batch_size,
        min_new_tokens=min_new_tokens,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        prompt=prompt,
        dtype=dtype,
        revision=revision,
    )
    how: dict[str, Any] = {"text_encoder": _load_text_encoder(text_encoder)}
    if output is None:
        failed += _fill_table(CaptionTable(), ids, describe, home=None, **how)
    elif is_table and not (overwrite and output.exists()):
        failed += _fill_database(output, ids, describe, mix=mix, **how)
    else:
        failed += _fill_file(output, ids, describe, overwrite=overwrite, **how)
    warn_about_tiny(model, others="--model")
    if failed or image_list.unreadable:
        raise typer.Exit(1)


def _usable_ids(keys: Mapping[Path, str]) -> tuple[dict[str, Path], int]:
    """The images by id, and the number of images whose name cannot be an id, which are reported."""
    from tadp.captions.records import check_id

    ids, failed = {}, 0
    for image, key in keys.items():
        try:
            check_id(key)
            ids[key] = image
        except CaptionError as error:
            fail(f"{image}: {error}")
            failed += 1
    return ids, failed


def _fill_database(
    output: Path,
    images: dict[str, Path],
    describe: "Captioner",
    *,
    mix: bool,
    text_encoder: "TextEncoder | None",
) -> int:
    """Caption images into a table on disk; returns how many images have no caption."""
    from tadp.captions import CaptionTable, Provenance

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
        echo(f"{len(images) - len(todo)} done before")
    failed = 0
    with progress() as bar:
        task = bar.add_task("caption", total=len(todo))
        for start in range(0, len(todo), describe.batch_size):
            pictures = {}
            for key in todo[start : start + describe.batch_size]:
                try:
                    pictures[key] = to_pil(images[key])
                except (ImageError, MemoryError, OSError) as error:
                    failed += 1
                    fail(_readable(error, images[key]))
            captions = _described(describe, pictures, counter) if pictures else {}
            for key, caption in captions.items():  # all are kept before one is printed
                if not isinstance(caption, Exception) and caption.text:
                    fields = None if home is None else {SOURCE: _source(images[key], home)}
                    table.add(key, caption.text, fields=fields)
            for key, caption in captions.items():
                if isinstance(caption, Exception):
                    failed += 1
                    is_named = not isinstance(caption, ImageError)  # the captioner only knows its number
                    fail(_readable(caption, images[key]) if is_named else ImageError(f"{images[key]}: ", *caption.args))
                    continue
                failed += not caption.text
                if caption.problem == "broken":
                    fail(f"{images[key]}: the captioner computed NaN or infinity; --dtype float32 may help.")
                    continue
                echo(f"{images[key]}: {caption.text or '(the captioner wrote no caption)'}")
                if caption.problem == "looping":
                    _warn(f"{images[key]}: the caption repeats itself, also on a second try.")
                if caption.fits is False:
                    _warn(
                        f"{images[key]}: the caption has {caption.tokens} tokens, but the text encoder takes "
                        f"{counter.max_length}."
                    )
            bar.advance(task, min(describe.batch_size, len(todo) - start))
    return failed


def _described(
    describe: "Captioner", pictures: "dict[str, Image]", counter: "TokenCounter"
) -> "dict[str, Caption | Exception]":
    """The caption of each image, or the error of an image that the captioner cannot describe."""
    from tadp.files.checks import is_out_of_memory

    try:
        return dict(zip(pictures, describe.describe(list(pictures.values()), text_encoder=counter), strict=True))
    except (ImageError, MemoryError, RuntimeError) as error:
        if not isinstance(error, ImageError) and not is_out_of_memory(error):
            raise
        if len(pictures) == 1:
            return dict.fromkeys(pictures, error)
    return {key: _described(describe, {key: picture}, counter)[key] for key, picture in pictures.items()}


def _fill_file(
    output: Path,
    images: dict[str, Path],
    describe: "Captioner",
    *,
    overwrite: bool,
    text_encoder: "TextEncoder | None",
) -> int:
    """Caption images into a file that is written when all were tried; returns how many images have no caption.

    Captions that do not go into the file stay in the table of partial captions.

    Raises:
        CaptionError: If there are partial captions from another model or other options and `overwrite` is false, or
            of other files under the same ids.
        OutputError: If another run is writing the file.
    """
    from tadp.captions import SUFFIXES, CaptionTable, Provenance
    from tadp.captions.partial import partial_captions

    provenance = Provenance.of(describe)
    with partial_captions(output, provenance, overwrite=overwrite) as partial, told_where(output, partial):
        table = partial.table
        _check_sources(table, images, home=output.parent, redo=f"remove {partial.path}")
        failed = _fill_table(table, images, describe, home=output.parent, text_encoder=text_encoder)
        partial.run.check()
        if output.suffix.lower() in SUFFIXES:
            partial.replace(output)
            return failed
        done = CaptionTable(provenance=provenance)
        done.update((key, table.all(key)) for key in images if key in table)  # in order, without the sources
        left = len(table) - len(done)
        if done:
            _write_table(done, output)
        if left:
            _warn(f"{partial.path} is kept: it has {left} captions of images that were not passed this time.")
        else:
            partial.remove()
        return failed


@contextmanager
def told_where(output: Path, partial: "Partial") -> Iterator[None]:
    """If the command is stopped, print where the captions are."""
    try:
        yield
    except BaseException as error:  # Ctrl-C, a closed pipe and errors
        with suppress(OSError, ValueError):  # the error stream is closed, or the table is gone
            if not len(partial.table):
                partial.remove()
            elif not isinstance(error, CaptionError):  # refused before it began
                state = "is unchanged" if output.exists() else "is not written yet"
                where = f"The new captions are in {partial.path}; the same command continues from there."
                _warn(f"{output} {state}. {where}")
        raise


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
        source = _source(image, home)
        known = table.record(key).fields.get(SOURCE)  # None: written by a tadp that kept no sources
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
    from tadp.captions.partial import tidy
    from tadp.files.atomic import check_target

    suffix = output.suffix.lower()
    if tables and suffix in SUFFIXES:
        return True
    if suffix not in (".json", ".jsonl", ".ndjson", ".parquet"):
        raise typer.BadParameter(
            f"{output} must have one of the suffixes .json, .jsonl, .parquet{', .db' * tables}.", param_hint="--output"
        )
    check_target(output)
    if output.exists() and not overwrite:
        tidy(output, same_ids=tables)
        raise OutputError(
            f"{output} already exists. Pass --overwrite to replace it, or another name"
            f"{'; to resume a run, use a .db' * tables}."
        )
    return False


def _readable(error: Exception, image: Path) -> ImageError:
    """The error of an image that cannot be read, also for want of memory; other errors are raised."""
    from tadp.files.checks import is_out_of_memory

    if is_out_of_memory(error) or (error.__cause__ is not None and is_out_of_memory(error.__cause__)):
        return ImageError(f"{image} needs more memory than there is. Shrink the file.")
    if isinstance(error, ImageError):
        return error
    raise error


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
    echo(message, fg="yellow", err=True)


def _source(image: Path, home: Path) -> str:
    """An image's path relative to the table's folder, so that both can be moved together."""
    try:
        return Path(os.path.relpath(image, home)).as_posix()
    except ValueError:  # on another drive
        return Path(os.path.abspath(image)).as_posix()  # noqa: PTH100  does not resolve links
