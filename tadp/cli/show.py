"""`tadp show`: draw where each word of a caption looks in an image, as a picture or as a page for the browser."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tadp.cli.app import CaptionerName, Device, MaxNewTokens, MinNewTokens, Model, Revision, Truncate, Variant, command
from tadp.cli.terminal import (
    PICTURES,
    TINY,
    Dtype,
    caption_source,
    check_levels,
    echo,
    is_cut,
    load_backbone,
    load_captioner,
    native_px,
    no_gc,
    warn_about_cut,
    warn_about_tiny,
)
from tadp.errors import CaptionError, ImageError

if TYPE_CHECKING:
    from PIL import Image

    from tadp.backbone import TADPBackbone
    from tadp.features import Features

_PAGES = (".html", ".htm")


@command(
    "tadp show photo.jpg",
    'tadp show photo.jpg --caption "a cat on a red sofa" -o cat.png',
    "tadp show photo.jpg --level 1",
    'tadp show photo.jpg --caption "a cat on a red sofa" -o page.html',
)
def show(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="PNG, JPEG or WebP file to write, or an HTML file to explore in a browser. An existing file is "
            "replaced.",
            show_default="<image>.words.png in the current folder",
        ),
    ] = None,
    model: Model = TINY,
    caption: Annotated[str | None, typer.Option("--caption", help="Caption of the image.", show_default=False)] = None,
    captioner: CaptionerName = None,
    min_new_tokens: MinNewTokens = 0,
    max_new_tokens: MaxNewTokens = 77,
    truncate: Truncate = False,
    level: Annotated[
        list[int] | None,
        typer.Option(
            "--level",
            min=0,
            help="Level whose attention is shown; 0 is the finest. Repeatable: several levels are averaged. An HTML "
            "file has each of them.",
            show_default="the two finest; in an HTML file, all",
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Name whose attention an HTML file shows, too. Repeatable.", show_default=False),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            help="Attention layer whose heads an HTML file has, too, or 'all'. Repeatable. A wrong name lists them.",
            show_default=False,
        ),
    ] = None,
    all_words: Annotated[
        bool, typer.Option("--all-words", help="Also show words such as a, the, of, in. An HTML file always does.")
    ] = False,
    max_side: Annotated[
        int | None,
        typer.Option(
            "--max-side",
            min=8,
            help="Shrink the image for the model if its longer side has more pixels than this.",
            show_default="the model's own size",
        ),
    ] = None,
    device: Device = None,
    revision: Revision = None,
    variant: Variant = None,
) -> None:
    """Draw where each word of a caption looks in an image.

    The picture shows the image, its caption, and one heat map per word. Each heat map has its own colour scale and is
    transparent where attention is low. The number next to it is the highest attention at any position, from 0 to 1.

    An HTML file (-o page.html) needs no network. Open it in a browser, and move over the words and the image.
    """
    with no_gc():
        import torch

        from tadp.extract import shrink
        from tadp.images.reading import to_pil

    source = caption_source(model, caption, captioner)
    if caption is not None and not any(letter.isalnum() for letter in caption):
        raise typer.BadParameter("show needs a caption with words.", param_hint="--caption")
    target = output or Path(f"{Path(image).stem}.words.png")
    _check_target(target, Path(image))
    is_page = target.suffix.lower() in _PAGES
    if (name or layer) and not is_page:
        raise typer.BadParameter(
            f"only an HTML file shows names and heads; got {target}.", param_hint="--name" if name else "--layer"
        )
    for text in name or ():
        if not any(letter.isalnum() for letter in text):
            raise typer.BadParameter(f"a name must have a letter or digit; got {text!r}.", param_hint="--name")
    picture = to_pil(image)
    backbone = load_backbone(model, dtype=Dtype.float32, device=device, revision=revision, variant=variant)
    levels = _levels_shown(level, backbone, model, count=None if is_page else 2)
    layers = _layers_shown(layer or [], levels, backbone)
    backbone = backbone.with_options(levels=sorted(set(levels)), record_attention=levels, record_heads=bool(layers))
    words = caption
    if words is None:
        describe = load_captioner(source, device, min_new_tokens=min_new_tokens, max_new_tokens=max_new_tokens)
        words = describe(picture)[0]
    if not words:
        raise CaptionError(f"{source!r} wrote no caption for {image}. Pass --caption.")
    shrunk = shrink(picture, max_side or native_px(backbone))
    with torch.inference_mode():
        features = backbone(shrunk, words, truncate=truncate or caption is None)
    for sentence in features.broken().values():
        raise ImageError(f"{image} cannot be shown: {sentence}")
    if is_cut(backbone, words):
        warn_about_cut(image)
    warn_about_tiny(source, others="--model and --captioner")
    if is_page:
        every = backbone.layout.attention_layers
        page = features.to_html(picture, names=name or (), layers=every, shown_layers=layers)
        _save_page(page, target)
        size = f"{math.ceil(len(page) / 1000)} kB); open it in a browser"
    else:
        sheet = _save_picture(features, backbone, picture, words, levels, target, all_words=all_words)
        size = f"{sheet.width}x{sheet.height})"
    echo(words)
    echo(f"wrote {target} ({size}")


def _levels_shown(level: list[int] | None, backbone: "TADPBackbone", model: str, *, count: int | None) -> list[int]:
    """The requested levels, or the `count` finest that have attention; None is all."""
    check_levels(level, backbone.layout.attention_levels, backbone, "--level")
    levels = level or list(backbone.layout.attention_levels[:count])
    if not levels:
        raise typer.BadParameter(f"{model} has no cross-attention to show.", param_hint="--model")
    return levels


def _layers_shown(layer: list[str], levels: list[int], backbone: "TADPBackbone") -> list[str]:
    """The requested attention layers among those of `levels`."""
    every = [name for name, level in backbone.layout.attention_layers.items() if level in levels]
    for name in layer:
        if name != "all" and name not in every:
            raise typer.BadParameter(
                f"unknown layer {name!r}; the layers of the shown levels are {', '.join(every)}.",
                param_hint="--layer",
            )
    return every if "all" in layer else layer


def _check_target(target: Path, image: Path) -> None:
    suffixes = (*PICTURES, *_PAGES)
    if target.suffix.lower() not in suffixes:
        raise typer.BadParameter(f"the suffix of {target} must be one of {', '.join(suffixes)}.", param_hint="--output")
    if target.exists() and image.exists() and target.samefile(image):
        raise typer.BadParameter(f"{target} is the image itself; choose another file.", param_hint="--output")


def _save_page(page: str, target: Path) -> None:
    from tadp.files.atomic import replace_alone

    with replace_alone(target) as partial:
        partial.write_text(page, encoding="utf-8")


def _save_picture(
    features: "Features",
    backbone: "TADPBackbone",
    picture: "Image.Image",
    caption: str,
    levels: list[int],
    target: Path,
    *,
    all_words: bool,
) -> "Image.Image":
    from tadp.drawing import pixel_words, word_sheet
    from tadp.files.atomic import replace_alone

    words = pixel_words(features, backbone.feature_info, levels=levels)
    sheet = word_sheet(picture, words, caption, all_words=all_words)
    with replace_alone(target) as partial:
        sheet.save(partial, format=PICTURES[target.suffix.lower()], quality=92)
    return sheet
