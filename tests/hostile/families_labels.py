"""Pictures and labels that are intact, but that a careless reader turns into others."""

import os
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from stored_images import write_pgm, write_png, write_tiff

from .cases import Kind, family
from .fixtures import copy, picture

SIZE = (24, 24)
WRITERS: dict[str, tuple[int, Callable[[Path, np.ndarray], Any]]] = {
    **{f"PNG, {bits} bits": (2**bits, partial(write_png, depth=bits)) for bits in (1, 2, 4, 8, 16)},
    **{f"PNG, palette, {bits} bits": (2**bits, partial(write_png, depth=bits, palette=True)) for bits in (1, 2, 4, 8)},
    **{f"TIFF, {bits} bits": (2**bits, partial(write_tiff, depth=bits)) for bits in (1, 2, 4, 8, 16)},
    **{
        f"TIFF, 0 is white, {bits} bits": (2**bits, partial(write_tiff, depth=bits, photometric=0))
        for bits in (1, 2, 4, 8)
    },
    **{f"TIFF, signed, {bits} bits": (100, partial(write_tiff, depth=bits, sample_format=2)) for bits in (8, 16, 32)},
    "TIFF, floats": (100, partial(write_tiff, depth=32, sample_format=3)),
    **{f"PGM, white is {white}": (white + 1, partial(write_pgm, white=white)) for white in (1, 20, 255, 1000, 65535)},
    **{
        f"plain PGM, white is {white}": (white + 1, partial(write_pgm, white=white, plain=True))
        for white in (20, 65535)
    },
    "PGM, beyond its white": (256, partial(write_pgm, white=20)),
}


def stored(name: str, folder: Path, rng: Random) -> bool:
    from tadp.images.image_files import read_stored

    levels, write = WRITERS[name]
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, levels, SIZE)
    write(folder / "label.img", values)
    return np.array_equal(read_stored(folder / "label.img")[0], values)


@family("labels: stored values")
def stored_values() -> Iterator[Kind]:
    for name in WRITERS:
        yield Kind(name, partial(stored, name), names="label", right=bool)


def turned(orientation: int, own: bool, folder: Path, rng: Random) -> Any:
    from tadp.datasets import MaskFolder

    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 16, SIZE).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("images", "masks"):
        (folder / name).mkdir()
    Image.fromarray(16 * values).save(folder / "images/square.png", exif=exif)
    Image.fromarray(values).save(folder / "masks/square.png", exif=exif if own else Image.Exif())
    sample = MaskFolder(folder / "images", folder / "masks", class_names=[str(number) for number in range(16)])[0]
    return np.array_equal(sample.image[..., 0] // 16, sample.mask)


@family("labels: orientation")
def orientations() -> Iterator[Kind]:
    for orientation in range(1, 9):
        for own in (True, False):
            name = f"orientation {orientation}, {'in both files' if own else 'in the image'}"
            yield Kind(name, partial(turned, orientation, own), names="square", right=bool)


def half(suffix: str, folder: Path, rng: Random) -> Any:
    from tadp.images import to_tensor

    path = folder / f"half.{suffix}"
    Image.fromarray(np.frombuffer(rng.randbytes(64 * 64), np.uint8).reshape(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size * 3 // 4, path.stat().st_size * 9 // 10)])
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # as another library may; this process ends after the case
    return to_tensor(path).shape


def other_format(kind: str, folder: Path, rng: Random) -> Any:
    from tadp.images import to_tensor

    path = folder / "other.png"
    if kind == "EPS":
        run = b"(%pipe%touch executed) (r) file pop\n"
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n" + run + b"%%EOF\n")
    elif kind == "HEIC":
        path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + rng.randbytes(64))
    else:
        picture().save(path, kind)
    return to_tensor(path).shape


def named(form: str, folder: Path, rng: Random) -> Any:
    """A list, files and captions that spell a name in different Unicode forms."""
    from tadp.captions import CaptionTable
    from tadp.datasets import PascalVOC

    root, name = copy("voc", folder), unicodedata.normalize(form, "Zürich é 가")
    other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", name)
    (root / "JPEGImages/2007_000033.jpg").rename(root / f"JPEGImages/{name}.jpg")
    (root / "SegmentationClass/2007_000033.png").rename(root / f"SegmentationClass/{other}.png")
    (root / "ImageSets/Segmentation/val.txt").write_text(f"\ufeff{other}\n", "utf-8")
    sample = PascalVOC(root, split="val", captions=CaptionTable({name: "a street"}))[0]
    return sample.caption


def pipe(reader: str, folder: Path, rng: Random) -> Any:
    from tadp.images import to_pil
    from tadp.images.crops import Crops
    from tadp.images.image_files import orientation_of, read_stored

    os.mkfifo(folder / "pipe.png")
    readers: dict[str, Callable[[Path], Any]] = {
        "to_pil": to_pil, "Crops": Crops, "read_stored": read_stored, "orientation_of": orientation_of,
    }  # fmt: skip
    return readers[reader](folder / "pipe.png")


@family("pictures: other libraries and formats")
def pictures() -> Iterator[Kind]:
    for suffix in ("jpg", "png", "tif", "webp", "avif", "bmp", "pgm", "jp2"):
        yield Kind(f"half a {suffix}, and Pillow told to fill it up", partial(half, suffix), names="half")
    for kind in ("EPS", "HEIC", "TGA", "ICO", "PCX", "SGI", "DDS", "ICNS"):
        yield Kind(f"{kind} named .png", partial(other_format, kind), names="other")
    for form in ("NFC", "NFD"):
        yield Kind(f"names in {form} and not", partial(named, form), right=lambda caption: caption == "a street")
    for reader in ("to_pil", "Crops", "read_stored", "orientation_of"):
        yield Kind(f"pipe, {reader}", partial(pipe, reader), names="pipe")
