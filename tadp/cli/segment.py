"""`tadp segment`: masks of names without training, or regions without names."""

from pathlib import Path
from typing import Annotated

import typer

from tadp.cli.app import Device, Model, Revision, Variant, command
from tadp.cli.terminal import (
    PICTURES,
    TINY,
    Dtype,
    check_levels,
    echo,
    load_backbone,
    native_px,
    no_gc,
    warn_about_tiny,
)


@command(
    'tadp segment photo.jpg --names "dog,grass"',
    "tadp segment photo.jpg",
    "tadp segment photo.jpg --names dog,grass --model stable-diffusion-v1-5/stable-diffusion-v1-5 --level 1 --level 2",
)
def segment(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="PNG, JPEG or WebP file to write. An existing file is replaced.")
    ] = Path("segments.png"),
    names: Annotated[
        str | None,
        typer.Option("--names", help="Names to find, separated by commas.", show_default="regions without names"),
    ] = None,
    model: Model = TINY,
    level: Annotated[
        list[int] | None,
        typer.Option(
            "--level",
            min=0,
            help="Level to use; 0 is the finest. Repeatable with --names.",
            show_default="the two finest with attention, or the finest for regions",
        ),
    ] = None,
    device: Device = None,
    revision: Revision = None,
    variant: Variant = None,
) -> None:
    """Segment an image without training, and draw the result.

    With --names, each pixel gets the name whose attention is strongest there, or is background. Without, the image is
    divided into regions by self-attention. Each line that is printed has a name or the number of a region, and its
    share of the image's pixels.
    """
    with no_gc():
        from tadp.drawing import class_picture
        from tadp.extract import shrink
        from tadp.files.atomic import replace_alone
        from tadp.images.reading import to_pil
        from tadp.zero_shot import regions
        from tadp.zero_shot import segment as segment_names

    chosen = None if names is None else [name.strip() for name in names.split(",")]
    if chosen is not None and not all(chosen):
        raise typer.BadParameter(f"names must be separated by commas, such as dog,grass; got {names!r}.")
    if output.suffix.lower() not in PICTURES:
        raise typer.BadParameter(f"the suffix of {output} must be one of {', '.join(PICTURES)}.", param_hint="--output")
    if chosen is None and len(level or ()) > 1:
        raise typer.BadParameter("regions are those of one level; pass --level once.", param_hint="--level")
    picture = to_pil(image)
    backbone = load_backbone(model, dtype=Dtype.float32, device=device, revision=revision, variant=variant)
    check_levels(level, backbone.layout.attention_levels, backbone, "--level")
    small = shrink(picture, native_px(backbone))
    if chosen is None:
        labels = regions(small, backbone, level=level[0] if level else None)
        shown = [f"region {number}" for number in range(int(labels.max()) + 1)]
    else:
        labels = segment_names(small, chosen, backbone, levels=sorted(set(level)) if level else None).labels
        shown = ["background", *chosen]
    with replace_alone(output) as partial:
        class_picture(small, labels, shown).save(partial, format=PICTURES[output.suffix.lower()])
    warn_about_tiny(model, others="--model")
    for number, name in enumerate(shown):
        echo(f"{name}  {float((labels == number).float().mean()):.3f}")
    echo(f"wrote {output}", err=True)
