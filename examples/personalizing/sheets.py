"""The pictures of the study and of the page, small enough to be looked at on it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tadp.personalize.sheets import sheet


def comparison(
    rows: Sequence[tuple[str, np.ndarray]], *, columns: int, title: str = "", side_px: int = 96
) -> Image.Image:
    """Images in rows under their names, in few colours.

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
    return sheet(shown, title=title).quantize(192, dither=Image.Dither.FLOYDSTEINBERG)
