"""Resize, crop, flip and pad samples. Image, mask, depth and boxes change together.

A transform is a function of a sample and a NumPy random number generator. The same state of the generator gives the
same result. Transforms that use no random numbers can be called without a generator.

    small = Resize(512, longest=2048)(sample)
    train = Augmented(data, [RandomResize((0.5, 2.0)), RandomCrop(512, cat_max_ratio=0.75), RandomFlip(), PadTo(512)])

Captions do not change, so a caption that contains "left" is wrong after a flip.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias, get_args

import numpy as np

from tadp.datasets.sample import IGNORE_LABEL, Sample
from tadp.datasets.transforms import geometry
from tadp.datasets.transforms.geometry import Fill
from tadp.files.checks import check_choice

Transform: TypeAlias = Callable[[Sample, np.random.Generator], Sample]

_CROP_TRIES = 10  # mmseg's RandomCrop


@dataclass(frozen=True)
class Resize:
    """Resize samples to a fixed size, or to a fixed length of the shorter side.

    The image is resized bilinearly, with antialiasing where it shrinks (unlike in mmseg). Mask and depth take the value
    of the nearest pixel. The depth values, in metres, do not change.

    Attributes:
        size: Either one integer, the new length of the shorter side in pixels, where the ratio of the sides is kept; or
            the new (height, width) in pixels.
        longest: Largest length of the longer side in pixels. If the longer side would exceed it, the image is made
            smaller until it fits. None sets no limit. Only allowed if `size` is one integer.

    Raises:
        ValueError: If a size is below 1, or `longest` is combined with (height, width).

    Source:
        `Resize(512, longest=2048)` is the `img_scale=(2048, 512)` of TADP's ADE20K configuration without its random
        ratios.

    Example:
        >>> Resize(64)(Sample(np.zeros((100, 200, 3), np.uint8), "a"))
        Sample('a', 64x128)
    """

    size: int | tuple[int, int]
    _: KW_ONLY
    longest: int | None = None

    def __post_init__(self) -> None:
        _check_resizing(self.size, self.longest)

    def __call__(self, sample: Sample, generator: np.random.Generator | None = None) -> Sample:
        if isinstance(self.size, tuple):
            return geometry.resize(sample, self.size)
        return geometry.resize(sample, geometry.fit(sample.image_size, self.size, self.longest))


@dataclass(frozen=True)
class RandomResize:
    """Resize samples by a factor drawn uniformly from a range. The ratio of the sides is kept.

    Attributes:
        ratio: Smallest and largest factor; (0.5, 2.0) by default.
        size: Length of the shorter side in pixels that the factor is multiplied with. None multiplies the image's own
            size.
        longest: Largest length of the longer side in pixels before the factor is applied, as in `Resize`. None sets no
            limit.

    Raises:
        ValueError: If the range is empty or contains 0, a size is below 1, or `longest` is set without a size.

    Source:
        TADP's ade20k_vpd.py, which has `RandomResize((0.5, 2.0), size=512, longest=2048)`. For Pascal VOC, TADP's code
        draws from 0.5 to 2 times the image's own size.
    """

    ratio: tuple[float, float] = (0.5, 2.0)
    _: KW_ONLY
    size: int | None = None
    longest: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.ratio, tuple | list) or len(self.ratio) != 2:
            raise TypeError(f"ratio must be (smallest, largest), such as (0.5, 2.0); got {self.ratio!r}.")
        low, high = self.ratio
        if not 0 < low <= high:
            raise ValueError(f"ratio must be (smallest, largest), both over 0; got {self.ratio}.")
        if self.size is None and self.longest is not None:
            raise ValueError(f"longest={self.longest} needs a size for the shorter side; pass size=.")
        _check_resizing(1 if self.size is None else self.size, self.longest)

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        ratio = generator.uniform(*self.ratio)
        if self.size is None:
            return geometry.resize(sample, geometry.fit(sample.image_size, ratio * min(sample.image_size), None))
        longest = None if self.longest is None else ratio * self.longest
        return geometry.resize(sample, geometry.fit(sample.image_size, ratio * self.size, longest))


@dataclass(frozen=True)
class RandomCrop:
    """Cut out a random window of samples. A side of the image that is shorter than the window is kept; `PadTo` pads it.

    Attributes:
        size: Size of the window in pixels: one integer for a square, or (height, width).
        cat_max_ratio: Largest share of the window's labelled pixels that one class may cover, in (0, 1]; only used for
            samples with a mask. While a class covers this share or more, another window is drawn, up to ten times. 1,
            the default, accepts the first window.
        min_visible: Smallest share of a box's area that must lie in the window, in [0, 1]; 0.25 by default. Boxes are
            clipped to the window. A box is dropped, with its label, if a smaller share is left, or less than one pixel
            of a side.

    Raises:
        ValueError: If a size is below 1, `cat_max_ratio` is not in (0, 1], or `min_visible` is not in [0, 1].

    Source:
        mmseg's RandomCrop, which TADP's ade20k_vpd.py uses with 512 and 0.75. The treatment of boxes is our own.
    """

    size: int | tuple[int, int]
    _: KW_ONLY
    cat_max_ratio: float = 1.0
    min_visible: float = 0.25

    def __post_init__(self) -> None:
        _pair(self.size)
        if not 0 < self.cat_max_ratio <= 1:
            raise ValueError(f"cat_max_ratio must be in (0, 1]; got {self.cat_max_ratio}.")
        _check_share("min_visible", self.min_visible)

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        size = _pair(self.size)
        corner = _draw_corner(sample, size, generator)
        if sample.mask is not None and self.cat_max_ratio < 1:
            for _ in range(_CROP_TRIES):
                if self._is_mixed(sample.mask, corner, size):
                    break
                corner = _draw_corner(sample, size, generator)
        return geometry.crop(sample, corner, size, min_visible=self.min_visible)

    def _is_mixed(self, mask: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> bool:
        (top, left), (height, width) = corner, size
        window = mask[top : top + height, left : left + width]
        counts = np.bincount(window[(window != IGNORE_LABEL) & (window >= 0)])  # negative labels are ignored too
        return bool(np.count_nonzero(counts) > 1 and counts.max() < self.cat_max_ratio * counts.sum())


@dataclass(frozen=True)
class CenterCrop:
    """Cut out the window in the middle of samples. A side of the image that is shorter than the window is kept.

    Attributes:
        size: Size of the window in pixels: one integer for a square, or (height, width).
        min_visible: Smallest share of a box's area that must lie in the window to keep the box, in [0, 1]; 0.25 by
            default. See `RandomCrop`.

    Raises:
        ValueError: If a size is below 1, or `min_visible` is not in [0, 1].
    """

    size: int | tuple[int, int]
    _: KW_ONLY
    min_visible: float = 0.25

    def __post_init__(self) -> None:
        _pair(self.size)
        _check_share("min_visible", self.min_visible)

    def __call__(self, sample: Sample, generator: np.random.Generator | None = None) -> Sample:
        size = _pair(self.size)
        top, left = (max(side - target, 0) // 2 for side, target in zip(sample.image_size, size, strict=True))
        return geometry.crop(sample, (top, left), size, min_visible=self.min_visible)


@dataclass(frozen=True)
class RandomFlip:
    """Exchange left and right at random.

    Attributes:
        probability: Probability that a sample is flipped.

    Raises:
        ValueError: If `probability` is not in [0, 1].
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        return geometry.flip(sample) if generator.random() < self.probability else sample


