"""The rows of the benchmark: groups of variants that are compared on the same input."""

from dataclasses import dataclass, replace

import torch

from benchmarking.variants import Variant

LAST, HALF = torch.channels_last, torch.bfloat16
PLAIN = Variant("diffusers", way="diffusers")
EXACT = Variant("tadp, float32")
FORMATS = (
    EXACT,
    Variant("tadp, float32, channels_last", memory_format=LAST),
    Variant("tadp, bfloat16", dtype=HALF),
    Variant("tadp, bfloat16, channels_last", dtype=HALF, memory_format=LAST),
)
COMPILED = (
    Variant("tadp, float32, compiled", compiled="freezing"),  # the compiler lays out convolutions itself
    Variant("tadp, bfloat16, channels_last, compiled", dtype=HALF, memory_format=LAST, compiled="freezing"),
)
PASS = (
    PLAIN,
    Variant("diffusers by hand", way="by hand"),
    Variant("diffusers, stopped like DIFT", way="stopped"),
    Variant("tadp, stopped at the same layer", way="tadp stopped", attention=False),
    Variant("tadp, only level 3", levels=(3,)),
    Variant("tadp, levels from 2 on", levels=(2, 3)),
    Variant("tadp, levels from 1 on", levels=(1, 2, 3)),
    Variant("tadp, without attention", attention=False),
    *FORMATS,
    *COMPILED,
)


@dataclass(frozen=True)
class Group:
    """Variants that are compared on the same input. The first is the one that others are compared with.

    Attributes:
        title: Title of its table.
        variants: The variants, those of one format next to each other.
        batch: Number of images.
        shrink: The number by which the side of the image is divided.
        trains: Whether a training step is measured in place of a pass.
    """

    title: str
    variants: tuple[Variant, ...]
    batch: int = 1
    shrink: int = 1
    trains: bool = False


def _named(prefix: str, *variants: Variant) -> tuple[Variant, ...]:
    return tuple(replace(variant, name=f"{prefix}: {variant.name}") for variant in variants)


STEPS = (PLAIN, replace(EXACT, name="tadp, without attention", attention=False), *FORMATS[:2])
GROUPS = (
    Group("A pass", PASS),
    Group("A pass for a batch", _named("batch", PLAIN, FORMATS[0], FORMATS[1], FORMATS[3]), batch=8, shrink=2),
    Group("A training step", _named("step", *STEPS), shrink=2, trains=True),
    Group("A training step on a batch", _named("step, batch", *STEPS), batch=8, shrink=4, trains=True),
)
NAMES = [variant.name for group in GROUPS for variant in group.variants]


def chosen(names: list[str] | None, *, compiled: bool) -> list[Group]:
    """The groups with the named rows and those that they are compared with; without names, all rows."""
    groups = []
    for group in GROUPS:
        first, *rest = group.variants
        rest = [variant for variant in rest if (variant.name in names if names else compiled or not variant.compiled)]
        if rest or (names and first.name in names):
            groups.append(replace(group, variants=(first, *rest)))
    return groups
