"""The pictures of the study and of the page, small enough to be looked at on it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tadp.drawing.sheets import sheet


def comparison(
    rows: Sequence[tuple[str, np.ndarray]], *, columns: int, title: str = "", side_px: int = 128
) -> Image.Image:
    """Images in rows under their names.

    Args:
        rows: A name and images, (N, H, W, 3), of which the first are shown.
        columns: How many.
        title: Above all.
        side_px: Of an image.
    """
    shown = [
        (name, [Image.fromarray(one).resize((side_px, side_px), Image.Resampling.LANCZOS) for one in images[:columns]])
        for name, images in rows
    ]
    return sheet(shown, title=title)


def grid(images: np.ndarray, *, columns: int, side_px: int = 128, gap_px: int = 8) -> Image.Image:
    """Images close together."""
    rows = -(-len(images) // columns)
    step = side_px + gap_px
    picture = Image.new("RGB", (columns * step + gap_px, rows * step + gap_px), "white")
    for number, pixels in enumerate(images):
        image = Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.LANCZOS)
        picture.paste(image, (gap_px + number % columns * step, gap_px + number // columns * step))
    return picture
