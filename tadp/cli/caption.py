"""`tadp caption`: images in words."""

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
from tadp.cli.caption_options import check_caption_file, check_sources, fill_file, fill_table, load_text_encoder
from tadp.cli.terminal import TINY, Dtype, load_captioner, tell_of_tiny

if TYPE_CHECKING:
    from tadp.captioner import Captioner
    from tadp.captions import CaptionTable
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
    """Describe images in words, a line an image.

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
    from tadp.extract import caption_ids, output_names, path_ids

    is_table = output is not None and check_caption_file(output, overwrite=overwrite)
    if mix and not is_table:
        raise typer.BadParameter("this is for a .db, which another run adds to.", param_hint="--mix")
    ids = {key: image for image, key in (path_ids(images) if is_table else caption_ids(output_names(images))).items()}
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
    how: dict[str, Any] = {"text_encoder": load_text_encoder(text_encoder)}
    if output is None:
        failed = fill_table(CaptionTable(), ids, describe, home=None, **how)
    elif is_table:
        failed = _fill_database(output, ids, describe, mix=mix, overwrite=overwrite, **how)
    else:
        failed = fill_file(lambda table: _write_table(table, output), output, ids, describe, overwrite=overwrite, **how)
    tell_of_tiny(model, others="--model")
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
        check_sources(table, images, home=output.parent, redo="make the table anew with --overwrite")
        return fill_table(table, images, describe, home=output.parent, text_encoder=text_encoder)


def _write_table(table: "CaptionTable", output: Path) -> None:
    suffix = output.suffix.lower()
    if suffix == ".json":
        table.to_json(output)
    elif suffix == ".parquet":
        table.to_parquet(output)
    else:
        table.to_jsonl(output)
