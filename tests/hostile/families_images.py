"""Pictures that are damaged, too large, or something else."""

import resource
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from PIL import Image

from .cases import Kind, family, tadp
from .damage import CONTENTS, PLACES, damage
from .fixtures import PICTURE_FORMATS, copy, fixture


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


MEGABYTES = 400  # of address space; each thread that reads images reserves 64 to 128 of them


def with_little_memory(arguments: tuple[str, ...], folder: Path, rng: Random) -> str:
    """Run a command on a photograph of 24 megapixels and two small ones, with 400 MB of address space more than now.

    The first pass in a process takes up to 100 MB for the small ones, if the process has no free memory. The photograph
    takes gigabytes.
    """
    photos = folder / "photos"
    photos.mkdir()
    Image.effect_noise((6000, 4000), 40).convert("RGB").save(photos / "big.jpg", quality=50)
    for name in ("a", "z"):
        copy("photos/photo-0.png", photos).rename(photos / f"{name}.png")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    *words, model = arguments
    words.append(str(fixture(model)))  # the fixtures are not there yet when the kinds are listed
    resource.setrlimit(resource.RLIMIT_AS, (used + MEGABYTES * 2**20,) * 2)
    return tadp(*words)


@family("image files: too little memory")
def too_little_memory() -> Iterator[Kind]:
    for command, hint in (
        (("extract", "photos", "-o", "out", "--caption", "a dog", "-m", "sd"), "--tile 512.*--max-side"),
        (
            ("predict", "depth", "photos", "-o", "out", "--caption", "a dog", "-m", "depth"),
            "--short-side",
        ),
    ):
        done = "2 done, 1 failed" if command[0] == "extract" else r"z\.png: "
        names = (r"big\.jpg needs more memory than there is", hint, done)
        yield Kind(f"tadp {command[0]}", partial(with_little_memory, command), names, seconds=30)
