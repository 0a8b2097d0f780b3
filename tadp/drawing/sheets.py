"""Contact sheets: rows of images under their texts."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_GAP_PX, _LINE_PX, _TEXT_PX = 8, 24, 14
_INK, _FAINT = (31, 35, 40), (110, 118, 129)


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], *, title: str) -> Image.Image:
    """Images in rows, each row under its text.

    Args:
        rows: A text and its images, all of one size.
        title: Above all.
    """
    width, height = rows[0][1][0].size
    columns = max(len(images) for _, images in rows)
    row_px = _LINE_PX + height + _GAP_PX
    size = (columns * (width + _GAP_PX) + _GAP_PX, _LINE_PX + len(rows) * row_px + _GAP_PX)
    picture = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(_TEXT_PX)
    pen.text((_GAP_PX, _GAP_PX // 2), title, fill=_FAINT, font=font)
    for number, (text, images) in enumerate(rows):
        top = _LINE_PX + number * row_px
        pen.text((_GAP_PX, top + _GAP_PX // 2), text, fill=_INK, font=font)
        for column, image in enumerate(images):
            picture.paste(image, (_GAP_PX + column * (width + _GAP_PX), top + _LINE_PX))
    return picture
