"""Steps of `predict` that the tasks share: reading one image, checking window sizes, and making views to average."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.errors import ImageError
from tadp.features import Features
from tadp.files.checks import check_whole
from tadp.images.batches import Batches
from tadp.images.reading import MAX_PIXELS, ImageLike, read_image, to_tensor
from tadp.images.windows import WindowedPrediction, windows_in_order
from tadp.text.conditioning import Conditioning

_LEAST_PX = 8  # the smallest side that the VAE accepts


def read_one(image: ImageLike) -> Float[Tensor, "1 3 h w"]:
    """One image in [0, 1]. Files and pictures are read with 8 bits, as `tadp.images.read_image` and data sets do.

    Raises:
        TypeError: If `image` is a list.
        ImageError: If `image` is a batch of several images, or cannot be read.
    """
    if isinstance(image, list | tuple):
        raise TypeError(
            f"predict takes one image; got a {type(image).__name__} of {len(image)}. Call it once per image: "
            "[model.predict(image) for image in images]."
        )
    pixels = to_tensor(read_image(image) if isinstance(image, str | Path | Image.Image) else image)
    if len(pixels) != 1:
        raise ImageError(
            f"predict takes one image; got a batch of {len(pixels)}. Call it once per image: "
            "[model.predict(image) for image in images]."
        )
    return pixels


@contextmanager
def predicting(image: ImageLike) -> Iterator[None]:
    """A block without gradients, in which errors name the image that is predicted."""
    try:
        with torch.no_grad():
            yield
    except ImageError as error:
        raise ImageError(*(f"{image}: ",) * isinstance(image, str | Path), *error.args) from error


def batch_features(
    compute: Callable[..., Features],
    backbone: TADPBackbone,
    pixels: Float[Tensor, "b 3 h w"],
    texts: Sequence[Conditioning],
) -> Features:
    """Compute the features of parts of images, each with its own text, as if each part were computed alone.

    Args:
        compute: The model's method `features`.
        backbone: The model's backbone.
        pixels: The parts.
        texts: The text of each part.

    Raises:
        ImageError: If a map or recorded attention has NaN or infinity.
    """
    text = texts[0] if all(other is texts[0] for other in texts) else Conditioning.stack(texts)
    if len(pixels) > 1 and backbone.options.sample_posterior:  # every part gets the random numbers that it gets alone
        seeded = (torch.Generator().manual_seed(0) for _ in pixels)
        latents = [
            backbone.encode_image(part, generator=seed) for part, seed in zip(pixels.split(1), seeded, strict=True)
        ]
        size = int(pixels.shape[2]), int(pixels.shape[3])
        features = compute(None, text, latents=torch.cat(latents), image_size=size)
    else:
        features = compute(pixels, text)
    for sentence in features.broken().values():
        raise ImageError(f"the image cannot be predicted: {sentence}")
    return features


def check_result(result: Tensor) -> None:
    """Refuse a result that is not finite.

    Raises:
        ImageError: If the result has NaN or infinity.
    """
    if not result.isfinite().all():
        raise ImageError(
            "the image cannot be predicted: the features are finite, but the head's result is NaN or infinite. Its "
            "training may have failed."
        )


def window_and_stride(
    window_px: int | None, stride_px: int | None, *, thirds: int, own: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Return the window and the stride to use, after checking them.

    Args:
        window_px: Side of the windows in pixels; None is the window in `own`.
        stride_px: Number of pixels from one window to the next. None is the stride in `own` if `window_px` is also
            None, and otherwise `thirds` thirds of `window_px`.
        thirds: The default stride, in thirds of a window.
        own: Window and stride of the model, in pixels; None if the model is only being built.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If a size is below 1, or `stride_px` is larger than `window_px`.

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
        raise ValueError(
            f"stride_px must be at most window_px, {window_px}, or windows would leave gaps; got {stride_px}."
        )
    return window_px, stride_px


def check_side(short_side_px: int | None) -> int | None:
    """Return the length to which the shorter side is resized, after checking it; None keeps the image's size.

    Raises:
        TypeError: If the length is not an integer.
        OptionError: If it is below 1.
    """
    return None if short_side_px is None else check_whole(short_side_px, name="short_side_px", unit="pixel")


def make_views(
    batches: Batches,
    image: Float[Tensor, "1 3 h w"],
    text: Conditioning,
    *,
    window_px: int,
    stride_px: int,
    scales: Sequence[float] = (1.0,),
    short_side_px: int | None = None,
    flip: bool = False,
    cell_px: int = 1,
    align_corners: bool = False,
    tapered: bool = False,
) -> list[WindowedPrediction]:
    """Prepare the windowed predictions of an image at several scales, and of the mirrored image if `flip` is set.

    Args:
        batches: The `Batches` that predicts the windows. Its `expect` receives the windows that will be needed.
        image: The image, (1, 3, H, W), in [0, 1].
        text: The text of the image.
        window_px: Side of the windows in pixels.
        stride_px: Number of pixels from one window to the next.
        scales: Factors by which the image is resized, after its shorter side was resized to `short_side_px`.
        short_side_px: Length in pixels to which the image's shorter side is resized first; None keeps its size.
        flip: Whether to add the mirrored image at each scale.
        cell_px: Side in pixels of the square that one predicted value covers; see `WindowedPrediction`.
        align_corners: How values are enlarged; see `WindowedPrediction`.
        tapered: Whether the weight of a window falls towards its border; see `WindowedPrediction`.

    Raises:
        TypeError: If `short_side_px` is not an integer, or `scales` is not a list of numbers.
        ValueError: If a scale is not above 0, or `short_side_px` is below 1.
    """
    if not isinstance(scales, Sequence):
        raise TypeError(f"scales must be a list of numbers, such as (0.75, 1.0, 1.25); got {scales!r}.")
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales must be one or more numbers above 0; got {tuple(scales)}.")
    height, width = int(image.shape[2]), int(image.shape[3])
    factor = 1.0
    if short_side_px is not None:
        factor = check_whole(short_side_px, name="short_side_px", unit="pixel") / min(height, width)
    sizes = [
        (max(round(height * factor * scale), _LEAST_PX), max(round(width * factor * scale), _LEAST_PX))
        for scale in scales
    ]
    for (rows, columns), scale in zip(sizes, scales, strict=True):
        if rows * columns > MAX_PIXELS:
            raise ValueError(
                f"scales must enlarge an image to at most {MAX_PIXELS // 10**6} megapixels; {height}x{width} at scale "
                f"{scale} would have {rows}x{columns}. Use a smaller scale, or a smaller short_side_px."
            )
    views = [
        WindowedPrediction(
            batches,
            image,
            window=window_px,
            stride=stride_px,
            size=size,
            flipped=flipped,
            cell_px=cell_px,
            align_corners=align_corners,
            tapered=tapered,
            text=text,
            text_kind=text.kind,
        )
        for size in sizes
        for flipped in ((False, True) if flip else (False,))
    ]
    batches.expect(windows_in_order(views))
    return views
