"""Change the size and the window of a sample; image, mask, depth and boxes change together.

A transform is a function of a sample and a generator of random numbers, so that the same generator state gives the
same result. Those that draw nothing may be called without.

    small = Resize(512, longest=2048)(sample)
    train = Augmented(data, [RandomResize((0.5, 2.0)), RandomCrop(512, cat_max_ratio=0.75), RandomFlip(), PadTo(512)])

Captions stay as they are: one that says "left" is wrong after a flip.
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
    """Resize to a size, or so that the shorter side has one.

    The image is bilinear, and antialiased where it shrinks (mmseg's is not); mask and depth take the nearest pixel.
    Depth keeps its metres.

    Attributes:
        size: Pixels of the shorter side, the ratio kept; or (height, width).
        longest: Most pixels of the longer side; the shorter gets less where it would be exceeded.

    Raises:
        ValueError: If a size is under 1, or `longest` stands beside (height, width).

    Source:
        `Resize(512, longest=2048)` is the `img_scale=(2048, 512)` of the ADE20K configuration, without its ratios.

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
    """Resize by a ratio drawn evenly from a range, the ratio of the sides kept.

    Attributes:
        ratio: Least and largest.
        size: What the ratio is of: None, the image's own size; or the size that `Resize(size, longest=longest)` gives.
        longest: As in `Resize`, times the ratio too.

    Raises:
        ValueError: If the range is empty or has 0 in it, a size is under 1, or `longest` stands without a size.

    Source:
        TADP's ade20k_vpd.py: `RandomResize((0.5, 2.0), size=512, longest=2048)`. Its Pascal VOC draws from
        0.5 to 2 of the image's own size.
    """

    ratio: tuple[float, float] = (0.5, 2.0)
    _: KW_ONLY
    size: int | None = None
    longest: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.ratio, tuple | list) or len(self.ratio) != 2:
            raise TypeError(f"ratio is a least and a largest, such as (0.5, 2.0); got {self.ratio!r}.")
        low, high = self.ratio
        if not 0 < low <= high:
            raise ValueError(f"ratio is a least and a largest over 0; got {self.ratio}.")
        if self.size is None and self.longest is not None:
            raise ValueError(f"longest={self.longest} goes with a size, of the shorter side; pass size=.")
        _check_resizing(1 if self.size is None else self.size, self.longest)

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        ratio = generator.uniform(*self.ratio)
        if self.size is None:
            return geometry.resize(sample, geometry.fit(sample.image_size, ratio * min(sample.image_size), None))
        longest = None if self.longest is None else ratio * self.longest
        return geometry.resize(sample, geometry.fit(sample.image_size, ratio * self.size, longest))


@dataclass(frozen=True)
class RandomCrop:
    """Cut a window out at random; an image that is smaller is cut to what there is, and `PadTo` makes it whole.

    Attributes:
        size: Height and width of the window, or (height, width), in pixels.
        cat_max_ratio: Where there is a mask: draw again, up to ten times, while one class has this share or more of the
            window's labelled pixels. 1: take the first.
        min_visible: A box is clipped to the window. It is dropped, with its label, if less than this share of its area
            is left, or less than a pixel of a side.

    Raises:
        ValueError: If a size is under 1, or a share not in (0, 1], or [0, 1].

    Source:
        mmseg's RandomCrop, which ade20k_vpd.py has with 512 and 0.75. Boxes are this package's.
    """

    size: int | tuple[int, int]
    _: KW_ONLY
    cat_max_ratio: float = 1.0
    min_visible: float = 0.25

    def __post_init__(self) -> None:
        _pair(self.size)
        if not 0 < self.cat_max_ratio <= 1:
            raise ValueError(f"cat_max_ratio is a share, in (0, 1]; got {self.cat_max_ratio}.")
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
        counts = np.bincount(window[(window != IGNORE_LABEL) & (window >= 0)])  # negative: another label to ignore
        return bool(np.count_nonzero(counts) > 1 and counts.max() < self.cat_max_ratio * counts.sum())


@dataclass(frozen=True)
class CenterCrop:
    """Cut the window in the middle out; an image that is smaller is cut to what there is.

    Attributes:
        size: Height and width of the window, or (height, width), in pixels.
        min_visible: As in `RandomCrop`.

    Raises:
        ValueError: If a size is under 1, or `min_visible` not in [0, 1].
    """

    size: int | tuple[int, int]
    _: KW_ONLY
    min_visible: float = 0.25

    def __post_init__(self) -> None:
        _pair(self.size)
        _check_share("min_visible", self.min_visible)

    def __call__(self, sample: Sample, generator: np.random.Generator | None = None) -> Sample:
        size = _pair(self.size)
        top, left = (max(there - wanted, 0) // 2 for there, wanted in zip(sample.image_size, size, strict=True))
        return geometry.crop(sample, (top, left), size, min_visible=self.min_visible)


@dataclass(frozen=True)
class RandomFlip:
    """Exchange left and right at random.

    Attributes:
        probability: How often.

    Raises:
        ValueError: If it is not in [0, 1].
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_share("probability", self.probability)

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        return geometry.flip(sample) if generator.random() < self.probability else sample


@dataclass(frozen=True)
class PadTo:
    """Pad on the right and at the bottom to one size, so that a batch can be made.

    What is added to a mask is `IGNORE_LABEL` (255), to depth 0, which is unknown; boxes stay.

    Attributes:
        size: Height and width, or (height, width), in pixels; no image may be larger.
        fill: "edge" repeats the last row and column, as the backbone does for itself. "grey" is what the paper's code
            pads with, "zero" is black.

    Raises:
        ValueError: If a size is under 1, or there is no such fill; when called, if an image is larger.

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
        int(generator.integers(max(there - wanted, 0) + 1))
        for there, wanted in zip(sample.image_size, size, strict=True)
    )
    return top, left


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int | np.integer) for side in sides):
        raise TypeError(f"a size is a number of pixels, or (height, width); got {size!r}.")
    height, width = sides
    if min(height, width) < 1:
        raise ValueError(f"a size is 1 pixel or more each way; got {size}.")
    return height, width


def _check_resizing(size: int | tuple[int, int], longest: int | None) -> None:
    _pair(size)
    if longest is not None and (isinstance(size, tuple) or longest < size):
        raise ValueError(
            f"longest is the most pixels of the longer side, where size is the shorter side's; got size={size} and "
            f"longest={longest}."
        )


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a share, in [0, 1]; got {value}.")
