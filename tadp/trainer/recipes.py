"""How each task is trained, by the name of the recipe. All defaults of training are in this file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tadp.datasets import (
    BrightnessContrast,
    CutDepth,
    Gamma,
    HueSaturationValue,
    PadTo,
    PhotometricDistortion,
    RandomCrop,
    RandomFlip,
    RandomResize,
    Resize,
)
from tadp.datasets.scenes import MAX_DEPTH_M
from tadp.datasets.transforms.geometric import Transform
from tadp.tasks import Tune
from tadp.training.schedules import Schedule, get_schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is built, trained and tested.

    Attributes:
        schedule: Length, batch size and learning rates.
        crop_px: Side of the training images in pixels, and of the windows into which a test image is cut.
        transforms: Function that returns the augmentation for this side, in the order in which it is applied.
        short_side: Shorter side of an image in training and in tests, as a multiple of `crop_px`; None keeps the
            images' own sizes.
        model: Further arguments of the task model, such as its head.
        tune: The part of the U-Net that trains.
        background: Whether a text made of class names includes "background".
        cache_latents: Whether images and captions are encoded only once, which is possible if nothing but a flip is
            random.
        predict: Options of `predict` in tests.
        metric: Options of the metric in tests.
    """

    schedule: Schedule
    crop_px: int
    transforms: Callable[[int], tuple[Transform, ...]]
    short_side: float | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    tune: Tune = "all"
    background: bool = False
    cache_latents: bool = False
    predict: Mapping[str, Any] = field(default_factory=dict)
    metric: Mapping[str, Any] = field(default_factory=dict)


def _flipped(side_px: int) -> tuple[Transform, ...]:
    return (RandomFlip(),)


def _cropped(side_px: int) -> tuple[Transform, ...]:
    return RandomCrop(side_px, cat_max_ratio=0.75), RandomFlip(), PhotometricDistortion(), PadTo(side_px)


def _voc(schedule: str) -> Recipe:
    return Recipe(
        schedule=get_schedule(schedule),
        crop_px=512,
        transforms=lambda side_px: (RandomResize((0.5, 2.0)), *_cropped(side_px)),
        model={"head": "smp_fpn", "loss": "focal"},  # as in the released code
        background=True,
    )


def _ade20k(schedule: str) -> Recipe:
    return Recipe(
        schedule=get_schedule(schedule),
        crop_px=512,
        transforms=lambda side_px: (RandomResize((0.5, 2.0), size=512, longest=2048), *_cropped(side_px)),
        predict={"short_side_px": 512},
    )


def _cityscapes(schedule: str) -> Recipe:
    return Recipe(
        schedule=get_schedule(schedule),
        crop_px=512,
        transforms=lambda side_px: (Resize(720, longest=1280), *_cropped(side_px)),
        predict={"short_side_px": 512},
    )


def _nyu(schedule: str) -> Recipe:
    return Recipe(
        schedule=get_schedule(schedule),
        crop_px=480,
        transforms=lambda side_px: (
            CutDepth(), RandomFlip(), RandomCrop(side_px), BrightnessContrast(), Gamma(), HueSaturationValue(),
        ),
        model={"taper_windows": False},  # as in the released code
        metric={"crop": "eigen"},
    )  # fmt: skip


_SMALL_SIDE = 1.25  # of an image of a small run, as a multiple of the crop
# Heads for tadp-tiny are narrower than the paper's (256 and 192 channels), whose backbone is 10 times as wide.
SEGMENTATION: Mapping[str, Recipe] = MappingProxyType(
    {
        "small": Recipe(
            schedule=Schedule(steps=400, batch=8, lr=2e-3, warmup_steps=50),
            crop_px=256,
            short_side=_SMALL_SIDE,
            transforms=lambda side_px: (
                RandomResize((0.75, 1.5), size=round(_SMALL_SIDE * side_px)),
                *_cropped(side_px),
            ),
            model={"head_options": {"fpn_channels": 64, "channels": 64}},
        ),
        "scenes": Recipe(
            schedule=Schedule(steps=600, batch=16, lr=2e-3, warmup_steps=50),
            crop_px=128,
            transforms=_flipped,
            model={"head_options": {"fpn_channels": 64, "channels": 64}},
            tune="nothing",
            cache_latents=True,
        ),
        "pascal-15-epochs": _voc("pascal-15-epochs"),
        **{name: _ade20k(name) for name in ("ade20k-4k", "ade20k-8k", "ade20k-80k")},
        **{name: _cityscapes(name) for name in ("cityscapes-40k", "cityscapes-80k")},
    }
)
DEPTH: Mapping[str, Recipe] = MappingProxyType(
    {
        # without random sizes, because depth in metres depends on how large objects appear
        "small": Recipe(
            schedule=Schedule(steps=600, batch=8, lr=2e-3, warmup_steps=50),
            crop_px=256,
            short_side=_SMALL_SIDE,
            transforms=lambda side_px: (
                Resize(round(_SMALL_SIDE * side_px)),
                RandomFlip(),
                RandomCrop(side_px),
                BrightnessContrast(),
                Gamma(),
                PadTo(side_px),
            ),
            model={"head_options": {"channels": 16}},
        ),
        "scenes": Recipe(
            schedule=Schedule(steps=400, batch=16, lr=2e-3, warmup_steps=50),
            crop_px=128,
            transforms=_flipped,
            model={"head_options": {"channels": 16}, "max_depth_m": MAX_DEPTH_M},
            tune="nothing",
            cache_latents=True,
        ),
        **{name: _nyu(name) for name in ("nyu-1-epoch", "nyu-25-epochs")},
    }
)
DETECTION: Mapping[str, Recipe] = MappingProxyType(
    {
        "small": Recipe(
            schedule=Schedule(steps=600, batch=8, lr=2e-3, warmup_steps=50),
            crop_px=320,
            transforms=lambda side_px: (RandomFlip(), Resize(side_px, longest=side_px), PadTo(side_px, fill="grey")),
            model={"head_options": {"channels": 32, "hidden_channels": 128, "samples_per_image": 64}},
            tune="nothing",
            cache_latents=True,
        ),
        "scenes": Recipe(
            schedule=Schedule(steps=300, batch=8, lr=2e-3, warmup_steps=50),
            crop_px=128,
            transforms=_flipped,
            model={"head_options": {"channels": 32, "hidden_channels": 128}},
            tune="nothing",
            cache_latents=True,
        ),
        "voc-detection-10-epochs": Recipe(
            schedule=get_schedule("voc-detection-10-epochs"),
            crop_px=512,
            transforms=lambda side_px: (Resize((side_px, side_px)),),
            model={"keep_ratio": False},
        ),
    }
)
# The recipe for a data set of the paper if only the data set is named
OF_DATA: Mapping[str, str] = MappingProxyType(
    {
        "scenes": "scenes",
        "voc": "pascal-15-epochs",
        "ade20k": "ade20k-8k",
        "cityscapes": "cityscapes-40k",
        "nyu": "nyu-25-epochs",
        "voc-detection": "voc-detection-10-epochs",
    }
)
