"""Colour transforms: the numbers are those of mmseg and albumentations, and only the image changes."""

import colorsys

import numpy as np
import pytest

from tadp.datasets import (
    BrightnessContrast,
    CutDepth,
    Gamma,
    HueSaturationValue,
    PhotometricDistortion,
    RenderedScenes,
    Sample,
)
from tadp.datasets.transforms.photometric import _change_hsv

SAMPLE = RenderedScenes(1, 4, size=64)[0]
COLORS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
COLORS[0, :4] = [[0, 0, 0], [255, 255, 255], [7, 7, 7], [255, 0, 0]]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def constant(level: int) -> Sample:
    return Sample(np.full((4, 4, 3), level, np.uint8), "grey")


def levels(transform, sample: Sample, count: int = 300) -> np.ndarray:
    """The levels that a picture of one level becomes, over many draws."""
    generator = rng()
    return np.array([int(transform(sample, generator).image[0, 0, 0]) for _ in range(count)])


ALL = [
    PhotometricDistortion(),
    BrightnessContrast(probability=1),
    Gamma(probability=1),
    HueSaturationValue(probability=1),
    CutDepth(probability=1),
]


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_the_image_alone_changes_and_the_same_numbers_change_it_the_same(transform):
    before = SAMPLE.image.copy()
    changed = [transform(SAMPLE, rng(seed)) for seed in (0, 0, 1)]
    assert (changed[0].image == changed[1].image).all()
    assert (changed[0].image != changed[2].image).any()
    assert (SAMPLE.image == before).all()
    for name in ("mask", "depth_m", "boxes", "caption"):
        assert getattr(changed[0], name) is getattr(SAMPLE, name)
    assert changed[0].image.dtype == np.uint8


@pytest.mark.parametrize(
    "transform",
    [BrightnessContrast(), Gamma(), HueSaturationValue(), CutDepth(probability=0.5)],
    ids=repr,
)
def test_half_of_the_samples_change(transform):
    generator = rng()
    changed = [transform(SAMPLE, generator) is not SAMPLE for _ in range(200)]
    assert abs(np.mean(changed) - 0.5) < 0.1


@pytest.mark.parametrize(
    "neutral",
    [
        PhotometricDistortion(brightness=0, contrast=(1, 1), saturation=(1, 1), hue=0),
        BrightnessContrast(brightness=0, contrast=0, probability=1),
        Gamma((1, 1), probability=1),
        HueSaturationValue(hue=0, saturation=0, value=0, probability=1),
    ],
    ids=repr,
)
def test_nothing_asked_for_is_nothing_done(neutral):
    for seed in range(8):
        assert (neutral(Sample(COLORS, "a"), rng(seed)).image == COLORS).all()


def test_distortion_adds_up_to_32_and_multiplies_by_half_to_one_and_a_half():
    grey = constant(100)
    brightness = levels(PhotometricDistortion(contrast=(1, 1)), grey)
    assert 68 <= brightness.min() < 71
    assert 129 < brightness.max() <= 132
    assert abs(np.mean(brightness == 100) - 0.5) < 0.1
    contrast = levels(PhotometricDistortion(brightness=0), grey)
    assert 50 <= contrast.min() < 55
    assert 145 < contrast.max() <= 150
    assert levels(PhotometricDistortion(brightness=0, contrast=(3, 3)), grey).max() == 255  # no overflow


def test_contrast_comes_before_or_after_the_colours():
    red = Sample(np.full((2, 2, 3), [200, 100, 100], np.uint8), "a")
    distort = PhotometricDistortion(brightness=0, contrast=(1.5, 1.5), saturation=(0.2, 0.2), hue=0)
    results = {tuple(distort(red, rng(seed)).image[0, 0].tolist()) for seed in range(60)}
    single_changes = {(255, 150, 150), (200, 180, 180)}
    # With both changes, 1.5 times (200, 180, 180) is white, and (255, 150, 150) keeps a fifth of its saturation, 7/17.
    assert results == {(200, 100, 100), (255, 255, 255), (255, 234, 234)} | single_changes


def test_brightness_and_contrast_are_a_fifth():
    multiplied = levels(BrightnessContrast(brightness=0, probability=1), constant(100))
    assert 80 <= multiplied.min() < 83
    assert 117 < multiplied.max() <= 120
    shifted = levels(BrightnessContrast(contrast=0, probability=1), constant(100))
    assert 49 <= shifted.min() < 53
    assert 147 < shifted.max() <= 151


def test_gamma_is_a_power():
    results = levels(Gamma((0.8, 1.2), probability=1), constant(64))
    low, high = (255 * (64 / 255) ** power for power in (1.2, 0.8))
    assert round(low) <= results.min() < results.max() <= round(high)
    assert (Gamma((2, 2), probability=1)(constant(128), rng()).image == round(255 * (128 / 255) ** 2)).all()


@pytest.mark.parametrize("change", [{"hue": 90.0}, {"saturation_factor": 0.5}, {"saturation": 0.1, "value": -0.1}])
def test_hue_saturation_and_value_are_those_of_colorsys(change):
    changed = _change_hsv(COLORS, **change)
    for pixel, expected in zip(changed.reshape(-1, 3), COLORS.reshape(-1, 3) / 255, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*expected)
        hue = (hue + change.get("hue", 0) / 360) % 1
        saturation = min(1, saturation * change.get("saturation_factor", 1) + change.get("saturation", 0))
        value = max(0, value + change.get("value", 0))
        assert np.abs(pixel - 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))).max() < 0.51


def test_a_strip_of_the_image_shows_the_depth():
    depth_m = np.tile(np.linspace(0, 20, 40, dtype=np.float32), (30, 1))
    depth_m[0] = np.nan
    depth_m[1] = np.inf
    sample = Sample(COLORS, "a", depth_m=depth_m)
    widths = []
    for seed in range(40):
        image = CutDepth(probability=1)(sample, rng(seed)).image
        columns = np.flatnonzero((image != COLORS).any(axis=(0, 2)))
        assert (np.diff(columns) == 1).all()
        expected = np.rint(np.clip(depth_m * 25.5, 0, 255))
        expected[:2] = 0
        assert (image[:, columns] == expected[:, columns, None]).all()
        widths.append(len(columns))
    assert min(widths) == 1
    assert 15 < max(widths) <= 30
    with pytest.raises(ValueError, match="CutDepth needs samples with depth; 'grey' has none"):
        CutDepth()(constant(1), rng())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PhotometricDistortion(brightness=-1), "brightness is a largest change and must be 0 or more; got -1"),
        (lambda: PhotometricDistortion(hue=float("nan")), "hue is a largest change and must be 0 or more; got nan"),
        (
            lambda: PhotometricDistortion(contrast=(2, 1)),
            r"contrast must be a range \(lowest, highest\), .*got \(2, 1\)",
        ),
        (lambda: BrightnessContrast(probability=2), r"probability must be in \[0, 1\]; got 2"),
        (lambda: Gamma((-1, 1)), r"gamma must be a range .*got \(-1, 1\)"),
        (lambda: HueSaturationValue(value=-3), "value is a largest change and must be 0 or more; got -3"),
        (lambda: CutDepth(max_width=0), r"max_width must be in \(0, 1\] and max_depth_m over 0; got 0 and 10"),
        (lambda: CutDepth(max_depth_m=0), "got 0.75 and 0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
