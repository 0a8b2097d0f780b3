"""`tadp extract`: write the features of a folder of images to a folder."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from tadp.cli.app import (
    BatchSize,
    Caption,
    CaptionerName,
    Device,
    DtypeOption,
    Images,
    MaxNewTokens,
    MaxSide,
    MinNewTokens,
    Model,
    Revision,
    Truncate,
    Variant,
    command,
)
from tadp.cli.terminal import (
    TINY,
    Dtype,
    caption_source,
    cell,
    check_levels,
    echo,
    fail,
    is_cut,
    load_backbone,
    load_captioner,
    no_gc,
    progress,
    report_left_out,
    warn_about_cut,
    warn_about_tiny,
    wrong_usage,
)
from tadp.errors import TADPError
from tadp.language.grammar import counted

if TYPE_CHECKING:
    from tadp.extract import Outcome, SavedTensors

_ROWS_SHOWN = 20  # rows of the table that is printed after a run


class SavedDtype(StrEnum):
    """Data types of the tensors that are written."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


@command(
    "tadp extract photos -o features",
    "tadp extract photos -o features --captions captions.json",
    'tadp extract photos "more/**/*.png" -o features --caption "a street"',
    "tadp extract photos -o features --model stable-diffusion-v1-5/stable-diffusion-v1-5 "
    "--captioner blip2 --min-new-tokens 20",
    "tadp extract photos -o features --level 1 --level 2 --dtype bfloat16",
    "tadp extract photos -o features --tile 512 --overlap 128",
    "tadp extract photos -o features --shards --level 1 --save-dtype float16 --pool-attention dog --pool-attention cat",
)
def extract(
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.", show_default=False)],
    model: Model = TINY,
    caption: Caption = None,
    captions: Annotated[
        Path | None,
        typer.Option("--captions", help="Caption file, as `tadp caption -o` writes it.", show_default=False),
    ] = None,
    captioner: CaptionerName = None,
    min_new_tokens: MinNewTokens = 0,
    max_new_tokens: MaxNewTokens = 77,
    truncate: Truncate = False,
    level: Annotated[
        list[int] | None,
        typer.Option(
            "--level", min=0, help="Level of a map to write; 0 is the finest. Repeatable.", show_default="all"
        ),
    ] = None,
    attention: Annotated[
        list[int] | None,
        typer.Option(
            "--attention",
            min=0,
            help="A level whose attention is also written, besides that attached to the maps. Repeatable.",
            show_default="none",
        ),
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Also write the attention of every head, at the levels that have attention.")
    ] = False,
    max_side_px: MaxSide = None,
    tile_px: Annotated[
        int | None,
        typer.Option("--tile", min=1, help="Side of tiles in pixels, for large images.", show_default="no tiles"),
    ] = None,
    overlap_px: Annotated[int, typer.Option("--overlap", min=0, help="Overlap of neighbouring tiles in pixels.")] = 128,
    batch_size: BatchSize = 8,
    dtype: DtypeOption = Dtype.float32,
    device: Device = None,
    revision: Revision = None,
    variant: Variant = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results from other settings or from an older image.")
    ] = False,
    shards: Annotated[
        bool, typer.Option("--shards", help="Write a feature store, for any number of images, not files per image.")
    ] = False,
    shard_mb: Annotated[int, typer.Option("--shard-mb", min=1, help="Largest size of a shard, in MB.")] = 256,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try images again that failed in an earlier run with --shards.")
    ] = False,
    pool_attention: Annotated[
        list[str] | None,
        typer.Option(
            "--pool-attention",
            metavar="NAME",
            help="Average attention over a word, noun or class, instead of one channel per token. Repeatable.",
            show_default="no names",
        ),
    ] = None,
    save_dtype: Annotated[
        SavedDtype | None,
        typer.Option("--save-dtype", help="Data type of the tensors that are written.", show_default="that of --dtype"),
    ] = None,
    pool: Annotated[int, typer.Option("--pool", min=1, help="Write means over squares with this side in cells.")] = 1,
    grid: Annotated[
        str | None,
        typer.Option(
            "--grid",
            metavar="HxW",
            help="Reduce all maps to a grid of this size, such as 16x16; 1x1 is the mean over the image.",
            show_default="the size of each level",
        ),
    ] = None,
) -> None:
    """Write the features of images, in two files per image or in a feature store.

    For photos/pets/rex.jpg, `tadp extract photos -o features` writes two files: features/pets/rex.safetensors, with
    the maps map.0 (the finest level), map.1 …, attention.<level>, and with --heads also heads.<level>; and
    features/pets/rex.json, with caption, tokens, words, strides, channels and settings. If there is also a rex.png,
    the names are rex.jpg.json, rex.png.json and so on.

    With --tile, a large image is processed in tiles, which are blended where they overlap. Memory then has to hold
    the result and --batch-size tiles at a time. All tiles use the caption of the whole image.

    To continue a run, run the command again: finished images are skipped. If their results were made with other
    settings, or an image has changed, nothing is replaced unless you pass --overwrite. A run that is killed leaves no
    half-written results. Only one run at a time writes to a folder.

    With --shards, the output is a feature store: large files with many images each, and a manifest. Python reads it
    with tadp.extract.FeatureStore, and `tadp features` reports what is in it. Images that failed are not tried again,
    unless they have changed or you pass --retry-failed.

    The command says how much disk space the results need, and stops if there is less.

    An image that cannot be read, or is too large for the memory, is reported, and the others are processed. Folders and
    links that cannot be read are reported too. Files that are not images are counted and left out.
    """
    with no_gc():
        from tadp.captions import CaptionTable
        from tadp.extract import ImageList, extract_images, writable_folder
        from tadp.extract.saved_tensors import expected_bytes, readable_bytes
        from tadp.images import tiles

    if captions is not None and (caption is not None or captioner is not None):
        raise typer.BadParameter("pass only one of --captions, --caption and --captioner.", param_hint="--captions")
    source = "" if captions is not None else caption_source(model, caption, captioner)
    saved = _saved_tensors(pool_attention, save_dtype, pool, grid)
    image_list = ImageList.of(images)
    words = CaptionTable.open(captions) if captions is not None else caption
    writable_folder(output)
    backbone = load_backbone(model, dtype=dtype, device=device, revision=revision, variant=variant)
    known = backbone.chosen_levels()
    check_levels(level, known, backbone, "--level")
    check_levels(attention, [k for k in backbone.layout.attention_levels if k in known], backbone, "--attention")
    if tile_px is not None:
        with wrong_usage("--tile"):
            tiles.grid((tile_px, tile_px), tile_px=tile_px, overlap_px=overlap_px, multiple=max(backbone.strides))
    backbone = backbone.with_options(
        record_attention=[*backbone.record_attention, *(attention or ())],
        record_heads=heads or backbone.record_heads,
        pool_attention=pool_attention or backbone.pool_attention,
    )
    if words is None:
        words = load_captioner(
            source, device, batch_size=batch_size, min_new_tokens=min_new_tokens, max_new_tokens=max_new_tokens
        )
    elif caption is not None and not truncate:
        backbone.encode_text(caption)  # refuses a text that is too long before anything is printed
    expected = expected_bytes(
        list(image_list.names), saved, backbone=backbone, levels=sorted(set(level or known)), max_side_px=max_side_px
    )
    echo(f"{counted(len(image_list.names), 'image')}, about {readable_bytes(expected)} of features")
    outcomes = extract_images(
        backbone,
        image_list,
        output,
        captions=words,
        model=model,
        revision=backbone.source and backbone.source.revision,
        levels=level,
        max_side_px=max_side_px,
        tile_px=tile_px,
        overlap_px=overlap_px,
        batch_size=batch_size,
        truncate=truncate,
        overwrite=overwrite,
        saved=saved,
        shards=shards,
        shard_mb=shard_mb,
        retry_failed=retry_failed,
    )
    if caption is not None and truncate and is_cut(backbone, caption):
        warn_about_cut("--caption")
    report_left_out(image_list.left_out)
    tally = _follow(outcomes, len(image_list.names) + len(image_list.unreadable), is_one_caption=caption is not None)
    if tally.counts["done"] and tally.stopped is None:
        warn_about_tiny(source, others="--model and --captioner")
    _print_tally(tally, output, saved.grid)
    if tally.stopped is not None:
        raise tally.stopped
    if tally.counts["failed"]:
        raise typer.Exit(1)


