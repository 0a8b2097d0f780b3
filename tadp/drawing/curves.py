"""Curves over the steps of a training run."""

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from tadp.drawing.canvas import FAINT, INK, PAPER, font, sheet

_SIZE, _MARGIN, _COLOR = (480, 240), (64, 12, 12, 28), (33, 102, 172)


def curve_sheet(curves: Mapping[str, Sequence[tuple[float, float]]], *, x_name: str = "step") -> Image.Image:
    """Draw curves next to each other, each in a plot of its own.

    Args:
        curves: The points (x, y) of each curve, by its name. Points that are not finite are left out.
        x_name: Name of the horizontal axis.

    Raises:
        ValueError: If `curves` is empty.
    """
    return sheet([[_plot(points, x_name) for points in curves.values()]], titles=list(curves))


def _plot(points: Sequence[tuple[float, float]], x_name: str) -> Image.Image:
    picture = Image.new("RGB", _SIZE, PAPER)
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = _MARGIN[0], _MARGIN[1], _SIZE[0] - _MARGIN[2], _SIZE[1] - _MARGIN[3]
    draw.rectangle((left, top, right, bottom), outline=FAINT)
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not finite:
        draw.text(((left + right) / 2, (top + bottom) / 2), "no figures", font=font(), fill=FAINT, anchor="mm")
        return picture
    ends = [(min(values), max(values)) for values in zip(*finite, strict=True)]
    places = [
        (left + _share(x, *ends[0]) * (right - left), bottom - _share(y, *ends[1]) * (bottom - top)) for x, y in finite
    ]
    if len(places) > 1:
        draw.line(places, fill=_COLOR, width=2)
    for x, y in places if len(places) < 30 else places[-1:]:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_COLOR)
    for value, height, anchor in ((ends[1][1], top, "rt"), (ends[1][0], bottom, "rs")):
        draw.text((left - 6, height), f"{value:.3g}", font=font(), fill=INK, anchor=anchor)
    for value, width, anchor in ((ends[0][0], left, "ls"), (ends[0][1], right, "rs")):
        draw.text((width, _SIZE[1] - 6), f"{value:g}", font=font(), fill=INK, anchor=anchor)
    draw.text(((left + right) / 2, _SIZE[1] - 6), x_name, font=font(), fill=FAINT, anchor="ms")
    return picture


def _share(value: float, least: float, most: float) -> float:
    """The place of a value between two ends, from 0 to 1."""
    return (value - least) / (most - least) if most > least else 0.5
