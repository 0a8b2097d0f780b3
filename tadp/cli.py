"""The command line: `tadp extract`, `tadp caption`, `tadp show`, `tadp info`.

torch and its company are imported inside the commands, so that `tadp --help` answers at once.
"""

import inspect
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tadp import __version__
from tadp.errors import CaptionError, ImageError, OutputError, TADPError
from tadp.terminal import (
    TINY,
    Commands,
    Dtype,
    caption_source,
    check_levels,
    fail,
    hub_commit,
    load_backbone,
    load_captioner,
    progress,
    silence,
)

if TYPE_CHECKING:
    from tadp.captioner import Captioner
    from tadp.extract import Outcome

_ROWS_SHOWN = 20  # of a run over many images
_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_EXIT_CODES = "Exit codes: 0 all went well, 1 something failed (it is named), 2 wrong usage, 130 interrupted."


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXIT_CODES,
)

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES",
        help="Image files, folders (with all below them) and quoted patterns.",
        show_default=False,
    ),
]
Model = Annotated[str, typer.Option("--model", "-m", help="tadp-tiny, a folder in diffusers layout, or a hub id.")]
Caption = Annotated[
    str | None,
    typer.Option("--caption", help="One caption for all images; '' is the empty prompt.", show_default=False),
]
CaptionerName = Annotated[
    str | None,
    typer.Option(
        "--captioner",
        help="The model that captions each image: tadp-tiny, a folder, or a hub id. Without --caption and "
        "--captioner a model that brings its own captioner, as tadp-tiny does, uses that; others need one of the two.",
        show_default=False,
    ),
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a hub model.", show_default=False)
]
Variant = Annotated[str | None, typer.Option("--variant", help="Which weight files, e.g. fp16.", show_default=False)]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps.", show_default="cuda if there is one, else cpu")
]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Of the model, and of the tensors written.")]
MaxSide = Annotated[
    int | None,
    typer.Option("--max-side", min=8, help="Shrink images whose longer side is over this, in pixels."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"tadp {__version__}")
        raise typer.Exit
    return wanted


def _help(text: str | None, examples: Iterable[str]) -> str:
    """A docstring, refilled for any terminal, with examples."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text or "").split("\n\n")]
    paragraphs.append("Examples:\n" + "\n".join(f"  {example}" for example in examples))
    return escape("\n\n".join(paragraphs))


def _command(*examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command whose help is its docstring and examples."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        return app.command(help=_help(function.__doc__, examples), epilog=_EXIT_CODES)(function)

    return register


@app.callback(
    help=_help(
        "A diffusion model as a vision backbone: features, captions, and what each word looks at.",
        (
            "tadp show photo.jpg",
            "tadp extract photos -o features",
            "tadp caption photos -o captions.json",
            "tadp info tadp-tiny",
        ),
    )
)
def _tadp(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What stands before the commands."""


@_command(
    "tadp extract photos -o features",
    'tadp extract photos "more/**/*.png" -o features --caption "a street"',
    "tadp extract photos -o features --level 1 --level 2 --dtype bfloat16",
)
def extract(
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.", show_default=False)],
    model: Model = TINY,
    caption: Caption = None,
    captioner: CaptionerName = None,
    level: Annotated[
        list[int] | None,
        typer.Option("--level", min=0, help="A map to write, 0 the finest. Repeatable.", show_default="all"),
    ] = None,
    attention: Annotated[
        list[int] | None,
        typer.Option(
            "--attention",
            min=0,
            help="A level whose attention is written besides those joined to the maps. Repeatable.",
            show_default="none besides",
        ),
    ] = None,
    max_side: MaxSide = None,
    batch_size: BatchSize = 8,
    dtype: DtypeOption = Dtype.float32,
    device: Device = None,
    revision: Revision = None,
    variant: Variant = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make anew what other settings, or an older image, left there.")
    ] = False,
) -> None:
    """Write the features of images, one file an image.

    For photos/pets/rex.jpg, `tadp extract photos -o features` writes features/pets/rex.safetensors, with map.0 (the
    finest), map.1 … and attention.<level>, and features/pets/rex.json, with caption, tokens, words, strides, channels
    and settings. rex.jpg beside rex.png become rex.jpg.json and rex.png.json.

    Run it again to go on: images that are done are skipped. If they were done with other settings, or the picture has
    changed, nothing is touched unless you pass --overwrite. A killed run leaves no half-written file that counts.
    """
    from tadp.extract import extract_images, output_names, writable_folder

    source = caption_source(model, caption, captioner)
    total = len(output_names(images))
    writable_folder(output)
    backbone = load_backbone(model, dtype=dtype, device=device, revision=revision, variant=variant)
    check_levels(level, range(len(backbone.feature_info)), backbone, "--level")
    check_levels(attention, backbone.layout.attention_levels, backbone, "--attention")
    backbone.record_attention = tuple(sorted({*backbone.record_attention, *(attention or ())}))
    captions = caption if caption is not None else load_captioner(source, device, batch_size=batch_size)
    outcomes: list[Outcome] = []
    counts: Counter[str] = Counter()
    stopped: BaseException | None = None
    try:
        with progress() as bar:
            task = bar.add_task("extract", total=total)
            for outcome in extract_images(
                backbone,
                images,
                output,
                captions=captions,
                model=model,
                revision=hub_commit(model, revision),
                levels=level,
                max_side_px=max_side,
                batch_size=batch_size,
                overwrite=overwrite,
            ):
                counts[outcome.status] += 1
                bar.advance(task)
                _tell(outcome)
                if outcome.status == "done" and len(outcomes) < _ROWS_SHOWN:
                    outcomes.append(outcome)
    except (KeyboardInterrupt, TADPError) as error:
        stopped = error
    if outcomes:
        _print_outcomes(outcomes, counts["done"])
    if counts:
        said = {"done": "done", "skipped": "done before", "failed": "failed"}
        parts = [f"{counts[status]} {words}" for status, words in said.items() if counts[status] or status == "done"]
        typer.echo(f"{', '.join(parts)}; in {output}")
    if stopped is not None:
        raise stopped
    if counts["failed"]:
        raise typer.Exit(1)


