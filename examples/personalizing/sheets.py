"""The pictures of the study and of the page, small enough to be looked at on it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tadp.drawing import sheet


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
    pictures = [_small(images[:columns], columns, side_px) for _, images in rows]
    return sheet(pictures, labels=[name for name, _ in rows], title=title)


def grid(images: np.ndarray, *, columns: int, side_px: int = 128) -> Image.Image:
    """Images in rows."""
    starts = range(0, len(images), columns)
    return sheet([_small(images[start : start + columns], columns, side_px) for start in starts])


def _small(images: np.ndarray, columns: int, side_px: int) -> list[Image.Image]:
    """A row of small pictures; where there are too few, the rest is white."""
    row = [Image.fromarray(one).resize((side_px, side_px), Image.Resampling.LANCZOS) for one in images]
    return row + [Image.new("RGB", (side_px, side_px), "white")] * (columns - len(row))
