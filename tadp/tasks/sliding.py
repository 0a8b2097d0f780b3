"""What the tasks share of `predict`: one image, sizes of windows, and the views of an image that are averaged."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from tadp.errors import ImageError
from tadp.files.checks import check_whole
from tadp.images.reading import ImageLike, to_tensor
from tadp.images.windows import Predict, WindowedPrediction

_LEAST_PX = 8  # what the VAE takes


def read_one(image: ImageLike) -> Float[Tensor, "1 3 h w"]:
    """One image, as `tadp.images.to_tensor` reads it.

    Raises:
        TypeError: If it is a list.
        ImageError: If it is a batch of several, or cannot be read.
    """
    if isinstance(image, list | tuple):
        raise TypeError(
            f"predict takes one image; got a {type(image).__name__} of {len(image)}. Call it for each of them: "
            "[model.predict(one) for one in images]."
        )
    pixels = to_tensor(image)
    if len(pixels) != 1:
        raise ImageError(
            f"predict takes one image; got a batch of {len(pixels)}. Call it for each of them: "
            "[model.predict(one) for one in images]."
        )
    return pixels


def window_and_stride(
    window_px: int | None, stride_px: int | None, *, thirds: int, own: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Sizes that were checked.

    Args:
        window_px: Side of the windows; None takes a model's own.
        stride_px: Step from one window to the next. None is the model's own for its own windows, else that many thirds
            of a window.
        thirds: Default stride, in thirds of a window.
        own: The model's own window and stride.

    Raises:
        TypeError: If a size is no integer.
        ValueError: If a size is under 1, or the stride is over the window.

    Example:
        >>> window_and_stride(512, None, thirds=2)
        (512, 341)
    """
    if own is not None and window_px is None:
        window_px, stride_px = own[0], own[1] if stride_px is None else stride_px
    window_px = check_whole(window_px, name="window_px", unit="pixel")
    stride_px = (
        max(window_px * thirds // 3, 1) if stride_px is None else check_whole(stride_px, name="stride_px", unit="pixel")
    )
    if stride_px > window_px:
        raise ValueError(f"stride_px is at most window_px, {window_px}, so that there are no gaps; got {stride_px}.")
    return window_px, stride_px


def make_views(
    predict: Predict,
    image: Float[Tensor, "1 3 h w"],
    *,
    window_px: int,
    stride_px: int,
    scales: Sequence[float] = (1.0,),
    short_side_px: int | None = None,
    flip: bool = False,
    cell_px: int = 1,
) -> list[WindowedPrediction]:
    """An image at several sizes, mirrored too if asked for.

    Args:
        predict: As `WindowedPrediction` takes it.
        image: (1, 3, H, W).
        window_px: Side of the windows.
        stride_px: From one to the next.
        scales: Sizes relative to the image after its shorter side was brought to `short_side_px`.
        short_side_px: None leaves it as it is.
        flip: Add the mirrored image of each size.
        cell_px: As `WindowedPrediction` takes it.

    Raises:
        TypeError: If the shorter side is no integer, or `scales` no list.
        ValueError: If a scale is not over 0, or the shorter side is under 1.
    """
    if not isinstance(scales, Sequence):
        raise TypeError(f"scales are a list of numbers, such as (0.75, 1.0, 1.25); got {scales!r}.")
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales are numbers over 0, one or more; got {tuple(scales)}.")
    height, width = int(image.shape[2]), int(image.shape[3])
    factor = 1.0
    if short_side_px is not None:
        factor = check_whole(short_side_px, name="short_side_px", unit="pixel") / min(height, width)
    sizes = [
        (max(round(height * factor * scale), _LEAST_PX), max(round(width * factor * scale), _LEAST_PX))
        for scale in scales
    ]
    return [
        WindowedPrediction(
            predict, image, window=window_px, stride=stride_px, size=size, flipped=flipped, cell_px=cell_px
        )
        for size in sizes
        for flipped in ((False, True) if flip else (False,))
    ]