@_command(
    "tadp caption photos -o captions.json",
    "tadp caption rex.jpg --min-new-tokens 20",
)
def caption(
    images: Images,
    model: Annotated[str, typer.Option("--model", "-m", help="tadp-tiny, a folder, or a hub id.")] = TINY,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON file to write.", show_default=False)
    ] = None,
    min_new_tokens: Annotated[int, typer.Option(min=0, help="The fewest tokens of a caption.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of a caption.")] = 77,
    batch_size: BatchSize = 8,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Describe images in words, a line an image.

    With -o it writes JSON as the paper's authors have it, {"rex": {"captions": ["a dog on grass"]}}: the file's name
    without suffix, or its path below the folder where two files share a name. Images that cannot be read are named and
    left out. Interrupted, it writes what it has.
    """
    from tadp.extract import output_names

    if min_new_tokens > max_new_tokens:
        raise typer.BadParameter(
            f"{min_new_tokens} is more than --max-new-tokens {max_new_tokens}.", param_hint="--min-new-tokens"
        )
    if output is not None and output.exists() and not overwrite:
        raise OutputError(f"{output} is there already. Pass --overwrite to replace it, or another name.")
    names = output_names(images)
    describe = load_captioner(
        model, device, batch_size=batch_size, min_new_tokens=min_new_tokens, max_new_tokens=max_new_tokens
    )
    captions: dict[Path, str] = {}
    try:
        failed = _caption_all(describe, list(names), batch_size, captions)
    finally:  # Ctrl-C included
        if output is not None and captions:
            _write_captions(output, captions, names)
    if failed:
        raise typer.Exit(1)


@_command(
    "tadp show photo.jpg",
    'tadp show photo.jpg --caption "a cat on a red sofa" -o cat.png',
    "tadp show photo.jpg --level 1",
)
def show(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="PNG, JPEG or WebP to write.", show_default="<image>.words.png, here"),
    ] = None,
    model: Model = TINY,
    caption: Caption = None,
    captioner: CaptionerName = None,
    level: Annotated[
        list[int] | None,
        typer.Option(
            "--level",
            min=0,
            help="Whose attention to show, 0 the finest; several are averaged. Repeatable.",
            show_default="the two finest",
        ),
    ] = None,
    all_words: Annotated[bool, typer.Option("--all-words", help="Show a, the, of, in … too.")] = False,
    max_side: Annotated[
        int | None,
        typer.Option(
            "--max-side", min=8, help="Shrink the image to this for the model.", show_default="the model's size"
        ),
    ] = None,
    device: Device = None,
    revision: Revision = None,
    variant: Variant = None,
) -> None:
    """Draw what each word of a caption looks at.

    The picture shows the image, its caption, and one heat map a word. Each heat map is scaled by itself and dimmed
    where the word draws little attention; the number is the most that any place pays it, from 0 to 1.
    """
    import torch

    from tadp.extract import shrink
    from tadp.images import to_pil
    from tadp.plot import pixel_words, word_sheet

    source = caption_source(model, caption, captioner)
    if caption is not None and not any(letter.isalnum() for letter in caption):
        raise typer.BadParameter("show needs a caption with words.", param_hint="--caption")
    target = output or Path(f"{Path(image).stem}.words.png")
    _check_target(target, Path(image))
    picture = to_pil(image)
    backbone = load_backbone(model, dtype=Dtype.float32, device=device, revision=revision, variant=variant)
    check_levels(level, backbone.layout.attention_levels, backbone, "--level")
    levels = level or list(backbone.layout.attention_levels[:2])
    if not levels:
        raise typer.BadParameter(f"{model} has no cross-attention to show.", param_hint="--model")
    backbone.record_attention = tuple(levels)
    native = backbone.unet.config["sample_size"]
    shrunk = shrink(picture, max_side or (native * backbone.vae.reduction if isinstance(native, int) else 512))
    words = caption if caption is not None else load_captioner(source, device)(picture)[0]
    if not words:
        raise CaptionError(f"{source!r} had nothing to say about {image}. Pass --caption.")
    with torch.inference_mode():
        features = backbone(shrunk, words, truncate=caption is None)
    sheet = word_sheet(picture, pixel_words(features, backbone.feature_info, levels=levels), words, all_words=all_words)
    _save_picture(sheet, target)
    typer.echo(words)
    typer.echo(f"wrote {target} ({sheet.width}x{sheet.height})")


@_command("tadp info", "tadp info stable-diffusion-v1-5/stable-diffusion-v1-5")
def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="tadp-tiny, a folder in diffusers layout, or a hub id.")
    ] = TINY,
    revision: Revision = None,
    variant: Variant = None,
) -> None:
    """Tell what a model's levels, channels, strides and parts are.

    No weights are loaded. Of a hub model that is not here yet, only the configuration is downloaded.
    """
    from tadp.model_info import model_tables

    silence()
    console = Console(highlight=False)
    for table in model_tables(model, revision=revision, variant=variant):
        console.print(table)
        console.print()


def _tell(outcome: "Outcome") -> None:
    """Name an image that failed, or whose caption lost its end, at once."""
    if outcome.error is not None:
        fail(outcome.error)
    if outcome.truncated:
        typer.secho(
            f"{outcome.image}: the caption is longer than the text encoder takes; its end was cut.",
            fg="yellow",
            err=True,
        )


def _print_outcomes(outcomes: "list[Outcome]", done: int) -> None:
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
            f"{channels}x{math.ceil(height / stride)}x{math.ceil(width / stride)}"
            for channels, stride in zip(record["channels"], record["strides"], strict=True)
        ]
        shapes = "\n".join(maps)
        table.add_row(
            Text(str(outcome.image)),
            f"{height}x{width}",
            Text(record["caption"] or "(empty prompt)"),
            "same" if shapes == previous else shapes,
        )
        previous = shapes
    Console(highlight=False).print(table)
    if done > len(outcomes):
        typer.echo(f"… and {done - len(outcomes)} more")


def _caption_all(describe: "Captioner", images: list[Path], batch_size: int, captions: dict[Path, str]) -> int:
    """Fill `captions` batch by batch, printing each; returns how many images could not be read."""
    from tadp.images import to_pil

    failed = 0
    for start in range(0, len(images), batch_size):
        pictures = {}
        for image in images[start : start + batch_size]:
            try:
                pictures[image] = to_pil(image)
            except ImageError as error:
                failed += 1
                fail(error)
        spoken = dict(zip(pictures, describe(list(pictures.values())), strict=True))
        for image, text in spoken.items():
            typer.echo(f"{image}: {text or '(the captioner said nothing)'}")
        captions.update(spoken)
    return failed


def _write_captions(output: Path, captions: dict[Path, str], names: dict[Path, str]) -> None:
    from tadp.files import replace_file

    stems, full = Counter(image.stem for image in names), {image.name for image in names if image.suffix}
    content = {
        image.stem if stems[image.stem] == 1 and image.stem not in full else names[image]: {"captions": [text]}
        for image, text in captions.items()
    }
    with replace_file(output) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _check_target(target: Path, image: Path) -> None:
    if target.suffix.lower() not in _PICTURES:
        raise typer.BadParameter(
            f"{target} has no suffix of a picture; those are {', '.join(_PICTURES)}.", param_hint="--output"
        )
    if target.exists() and image.exists() and target.samefile(image):
        raise typer.BadParameter(f"{target} is the image itself.", param_hint="--output")


def _save_picture(sheet: Any, target: Path) -> None:
    from tadp.files import replace_file

    with replace_file(target) as partial:
        sheet.save(partial, format=_PICTURES[target.suffix.lower()], quality=92)
