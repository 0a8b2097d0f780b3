"""`tadp match`: find points of one image in another."""

import json
import math
import re
from pathlib import Path
from typing import Annotated

import typer

from tadp.cli.app import CaptionerName, Device, Model, Revision, Variant, command
from tadp.cli.terminal import (
    PICTURES,
    TINY,
    Dtype,
    caption_source,
    check_levels,
    echo,
    load_backbone,
    load_captioner,
    native_px,
    no_gc,
    warn_about_tiny,
    wrong_usage,
)
from tadp.errors import ImageError


@command(
    "tadp match a.jpg b.jpg",
    "tadp match a.jpg b.jpg --point 120,80 --point 200,95 --json",
    "tadp match a.jpg b.jpg --model stable-diffusion-v1-5/stable-diffusion-v1-5 --caption 'a photo of a cat' "
    "--level 1 --timestep 261",
)
def match(
    first: Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Another image file.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="PNG, JPEG or WebP file to write. An existing file is replaced.")
    ] = Path("matches.png"),
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            metavar="X,Y",
            help="A point of the first image in pixels, from the top left. Repeatable.",
            show_default="the most similar points",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Number of points without --point, at most.")] = 12,
    model: Model = TINY,
    caption: Annotated[
        str | None,
        typer.Option("--caption", help="Caption of both images; '' is the empty prompt.", show_default=False),
    ] = None,
    captioner: CaptionerName = None,
    level: Annotated[
        list[int] | None,
        typer.Option(
            "--level",
            min=0,
            help="Level whose maps are compared; 0 is the finest. Repeatable: several count equally.",
            show_default="the two finest",
        ),
    ] = None,
    timestep: Annotated[
        int, typer.Option("--timestep", min=0, help="Diffusion timestep; above 0, noise is added as in training.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the matches as JSON.")] = False,
    device: Device = None,
    revision: Revision = None,
    variant: Variant = None,
) -> None:
    """Find points of one image in another by their features, and draw them.

    Without --point, the most similar points are shown that also lead back from the second image to the first. Each line
    that is printed has a point of the first image, its place in the second, and their cosine similarity.

    For photographs, DIFT (arXiv:2306.03881) recommends noise: --timestep 261 with Stable Diffusion 2.1.
    """
    with no_gc():
        import torch

        from tadp.correspondence import match as match_features
        from tadp.drawing import match_picture
        from tadp.extract import shrink
        from tadp.files.atomic import replace_alone
        from tadp.images.reading import to_pil

    points = [_read_point(text) for text in point or ()]
    if output.suffix.lower() not in PICTURES:
        raise typer.BadParameter(f"the suffix of {output} must be one of {', '.join(PICTURES)}.", param_hint="--output")
    source = caption_source(model, caption, captioner)
    pictures = [to_pil(path) for path in (first, second)]
    for x, y in points:
        if x > pictures[0].width or y > pictures[0].height:
            size = f"{pictures[0].width}x{pictures[0].height} pixels"
            raise typer.BadParameter(f"{x:g},{y:g} is outside of {first}, which has {size}.", param_hint="--point")
    backbone = load_backbone(model, dtype=Dtype.float32, device=device, revision=revision, variant=variant)
    check_levels(level, range(len(backbone.feature_info)), backbone, "--level")
    with wrong_usage("--timestep"):
        noise = {"noise_samples": 1} if timestep else {}
        backbone = backbone.with_options(timestep=timestep, attach_attention=(), record_attention=(), **noise)
    texts = [caption or ""] * 2
    if caption is None:
        texts = load_captioner(source, device)(pictures)
    shrunk = [shrink(picture, native_px(backbone)) for picture in pictures]
    scales = [picture.width / small.width for picture, small in zip(pictures, shrunk, strict=True)]
    with torch.inference_mode():
        sides = [backbone(small, text, truncate=True) for small, text in zip(shrunk, texts, strict=True)]
    for path, features in zip((first, second), sides, strict=True):
        for sentence in features.broken().values():
            raise ImageError(f"{path} cannot be matched: {sentence}")
    points = [(x / scales[0], y / scales[0]) for x, y in points]
    matches = match_features(sides[0], sides[1], points or None, levels=level)
    if not points:
        matches = matches.strongest(count, apart_px=max(shrunk[0].size) / math.sqrt(count) / 2)
    here, there = matches.points * scales[0], matches.matched * scales[1]
    with replace_alone(output) as partial:
        match_picture(pictures[0], pictures[1], here, there).save(partial, format=PICTURES[output.suffix.lower()])
    warn_about_tiny(source, others="--model and --captioner")
    rows = zip(here.tolist(), there.tolist(), matches.similarity.tolist(), matches.is_mutual.tolist(), strict=True)
    entries = [
        {"point": [round(v, 1) for v in start], "match": [round(v, 1) for v in end], "similarity": round(score, 3)}
        | {"is_mutual": mutual}
        for start, end, score, mutual in rows
    ]
    if as_json:
        echo(json.dumps(entries))
    else:
        for entry in entries:
            (x, y), (u, v) = entry["point"], entry["match"]
            echo(f"{x:g},{y:g} -> {u:g},{v:g}  {entry['similarity']:.2f}{'' if entry['is_mutual'] else '  not mutual'}")
    echo(f"wrote {output}", err=True)


def _read_point(text: str) -> tuple[float, float]:
    """Read a point such as "120,80"."""
    numbers = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*", text)
    if numbers is None:
        raise typer.BadParameter(f"a point must be X,Y in pixels, such as 120,80; got {text!r}.", param_hint="--point")
    return float(numbers[1]), float(numbers[2])
