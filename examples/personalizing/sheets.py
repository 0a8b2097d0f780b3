"""The pictures of the study and of its page, made of small images."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tadp.drawing import sheet


def comparison(
    rows: Sequence[tuple[str, np.ndarray]], *, columns: int, title: str = "", side_px: int = 128
) -> Image.Image:
    """Draw named rows of images.

    Args:
        rows: For each row, its name and images, (N, H, W, 3), of which the first ones are shown.
        columns: Number of images per row.
        title: Title of the picture.
        side_px: Side of an image, in pixels.
    """
    pictures = [_small(images[:columns], columns, side_px) for _, images in rows]
    return sheet(pictures, labels=[name for name, _ in rows], title=title)


def grid(images: np.ndarray, *, columns: int, side_px: int = 128) -> Image.Image:
    """Draw images in rows."""
    starts = range(0, len(images), columns)
    return sheet([_small(images[start : start + columns], columns, side_px) for start in starts])


def _small(images: np.ndarray, columns: int, side_px: int) -> list[Image.Image]:
    """A row of small images, filled up with white ones."""
    row = [Image.fromarray(image).resize((side_px, side_px), Image.Resampling.LANCZOS) for image in images]
    return row + [Image.new("RGB", (side_px, side_px), "white")] * (columns - len(row))
