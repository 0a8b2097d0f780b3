"""`tadp caption`: what is said to the backbone."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tadp.cli.app import BatchSize, Device, Images, Overwrite, command
from tadp.cli.terminal import TINY, fail, load_captioner
from tadp.errors import ImageError, OutputError

if TYPE_CHECKING:
    from tadp.captioner import Captioner


@command(
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
