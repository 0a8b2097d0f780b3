"""Parts that all pictures share: text colours, the font, class colours, colour maps, and the contact sheet."""

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from tadp.errors import Argument, OptionError
from tadp.files.checks import check_choice, check_ordered

Colors = Literal["voc", "cityscapes"] | Sequence[Sequence[int]] | np.ndarray

INK, FAINT, PAPER = (31, 35, 40), (110, 118, 129), (255, 255, 255)
TEXT_PX = 16
# Colours at equal steps of two of matplotlib's colour maps.
HEAT = np.array(  # from cold to hot: "inferno" without its darkest colours
    [(40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39), (252, 255, 164)],
    np.float32,
)
NEAR_TO_FAR = np.array(  # "Spectral"
    [(158, 1, 66), (213, 62, 79), (244, 109, 67), (253, 174, 97), (254, 224, 139), (230, 245, 152), (171, 221, 164),
     (102, 194, 165), (50, 136, 189), (94, 79, 162)], np.float32,
)  # fmt: skip
_CITYSCAPES = [  # of the 19 classes that are evaluated, from cityscapesscripts/helpers/labels.py
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
]  # fmt: skip
_GAP_PX, _LINE_PX = 12, 22
_LEAST_TEXT_PX = 11

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def font(size_px: int = TEXT_PX) -> Font:
    """The font of all pictures: Pillow's default font."""
    return ImageFont.load_default(size_px)


def class_color(label: int) -> tuple[int, int, int]:
    """The colour of a class, as in the Pascal VOC devkit. Class 0 is black."""
    color = [0, 0, 0]
    shift = 7
    while label:
        for channel in range(3):
            color[channel] |= (label >> channel & 1) << shift
        label >>= 3
        shift -= 1
    return color[0], color[1], color[2]


def class_colors(colors: Colors | None, count: int, *, first: int = 0) -> list[tuple[int, int, int]]:
    """The colour of each class.

    Args:
        colors: "voc" or "cityscapes", whose classes are in the order of `Cityscapes`; a colour (red, green, blue) from
            0 to 255 for each class; or None, which is "voc" from the colour with number `first` on.
        count: Number of classes K.
        first: Number of the first class's colour if `colors` is None.

    Returns:
        K colours.

    Raises:
        OptionError: If `colors` is an unknown name or does not have K colours of three values from 0 to 255.
    """
    if colors is None or isinstance(colors, str):
        check_choice(colors, ("voc", "cityscapes", None), name="colors")
        offset = first if colors is None else 0
        colors = _CITYSCAPES if colors == "cityscapes" else [class_color(label + offset) for label in range(count)]
    check_ordered(colors=colors)
    listed = [tuple(map(int, color)) for color in colors]
    is_valid = all(len(color) == 3 and min(color) >= 0 and max(color) <= 255 for color in listed)
    if len(listed) < count or not is_valid:
        rule = f" must have a colour (red, green, blue) from 0 to 255 for each of {count} classes"
        raise OptionError(Argument("colors"), f"{rule}; got {len(listed)} colours, {listed[:3]} ….")
    return listed[:count]  # pyright: ignore[reportReturnType]


def map_colors(share: Float[np.ndarray, "*size"], colors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "*size 3"]:
    """Convert values to colours.

    Args:
        share: Values in [0, 1], of any shape.
        colors: N colours for values at equal steps from 0 to 1, (N, 3), such as `HEAT`. In between, colours are
            interpolated.

    Returns:
        The colours as RGB values from 0 to 255, with a last axis of size 3.
    """
    steps = share * (len(colors) - 1)
    lower = np.minimum(steps.astype(int), len(colors) - 2)
    return colors[lower] + (steps - lower)[..., None] * (colors[lower + 1] - colors[lower])


def fit(text: str, width: float, *, size_px: int, least_px: int = _LEAST_TEXT_PX) -> tuple[str, Font]:
    """Fit a line of text into a width. If necessary, first the font is made smaller, then the text is cut with "…".

    Args:
        text: The line of text.
        width: The available width in pixels.
        size_px: Font size in pixels if the text fits.
        least_px: Smallest font size in pixels.

    Returns:
        The text, possibly cut, and its font.
    """
    while size_px > least_px and font(size_px).getlength(text) > width:
        size_px -= 1
    while len(text) > 1 and font(size_px).getlength(text) > width:
        text = text.removesuffix("…")[:-1] + "…"
    return text, font(size_px)


def arrange(
    rows: Sequence[Sequence[Image.Image]], *, margins_px: tuple[int, int, int, int], gap_px: tuple[int, int]
) -> tuple[Image.Image, list[int], list[int]]:
    """Arrange pictures on a page. Each column is as wide as its widest picture, each row as high as its highest.

    Args:
        rows: Rows of pictures. No row may have more pictures than the first.
        margins_px: Left, top, right and bottom margins in pixels.
        gap_px: The gap between columns and the gap between rows, in pixels.

    Returns:
        The page, the left edges of the columns in pixels, and the upper edges of the rows in pixels.
    """
    left, top, right, bottom = margins_px
    lefts, uppers = [left], [top]
    for column in range(len(rows[0])):
        widest = max(row[column].width for row in rows if column < len(row))
        lefts.append(lefts[-1] + widest + gap_px[0])
    for row in rows:
        uppers.append(uppers[-1] + max(picture.height for picture in row) + gap_px[1])
    page = Image.new("RGB", (lefts.pop() - gap_px[0] + right, uppers.pop() - gap_px[1] + bottom), PAPER)
    for row, upper in zip(rows, uppers, strict=True):
        for picture, start in zip(row, lefts, strict=False):  # the last row may be shorter
            page.paste(picture, (start, upper))
    return page, lefts, uppers


def sheet(
    rows: Sequence[Sequence[Image.Image]],
    *,
    title: str = "",
    titles: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Image.Image:
    """Draw a sheet of pictures in rows and columns. Each column is as wide as its widest picture.

    Args:
        rows: Rows of pictures, all with the same number of pictures.
        title: A title above the whole sheet; "" for none.
        titles: One title per column, written above the column; empty for no titles.
        labels: One label per row, written above the row; empty for no labels.

    Raises:
        ValueError: If `rows` has no pictures, or rows differ in their number of pictures.
    """
    if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
        raise ValueError(
            f"a sheet needs at least one row, and rows of the same length; got {[len(row) for row in rows]} pictures."
        )
    line = _LINE_PX if labels else 0
    head = _GAP_PX + _LINE_PX * (bool(title) + bool(titles))
    page, lefts, uppers = arrange(
        rows, margins_px=(_GAP_PX, head + line, _GAP_PX, _GAP_PX), gap_px=(_GAP_PX, _GAP_PX + line)
    )
    draw = ImageDraw.Draw(page)
    if title:
        text, shown = fit(title, page.width - 2 * _GAP_PX, size_px=TEXT_PX)
        draw.text((_GAP_PX, _GAP_PX + _LINE_PX - 10), text, font=shown, fill=FAINT, anchor="ls")
    for text, left in zip(titles, lefts, strict=False):
        draw.text((left, head - 10), text, font=font(), fill=INK, anchor="ls")
    for label, upper in zip(labels, uppers, strict=False):
        text, shown = fit(label, page.width - 2 * _GAP_PX, size_px=TEXT_PX)
        draw.text((_GAP_PX, upper - 8), text, font=shown, fill=INK, anchor="ls")
    return page
