"""Pictures that are damaged, too large, or something else."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from .cases import Kind, family
from .damage import CONTENTS, PLACES, damage
from .fixtures import PICTURE_FORMATS, copy


def read_picture(suffix: str, sort: str, folder: Path, rng: Random) -> tuple[int, ...]:
    from tadp.images.reading import to_tensor

    return tuple(to_tensor(damage(copy(f"pictures/photo.{suffix}", folder), sort, rng)).shape)


@family("image files: content")
def image_contents() -> Iterator[Kind]:
    sorts = ("empty", "cut in half", "zeros", "random bytes", "first bytes changed", "random bytes in front")
    for suffix in PICTURE_FORMATS:
        for sort in sorts:
            yield Kind(f"{suffix}, {sort}", partial(read_picture, suffix, sort), names="photo")


@family("image files: place")
def image_places() -> Iterator[Kind]:
    sorts = (*PLACES, *(name for name in CONTENTS if name not in ("cut in half", "zeros", "random bytes")))
    for sort in sorts:
        yield Kind(sort, partial(read_picture, "png", sort), names="photo")
