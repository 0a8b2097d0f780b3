"""Change the colours of a sample at random. Mask, depth and boxes do not change.

The paper trains segmentation with `PhotometricDistortion`. It trains depth with `CutDepth`, `BrightnessContrast`,
`Gamma` and `HueSaturationValue`, in this order, with a flip and a crop of 480 after `CutDepth`.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from tadp.datasets.sample import Sample
from tadp.files.checks import check_ordered


@dataclass(frozen=True)
class PhotometricDistortion:
    """Change brightness, contrast, saturation and hue of images at random, each with a probability of one half.

    Contrast is changed either before or after saturation and hue, at random.

    Attributes:
        brightness: Largest shift of pixel values in either direction, on the scale from 0 to 255.
        contrast: Smallest and largest factor of the contrast.
        saturation: Smallest and largest factor of the saturation.
        hue: Largest rotation of the hue in either direction, in degrees; 360 is a full turn.

    Raises:
        ValueError: If a number is negative, or a range is empty.

    Source:
        mmseg's PhotoMetricDistortion with its defaults, as in TADP's ade20k_vpd.py. Its hue of 18 is in steps of two
        degrees.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 36.0

    def __post_init__(self) -> None:
        _check_not_negative(brightness=self.brightness, hue=self.hue)
        _check_ranges(contrast=self.contrast, saturation=self.saturation)

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        image = sample.image
        if generator.random() < 0.5:
            image = _levels(image.astype(np.float32) + generator.uniform(-self.brightness, self.brightness))
        contrast_first = generator.random() < 0.5
        if contrast_first:
            image = self._contrast(image, generator)
        if generator.random() < 0.5:
            factor = generator.uniform(*self.saturation)
            image = _change_hsv(image, saturation_factor=factor)
        if generator.random() < 0.5:
            image = _change_hsv(image, hue=generator.uniform(-self.hue, self.hue))
        if not contrast_first:
            image = self._contrast(image, generator)
        return replace(sample, image=image)

    def _contrast(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        if generator.random() >= 0.5:
            return image
        return _levels(image.astype(np.float32) * generator.uniform(*self.contrast))


@dataclass(frozen=True)
class BrightnessContrast:
    """Multiply the contrast of images by a random factor, and then shift their brightness.

    Attributes:
        brightness: Largest shift in either direction, as a share of white: 0.2 is 51 of 255.
        contrast: Largest difference of the factor from 1.
        probability: Probability that a sample is changed, in [0, 1].

    Raises:
        ValueError: If a number is negative, or the probability is not in [0, 1].

    Source:
        albumentations' RandomBrightnessContrast with its defaults, in TADP's datasets/depth/base_dataset.py.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_not_negative(brightness=self.brightness, contrast=self.contrast)
        _check_probability(self.probability)

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        if generator.random() >= self.probability:
            return sample
        factor = 1 + generator.uniform(-self.contrast, self.contrast)
        shift = 255 * generator.uniform(-self.brightness, self.brightness)
        return replace(sample, image=_levels(sample.image.astype(np.float32) * factor + shift))


@dataclass(frozen=True)
class Gamma:
    """Apply a random gamma to images: pixel values, scaled to [0, 1], are raised to that power.

    Attributes:
        gamma: Smallest and largest power.
        probability: Probability that a sample is changed, in [0, 1].

    Raises:
        ValueError: If the range is empty or negative, or the probability is not in [0, 1].

    Source:
        albumentations' RandomGamma with its defaults, in TADP's datasets/depth/base_dataset.py.
    """

    gamma: tuple[float, float] = (0.8, 1.2)
    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_ranges(gamma=self.gamma)
        _check_probability(self.probability)

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        if generator.random() >= self.probability:
            return sample
        table = _levels(255 * (np.arange(256) / 255) ** generator.uniform(*self.gamma))
        return replace(sample, image=table[sample.image])


@dataclass(frozen=True)
class HueSaturationValue:
    """Rotate the hue of images, and shift their saturation and value (of HSV), each by a random amount.

    Attributes:
        hue: Largest rotation in either direction, in degrees; 360 is a full turn.
        saturation: Largest shift in either direction, on the scale from 0 to 255.
        value: Largest shift in either direction, on the scale from 0 to 255.
        probability: Probability that a sample is changed, in [0, 1].

    Raises:
        ValueError: If a number is negative, or the probability is not in [0, 1].

    Source:
        albumentations' HueSaturationValue with its defaults (hue 20 of 180), in TADP's datasets/depth/base_dataset.py.
        For Pascal VOC, TADP's code has a transform of its own, whose ranges are, in the units of this class,
        `HueSaturationValue(hue=20, saturation=10, value=10, probability=1)`.
    """

    hue: float = 40.0
    saturation: float = 30.0
    value: float = 20.0
    probability: float = 0.5

    def __post_init__(self) -> None:
        _check_not_negative(hue=self.hue, saturation=self.saturation, value=self.value)
        _check_probability(self.probability)

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        if generator.random() >= self.probability:
            return sample
        limits = (self.hue, self.saturation, self.value)
        hue, saturation, value = (generator.uniform(-limit, limit) for limit in limits)
        return replace(sample, image=_change_hsv(sample.image, hue=hue, saturation=saturation / 255, value=value / 255))


@dataclass(frozen=True)
class CutDepth:
    """Replace a vertical strip of the image with its depth as grey values, so that a model learns from depth edges.

    Attributes:
        max_width: Largest width of the strip, as a share of the distance from its left edge to the right edge of the
            image, in (0, 1].
        max_depth_m: Depth in metres that is drawn white. Larger depths are also white, and unknown depth is black.
        probability: Probability that a sample is changed, in [0, 1].

    Raises:
        ValueError: If `max_width` is not in (0, 1], `max_depth_m` is not above 0, or `probability` is not in [0, 1].
            If the transform is called with a sample that has no depth.

    Source:
        GLPDepth's vertical CutDepth, in TADP's datasets/depth/base_dataset.py. There, every fourth sample is changed,
        and the depth in millimetres overflows in 8 bits. Here, a sample is changed with a probability of one in four,
        and `max_depth_m` is white.
    """

    max_width: float = 0.75
    max_depth_m: float = 10.0
    probability: float = 0.25

    def __post_init__(self) -> None:
        _check_probability(self.probability)
        if not 0 < self.max_width <= 1 or self.max_depth_m <= 0:
            raise ValueError(
                f"max_width must be in (0, 1] and max_depth_m over 0; got {self.max_width} and {self.max_depth_m}."
            )

    def __call__(self, sample: Sample, generator: np.random.Generator) -> Sample:
        if sample.depth_m is None:
            raise ValueError(f"CutDepth needs samples with depth; {sample.image_id!r} has none. Leave CutDepth out.")
        if generator.random() >= self.probability:
            return sample
        width = sample.image_size[1]
        start, share = generator.random(2)
        left = int(start * width)
        right = left + max(1, int((width - start * width) * share * self.max_width))
        image = sample.image.copy()
        strip = np.nan_to_num(sample.depth_m[:, left:right], nan=0, posinf=0, neginf=0)
        image[:, left:right] = _levels(strip * (255 / self.max_depth_m))[..., None]
        return replace(sample, image=image)


def _levels(values: np.ndarray) -> UInt8[np.ndarray, "..."]:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _change_hsv(
    image: UInt8[np.ndarray, "h w 3"],
    *,
    hue: float = 0.0,
    saturation_factor: float = 1.0,
    saturation: float = 0.0,
    value: float = 0.0,
) -> UInt8[np.ndarray, "h w 3"]:
    """Change hue (in degrees), saturation and value (as shares), without rounding in between, so 0 changes nothing."""
    red, green, blue = (np.ascontiguousarray(image[..., channel], np.float32) for channel in range(3))
    high = np.maximum(np.maximum(red, green), blue)
    chroma = high - np.minimum(np.minimum(red, green), blue)
    divisor = np.maximum(chroma, 1)  # levels are whole numbers; for greys, 0 is divided by 1
    blue_or_green = np.where(high == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixths = (np.where(high == red, (green - blue) / divisor, blue_or_green) + hue / 60) % 6
    share = (chroma / np.maximum(high, 1) * saturation_factor + saturation).clip(0, 1)
    level = (high + 255 * value).clip(0, 255)
    changed = np.empty_like(image)
    for channel, shift in enumerate((5, 3, 1)):
        distance = sixths + shift
        distance = np.where(distance >= 6, distance - 6, distance)
        ramp = np.minimum(distance, 4 - distance).clip(0, 1)
        changed[..., channel] = np.rint(level * (1 - share * ramp))
    return changed


def _check_not_negative(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number >= 0:
            raise ValueError(f"{name} is a largest change and must be 0 or more; got {number}.")


def _check_ranges(**ranges: tuple[float, float]) -> None:
    check_ordered(**ranges)
    for name, (low, high) in ranges.items():
        if not 0 <= low <= high:
            raise ValueError(f"{name} must be a range (lowest, highest), both 0 or more; got {(low, high)}.")


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1]; got {probability}.")