@dataclass(frozen=True)
class PadTo:
    """Pad samples on the right and at the bottom to a fixed size, so that they can form a batch.

    Masks are padded with `IGNORE_LABEL` (255) and depth with 0, which means unknown. Boxes do not change.

    Attributes:
        size: Size after padding in pixels: one integer for a square, or (height, width). No image may be larger.
        fill: Content of the added pixels. "edge" (the default) repeats the last row and column, as the backbone does
            when it pads images. "grey" is the colour that the paper's code uses, and "zero" is black.

    Raises:
        ValueError: If a size is below 1, if `fill` is unknown, or, when a sample is padded, if its image is larger than
            `size`.

    Example:
        >>> PadTo(128)(Sample(np.zeros((100, 120, 3), np.uint8), "a"))
        Sample('a', 128x128)
    """

    size: int | tuple[int, int]
    _: KW_ONLY
    fill: Fill = "edge"

    def __post_init__(self) -> None:
        _pair(self.size)
        check_choice(self.fill, get_args(Fill), name="fill")

    def __call__(self, sample: Sample, generator: np.random.Generator | None = None) -> Sample:
        return geometry.pad(sample, _pair(self.size), fill=self.fill)


def _draw_corner(sample: Sample, size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
    top, left = (
        int(generator.integers(max(side - target, 0) + 1)) for side, target in zip(sample.image_size, size, strict=True)
    )
    return top, left


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int | np.integer) for side in sides):
        raise TypeError(f"a size must be a number of pixels, or (height, width); got {size!r}.")
    height, width = sides
    if min(height, width) < 1:
        raise ValueError(f"a size must be 1 pixel or more each way; got {size}.")
    return height, width


def _check_resizing(size: int | tuple[int, int], longest: int | None) -> None:
    _pair(size)
    if longest is not None and (isinstance(size, tuple) or longest < size):
        raise ValueError(
            "longest limits the longer side, so it must not be less than size, which must be one number for the "
            f"shorter side; got size={size} and longest={longest}."
        )


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1]; got {value}.")
