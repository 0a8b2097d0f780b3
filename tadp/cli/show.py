"""`tadp show`: draw where each word of a caption looks in an image."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tadp.cli.app import CaptionerName, Device, MaxNewTokens, MinNewTokens, Model, Revision, Truncate, Variant, command
from tadp.cli.terminal import (
    TINY,
    Dtype,
    caption_source,
    check_levels,
    echo,
    is_cut,
    load_backbone,
    load_captioner,
    no_gc,
    warn_about_cut,
    warn_about_tiny,
)
from tadp.errors import CaptionError, ImageError

if TYPE_CHECKING:
    from tadp.backbone import TADPBackbone

_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@command(
    "tadp show photo.jpg",
    'tadp show photo.jpg --caption "a cat on a red sofa" -o cat.png',
    "tadp show photo.jpg --level 1",
)
def show(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="PNG, JPEG or WebP file to write. An existing file is replaced.",
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
            help="Level whose attention is shown; 0 is the finest. Repeatable: several levels are averaged.",
            show_default="the two finest",
        ),
    ] = None,
    all_words: Annotated[bool, typer.Option("--all-words", help="Also show words such as a, the, of, in.")] = False,
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
    """
    with no_gc():
        import torch

        from tadp.drawing import pixel_words, word_sheet
        from tadp.extract import shrink
        from tadp.images.reading import to_pil

    source = caption_source(model, caption, captioner)
    if caption is not None and not any(letter.isalnum() for letter in caption):
        raise typer.BadParameter("show needs a caption with words.", param_hint="--caption")
    target = output or Path(f"{Path(image).stem}.words.png")
    _check_target(target, Path(image))
    picture = to_pil(image)
    backbone = load_backbone(model, dtype=Dtype.float32, device=device, revision=revision, variant=variant)
    levels = _levels_shown(level, backbone, model)
    backbone = backbone.with_options(levels=sorted(set(levels)), record_attention=levels)
    words = caption
    if words is None:
        describe = load_captioner(source, device, min_new_tokens=min_new_tokens, max_new_tokens=max_new_tokens)
        words = describe(picture)[0]
    if not words:
        raise CaptionError(f"{source!r} wrote no caption for {image}. Pass --caption.")
    shrunk = shrink(picture, max_side or _native_px(backbone))
    with torch.inference_mode():
        features = backbone(shrunk, words, truncate=truncate or caption is None)
    for sentence in features.broken().values():
        raise ImageError(f"{image} cannot be shown: {sentence}")
    if is_cut(backbone, words):
        warn_about_cut(image)
    warn_about_tiny(source, others="--model and --captioner")
    sheet = word_sheet(picture, pixel_words(features, backbone.feature_info, levels=levels), words, all_words=all_words)
    _save_picture(sheet, target)
    echo(words)
    echo(f"wrote {target} ({sheet.width}x{sheet.height})")


def _levels_shown(level: list[int] | None, backbone: "TADPBackbone", model: str) -> list[int]:
    """The requested levels, or the two finest that have attention."""
    check_levels(level, backbone.layout.attention_levels, backbone, "--level")
    levels = level or list(backbone.layout.attention_levels[:2])
    if not levels:
        raise typer.BadParameter(f"{model} has no cross-attention to show.", param_hint="--model")
    return levels


def _native_px(backbone: "TADPBackbone") -> int:
    """The side of the images that a model was trained on, in pixels."""
    native = backbone.family.native_cells(backbone.unet)
    return 512 if native is None else native * backbone.vae.reduction


def _check_target(target: Path, image: Path) -> None:
    if target.suffix.lower() not in _PICTURES:
        raise typer.BadParameter(
            f"the suffix of {target} must be one of {', '.join(_PICTURES)}.", param_hint="--output"
        )
    if target.exists() and image.exists() and target.samefile(image):
        raise typer.BadParameter(f"{target} is the image itself; choose another file.", param_hint="--output")


def _save_picture(sheet: Any, target: Path) -> None:
    from tadp.files.atomic import replace_alone

    with replace_alone(target) as partial:
        sheet.save(partial, format=_PICTURES[target.suffix.lower()], quality=92)