def _saved_tensors(names: list[str] | None, dtype: SavedDtype | None, pool: int, grid: str | None) -> "SavedTensors":
    import torch

    from tadp.extract import SavedTensors

    sides = re.fullmatch(r"(\d+)x(\d+)", grid or "1x1")
    if sides is None:
        raise typer.BadParameter(f"{grid!r} is not a grid; pass rows x columns, such as 16x16.", param_hint="--grid")
    cells = None if grid is None else (int(sides[1]), int(sides[2]))
    with wrong_usage("--grid"):
        return SavedTensors(names or (), None if dtype is None else getattr(torch, dtype.value), pool, cells)


@dataclass
class _Tally:
    """The result of a run: images by status, the first finished ones, and the error that stopped it, if any."""

    counts: Counter[str] = field(default_factory=Counter)
    first: "list[Outcome]" = field(default_factory=list)
    stopped: BaseException | None = None


def _follow(outcomes: "Iterator[Outcome]", total: int, *, is_one_caption: bool) -> _Tally:
    """Follow a run until it ends or is stopped, with a progress bar, and report failed images and cut captions."""
    tally = _Tally()
    try:
        with progress() as bar:
            task = bar.add_task("extract", total=total)
            for outcome in outcomes:
                tally.counts[outcome.status] += 1
                bar.advance(task)
                if outcome.error is not None:
                    fail(outcome.error)
                if outcome.truncated and not is_one_caption:
                    warn_about_cut(str(outcome.image))
                if outcome.status == "done" and len(tally.first) < _ROWS_SHOWN:
                    tally.first.append(outcome)
    except (KeyboardInterrupt, TADPError) as error:
        tally.stopped = error
    return tally


