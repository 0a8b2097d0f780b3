"""Pictures of predictions: classes, depth, boxes and matching points. They only need Pillow.

    class_picture(image, class_map, names).save("classes.png")

Each function returns a PIL image.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw
from torch import Tensor

from tadp.drawing.canvas import (
    FAINT,
    INK,
    NEAR_TO_FAR,
    PAPER,
    TEXT_PX,
    Colors,
    arrange,
    class_colors,
    font,
    map_colors,
)
from tadp.images.boxes import Boxes, Detections
from tadp.images.reading import ImageLike, to_pil

SHORT_PX = 320  # smaller pictures are enlarged to this shorter side, so that labels are readable
LARGE_PX = 1000  # above this shorter side, text grows with a picture, as it is shown smaller
BACKGROUND = "background"
_Rectangle = tuple[float, float, float, float]  # left, top, right, bottom


def class_picture(
    image: ImageLike,
    class_map: Int[Tensor, "h w"],
    class_names: Sequence[str],
    *,
    opacity: float = 0.6,
    colors: Colors | None = None,
) -> Image.Image:
    """Draw classes over an image, with a legend of the classes that occur, the largest first.

    Args:
        image: One image in any form that `tadp.images.to_pil` reads.
        class_map: Class of each pixel, as an index into `class_names`, (H, W). Pixels with other values, such as 255,
            and pixels of the class "background" get no colour.
        class_names: The K class names, in the order of their indices.
        opacity: Opacity of the colours, from 0 to 1.
        colors: The colour (red, green, blue) of each class, from 0 to 255, or the name of a palette: "voc", or
            "cityscapes" for the 19 classes of `tadp.datasets.Cityscapes`. None takes the colours of "voc" without its
            black.

    Raises:
        ImageError: If the image cannot be read.
        OptionError: If `colors` is an unknown name, or does not have a colour for each class.
        ValueError: If `class_map` and the image differ in size, or `opacity` is not from 0 to 1.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be from 0 to 1; got {opacity}.")
    picture = to_pil(image)
    labels = class_map.cpu().numpy()
    if labels.shape != (picture.height, picture.width):
        raise ValueError(
            f"a class map must have the image's size; got {labels.shape} for an image of "
            f"{picture.height, picture.width} (height, width)."
        )
    first = 0 if BACKGROUND in class_names else 1  # so that no class is black
    palette = class_colors(colors, len(class_names), first=first)
    pixels = np.asarray(picture).astype(np.float32)
    counts = np.bincount(labels[(labels >= 0) & (labels < len(class_names))].ravel(), minlength=len(class_names))
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k] and class_names[k] != BACKGROUND]
    here = np.isin(labels, order)
    pixels[here] = (1 - opacity) * pixels[here] + opacity * np.array(palette, np.float32)[labels[here]]
    shown = _enlarged(Image.fromarray(pixels.round().astype(np.uint8)))
    return _with_legend(shown, [(class_names[label], palette[label]) for label in order])


def depth_picture(depth_m: Float[Tensor, "h w"]) -> Image.Image:
    """Draw a depth map from red (near) to blue (far), with a scale in metres below. Unknown depth is grey.

    Args:
        depth_m: Depth in metres, (H, W). 0, NaN and infinity mean unknown.
    """
    values = depth_m.detach().float().cpu().numpy()
    known = np.isfinite(values) & (values > 0)
    near, far = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 1.0)
    # The scale is logarithmic, because near objects differ by less and matter more.
    share = np.zeros_like(values)
    if far > near > 0:
        share[known] = np.log(values[known] / near) / math.log(far / near)
    pixels = map_colors(share, NEAR_TO_FAR)
    pixels[~known] = (150, 150, 150)
    picture = _enlarged(Image.fromarray(pixels.round().astype(np.uint8)))
    margin, text_font = _px(10, picture), font(_px(TEXT_PX, picture))
    steps = np.tile(np.linspace(0, 1, picture.width - 2 * margin), (_px(12, picture), 1))
    bar = Image.fromarray(map_colors(steps, NEAR_TO_FAR).astype(np.uint8))
    page = _page(picture, 52)
    page.paste(bar, (margin, picture.height + margin))
    draw = ImageDraw.Draw(page)
    place = picture.height + _px(44, picture)
    draw.text((margin, place), f"{near:.2g} m", font=text_font, fill=INK, anchor="ls")
    middle = f"{math.sqrt(near * far):.2g} m"
    draw.text((page.width / 2, place), middle, font=text_font, fill=INK, anchor="ms")
    draw.text((page.width - margin, place), f"{far:.2g} m", font=text_font, fill=INK, anchor="rs")
    return page


