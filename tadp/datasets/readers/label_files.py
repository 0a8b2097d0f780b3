"""Read one file of a data set: an image, a mask, depth, a list, or the objects of an annotation."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float32, Int64, Integer, UInt8
from PIL import Image, UnidentifiedImageError

from tadp.datasets.sample import IGNORE_LABEL, Sample, sides
from tadp.errors import DatasetError, ImageError
from tadp.images.reading import DECODE_ERRORS, decode, to_pil

_INDEX_MODES = ("P", "L", "1", "I;16", "I")
_DEPTH_MODES = ("I;16", "I;16B", "I")


class XMLObject(NamedTuple):
    """An object of a VOC annotation. Pixels count from 1, and all sides are inclusive."""

    name: str
    box: tuple[float, float, float, float]
    is_difficult: bool


def read_image(path: Path) -> UInt8[np.ndarray, "_h _w 3"]:
    """Read pixels as `predict` does: upright, 16-bit greys scaled to 8 bits, transparent images on white.

    Raises:
        ImageError: If the file is missing or damaged, or its values are out of range.
    """
    pixels = decode(path, str(path), None)
    if pixels.dtype == np.uint8 and pixels.shape[2:] == (3,):
        return np.array(pixels)  # Pillow's own memory is read-only
    return np.array(to_pil(path, max_pixels=None))


def read_indices(path: Path) -> Integer[np.ndarray, "_h _w"]:
    """Read the values of a mask. The values of a picture with a palette are its palette indices, not its colours.

    Raises:
        ImageError: If the file at `path` is missing or damaged.
        DatasetError: If the file is a colour picture.
    """

    def pixels(image: Image.Image) -> np.ndarray:
        if image.mode not in _INDEX_MODES:
            raise DatasetError(
                f"{path} is a colour picture (mode {image.mode}); a mask must have one value per pixel. Use the files "
                "that came with the data set, or convert the colours back to class numbers."
            )
        return np.array(image).astype(np.int32 if image.mode.startswith("I") else np.uint8)

    return _decode(path, pixels)


def class_table(class_of: Mapping[int, int]) -> Int64[np.ndarray, "256"]:
    """A table with the class of each pixel value, and -1 for values that must not occur."""
    table = np.full(256, -1, np.int64)
    table[list(class_of)] = list(class_of.values())
    return table


def with_mask(sample: Sample, path: Path, table: Int64[np.ndarray, "256"], *, name: str) -> Sample:
    """Read a mask from a file, and return the sample with that mask.

    Args:
        sample: The sample without a mask.
        path: The mask file, a picture with one channel or a palette.
        table: The class of each of the 256 pixel values, as `class_table` returns it.
        name: The data set's name, for messages.

    Raises:
        ImageError: If the mask file is missing or damaged.
        DatasetError: If the mask and the image differ in size, or a value of the mask is not a class in `table`.
    """
    values = read_indices(path)
    if values.shape != sample.image_size:
        raise DatasetError(
            f"a mask must have the size of its image; {path} is {sides(values.shape)}, and the image "
            f"{sample.image_id!r} is {sides(sample.image_size)} (height x width). Download both again."
        )
    mask = table[values.clip(0, 255)]
    wrong = (mask < 0) | (values < 0) | (values > 255)
    if wrong.any():
        listed = ", ".join(map(str, np.unique(values[wrong])[:5].tolist()))
        raise DatasetError(
            f"{path} has pixels of value {listed}, which is not a class; masks of {name} have {_ranges(table)}. Use "
            f"the files that came with the data set, or set pixels without a class to {IGNORE_LABEL}."
        )
    return replace(sample, mask=mask)


def read_depth_m(path: Path) -> Float32[np.ndarray, "_h _w"]:
    """Read depth in metres from a 16-bit picture in millimetres.

    Raises:
        ImageError: If the file is missing or damaged.
        DatasetError: If the picture does not have 16 bits.
    """

    def metres(image: Image.Image) -> np.ndarray:
        if image.mode not in _DEPTH_MODES:
            raise DatasetError(
                f"{path} is a picture of mode {image.mode}; depth must be a 16-bit grey picture, in millimetres. 8-bit "
                "pictures are only for viewing: use the file that came with the data set."
            )
        return np.array(image).astype(np.float32) / 1000

    return _decode(path, metres)


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not empty, without surrounding white space.

    Raises:
        DatasetError: If the file is not a text file, or is empty.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path} must be a list, a text file with one image per line; it is not text ({error})."
        ) from error
    if not any(lines):
        raise DatasetError(f"{path} is empty; it must list one image per line. Download it again.")
    return [line for line in lines if line]


def read_objects(path: Path) -> list[XMLObject]:
    """Read the objects of an annotation in VOC's XML.

    Raises:
        ImageError: If the file is missing or cut short.
        DatasetError: If a side of an object's box is missing or not a number.
    """
    try:
        tree = ElementTree.parse(path)
    except (OSError, ElementTree.ParseError) as error:
        raise ImageError(f"{path} cannot be read ({_reason(error)}). Copy or download it again.") from error
    return [_object(element, f"{path}, object {number}") for number, element in enumerate(tree.findall("object"))]


def _ranges(table: Int64[np.ndarray, "256"]) -> str:
    """The values in a table as text, such as "0 to 20 and 255"."""
    runs: list[list[int]] = []
    for value in np.flatnonzero(table >= 0).tolist():
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _object(element: ElementTree.Element, where: str) -> XMLObject:
    name, difficult = element.findtext("name", ""), element.findtext("difficult", "0")
    values = [element.findtext(f"bndbox/{side}", "") for side in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = (float(value) for value in values)
        if not all(map(math.isfinite, (left, top, right, bottom))):
            raise ValueError("a side is not finite")
        return XMLObject(name.strip(), (left, top, right, bottom), bool(int(difficult)))
    except ValueError as error:
        raise DatasetError(
            f"{where}: a box must have the numbers xmin, ymin, xmax, ymax, and difficult must be 0 or 1; got {values} "
            f"and {difficult!r}."
        ) from error


def _decode(path: Path, pixels: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return pixels(image)
    except (ImageError, DatasetError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image that Pillow can read. Copy or download it again.") from error
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} cannot be read ({_reason(error)}). Copy or download it again.") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