def _print_tally(tally: _Tally, output: Path, grid: tuple[int, int] | None) -> None:
    if tally.first:
        _print_outcomes(tally.first, tally.counts["done"], grid)
    if tally.counts:
        labels = {"done": "done", "skipped": "done before", "failed": "failed"}
        parts = [
            f"{tally.counts[status]} {label}"
            for status, label in labels.items()
            if tally.counts[status] or status == "done"
        ]
        echo(f"{', '.join(parts)}; in {output}")


def _print_outcomes(outcomes: "list[Outcome]", done: int, grid: tuple[int, int] | None) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("Image", overflow="fold", ratio=3)
    table.add_column("Size", no_wrap=True)
    table.add_column("Caption", overflow="fold", ratio=5)
    table.add_column("Maps", no_wrap=True)
    previous = ""
    for outcome in outcomes:
        record = outcome.record or {}
        height, width = record["image_size"]
        maps = [
            "x".join(map(str, (channels, *(grid or (math.ceil(height / stride), math.ceil(width / stride))))))
            for channels, stride in zip(record["channels"], record["strides"], strict=True)
        ]
        shapes = "\n".join(maps)
        table.add_row(
            cell(str(outcome.image)),
            f"{height}x{width}",
            cell(record["caption"] or "(empty prompt)"),
            "same" if shapes == previous else shapes,
        )
        previous = shapes
    Console(highlight=False).print(table)
    if done > len(outcomes):
        echo(f"… and {done - len(outcomes)} more")