def box_picture(
    image: ImageLike,
    found: Detections | Boxes,
    class_names: Sequence[str],
    *,
    note: str = "",
    colors: Colors | None = None,
) -> Image.Image:
    """Draw boxes over an image, with their classes and, for detections, their scores.

    The box with the highest score lies on top. Labels do not cover one another where there is room.

    Args:
        image: One image in any form that `tadp.images.to_pil` reads.
        found: The boxes to draw, in pixels of the image.
        class_names: The class names, in the order of their indices in `found.labels`.
        note: A note to write below the picture; "" for none.
        colors: The colours of the classes; see `class_picture`.

    Raises:
        ImageError: If the image cannot be read.
        OptionError: If `colors` is an unknown name, or does not have a colour for each class.
    """
    original = to_pil(image)
    picture = _enlarged(original)
    scale = picture.width / original.width
    scores = found.scores.tolist() if isinstance(found, Detections) else [None] * len(found)
    draw = ImageDraw.Draw(picture)
    order = sorted(range(len(found)), key=lambda k: scores[k] or 0.0)
    edges = [tuple(scale * float(edge) for edge in box) for box in found.boxes]
    count = max([len(class_names), *(1 + label for label in found.labels.tolist())])  # labels without a name, too
    palette = class_colors(colors, count, first=1)
    edge_colors = [palette[int(label)] for label in found.labels]
    for number in order:
        left, top, right, bottom = edges[number]
        place = (left, top, max(right - 1, left), max(bottom - 1, top))
        draw.rectangle(place, outline=edge_colors[number], width=_px(3, picture))
    labels: list[tuple[int, str, _Rectangle]] = []
    for number in reversed(order):  # the box with the highest score gets the first choice of a place
        label, score = int(found.labels[number]), scores[number]
        name = class_names[label] if label < len(class_names) else str(label)
        text = name if score is None else f"{name} {score:.2f}"
        occupied = [place for _, _, place in labels]
        labels.append((number, text, _label_place(text, edges[number], picture, occupied)))
    for number, text, place in reversed(labels):
        draw.rectangle(place, fill=edge_colors[number])
        ink = INK if sum(edge_colors[number]) > 330 else PAPER
        start = place[0] + _px(4, picture), place[1] + _px(2, picture)
        draw.text(start, text, font=font(_px(TEXT_PX, picture)), fill=ink)
    return _with_note(picture, note) if note else picture


def match_picture(
    first: ImageLike, second: ImageLike, points: Float[Tensor, "p 2"], matched: Float[Tensor, "p 2"]
) -> Image.Image:
    """Draw two images next to each other, and a line from each point in the first to its match in the second.

    Args:
        first: One image in any form that `tadp.images.to_pil` reads.
        second: Another image.
        points: Points (x, y) in the first image, in its pixels, (P, 2).
        matched: Their matches in the second image, in its pixels, (P, 2).

    Raises:
        ImageError: If an image cannot be read.
        ValueError: If the numbers of points and matches differ.
    """
    originals = to_pil(first), to_pil(second)
    pictures = [_enlarged(original) for original in originals]
    page, lefts, (upper,) = arrange([pictures], margins_px=(0, 0, 0, 0), gap_px=(_px(8, pictures[0]), 0))
    ends = []
    for original, picture, left, places in zip(originals, pictures, lefts, (points, matched), strict=True):
        scale = picture.width / original.width
        ends.append([(left + scale * x, upper + scale * y) for x, y in places.tolist()])
    draw, radius = ImageDraw.Draw(page), _px(5, pictures[0])
    palette = map_colors(np.linspace(0, 1, max(len(points), 2))[None], NEAR_TO_FAR)[0].astype(int).tolist()
    for start, end, color in zip(*ends, palette[: len(points)], strict=True):
        draw.line((*start, *end), fill=tuple(color), width=_px(2, pictures[0]))
        for x, y in (start, end):
            place = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(place, fill=tuple(color), outline=INK, width=_px(1, pictures[0]))
    return page


def _label_place(text: str, box: Sequence[float], picture: Image.Image, occupied: Sequence[_Rectangle]) -> _Rectangle:
    """Place the label of a box above, in or below it, at the first place that hides the least of other labels."""
    left, top, _, bottom = box
    size, height = picture.size, _px(TEXT_PX + 5, picture)
    width = font(_px(TEXT_PX, picture)).getlength(text) + _px(8, picture)
    left = max(min(left, size[0] - width), 0)
    steps = [top - height, top, *(top + k * height for k in range(1, int((bottom - top) // height))), bottom]
    uppers = [upper for upper in steps if 0 <= upper <= size[1] - height] or [max(min(top, size[1] - height), 0)]
    places = [(left, upper, left + width, upper + height) for upper in uppers]
    return min(places, key=lambda place: sum(_overlap(place, rectangle) for rectangle in occupied))


def _overlap(first: _Rectangle, second: _Rectangle) -> float:
    """The area that two rectangles share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)


def _enlarged(picture: Image.Image) -> Image.Image:
    scale = SHORT_PX / min(picture.size)
    if scale <= 1:
        return picture
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.NEAREST)


def _px(length: float, picture: Image.Image) -> int:
    """A length on a picture in pixels, which grows with large pictures, as they are shown smaller."""
    return round(length * max(min(picture.size) / LARGE_PX, 1))


def _page(picture: Image.Image, height: float) -> Image.Image:
    """A page with the picture, and an empty strip below it. `height` is the height of the strip for a small picture."""
    page = Image.new("RGB", (picture.width, picture.height + _px(height, picture)), PAPER)
    page.paste(picture, (0, 0))
    return page


def _with_note(picture: Image.Image, note: str) -> Image.Image:
    page = _page(picture, 34)
    place = _px(10, picture), picture.height + _px(24, picture)
    ImageDraw.Draw(page).text(place, note, font=font(_px(TEXT_PX, picture)), fill=FAINT, anchor="ls")
    return page


def _with_legend(picture: Image.Image, entries: list[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    if not entries:
        return picture
    text_font = font(_px(TEXT_PX, picture))
    margin, chip, space, gap, row = (_px(length, picture) for length in (10, 14, 6, 16, 24))
    places: list[tuple[float, int]] = []
    left, line = float(margin), 0
    for name, _ in entries:
        width = chip + space + text_font.getlength(name)
        if left > margin and left + width > picture.width - margin:
            left, line = float(margin), line + 1
        places.append((left, line))
        left += width + gap
    page = _page(picture, 14 + 24 * (line + 1))
    draw = ImageDraw.Draw(page)
    for (name, color), (left, line) in zip(entries, places, strict=True):
        top = picture.height + margin + row * line
        draw.rectangle((left, top, left + chip, top + chip), fill=color)
        draw.text((left + chip + space, top + chip - 1), name, font=text_font, fill=INK, anchor="ls")
    return page
