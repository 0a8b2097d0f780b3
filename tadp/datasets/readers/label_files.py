"""Read one file of a data set: an image, a mask, depth, a list, or the objects of an annotation."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float32, Int64, Integer, UInt8
from PIL import Image

from tadp.captions.records import shown
from tadp.datasets.sample import IGNORE_LABEL, Sample, sides
from tadp.errors import CorruptFileError, DatasetError, ImageError
from tadp.files.checks import LARGEST_JSON, check_regular, read_lines
from tadp.images.image_files import decode_turned, orientation_of, read_labels, read_stored
from tadp.images.reading import MAX_PIXELS, to_pil

_MOST_MM = 2**16 - 1
_SHAPE = 0.01  # by which rounding to whole pixels may change the ratio of height to width


class LabelSizeError(DatasetError):
    """Labels differ from their image in size."""


class XMLObject(NamedTuple):
    """An object of a VOC annotation. Pixels count from 1, and all sides are inclusive."""

    name: str
    box: tuple[float, float, float, float]
    is_difficult: bool


class Annotation(NamedTuple):
    """The content of a VOC annotation.

    Attributes:
        objects: The objects.
        size: (height, width) of the image as stated; None if it is not stated.
        database: The name of the data set that it comes from, such as "The VOC2007 Database".
    """

    objects: list[XMLObject]
    size: tuple[int, int] | None
    database: str


def read_upright(source: Path | Image.Image, name: str | None = None) -> tuple[UInt8[np.ndarray, "_h _w 3"], int]:
    """Read pixels as `tadp.images.read_image` does, and say how they were turned.

    Args:
        source: The path of the image, or the picture.
        name: The name of the image for error messages; None, the default, is its path.

    Returns:
        The pixels, and the EXIF orientation by which they were turned, 1 to 8; 1 means that they were not.

    Raises:
        ImageError: If the file is missing or damaged, or its values are out of range.
    """
    pixels, orientation = decode_turned(source, name or str(source), None)
    if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,):
        pixels = np.array(to_pil(pixels, max_pixels=None))
    return pixels, orientation


def read_mask(sample: Sample, path: Path) -> Integer[np.ndarray, "_h _w"]:
    """Read the values of a sample's mask as they are stored. For a picture with a palette these are the indices.

    Raises:
        ImageError: If the file is missing or damaged.
        DatasetError: If the file is a colour picture, has fractions, or differs from the image in size.
    """
    return checked_mask(read_labels(path).values, sample, path)


def checked_mask(values: np.ndarray, sample: Sample, where: Path | str) -> Integer[np.ndarray, "_h _w"]:
    """The values of a mask as whole numbers.

    Raises:
        DatasetError: If the mask has fractions, or differs from the image in size.
    """
    check_label_size(sample, where, values.shape, kind="a mask")
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.round(values)):  # NaN differs from itself
            raise DatasetError(
                f"{where} has values that are not whole numbers; a mask must hold class numbers. Use the files that "
                "came with the data set."
            )
        values = values.clip(-1, 2**16).astype(np.int32)
    return values


def class_table(class_of: Mapping[int, int]) -> Int64[np.ndarray, " _values"]:
    """A table with the class of each pixel value, at least 256, and -1 for values that must not occur."""
    table = np.full(max(255, *class_of) + 1, -1, np.int64)
    table[list(class_of)] = list(class_of.values())
    return table


def with_mask(sample: Sample, path: Path, table: Int64[np.ndarray, " _values"], *, name: str) -> Sample:
    """Read a mask from a file, and return the sample with that mask.

    Args:
        sample: The sample without a mask.
        path: The mask file, a picture with one channel or a palette.
        table: The class of each pixel value, as `class_table` returns it.
        name: The data set's name, for error messages.

    Raises:
        ImageError: If the mask file is missing or damaged.
        DatasetError: If the mask and the image differ in size, or a value of the mask is not a class in `table`.
    """
    return replace(sample, mask=to_classes(read_mask(sample, path), table, path, name=name))


def to_classes(
    values: Integer[np.ndarray, "_h _w"], table: Int64[np.ndarray, " _values"], path: Path | str, *, name: str
) -> Int64[np.ndarray, "_h _w"]:
    """Convert the values of a mask to classes; see `with_mask`."""
    mask = table[values if values.dtype == np.uint8 else values.clip(0, len(table) - 1)]
    wrong = mask < 0
    if values.dtype != np.uint8:
        wrong |= (values < 0) | (values >= len(table))
    if wrong.any():
        listed = ", ".join(map(str, np.unique(values[wrong])[:5].tolist()))
        raise DatasetError(
            f"{path} has pixels of value {listed}, which is not a class; masks of {name} have {_ranges(table)}. Use "
            f"the files that came with the data set, or set pixels without a class to {IGNORE_LABEL}."
        )
    return mask


def looks_shifted(values: Integer[np.ndarray, "_h _w"], highest: int) -> bool:
    """Whether a mask has pixels of 255, and otherwise only classes up to `highest`, as after a conversion."""
    return bool((values == IGNORE_LABEL).any() and not ((values > highest) & (values != IGNORE_LABEL)).any())


def check_label_size(sample: Sample, path: Path | str, size: tuple[int, ...], *, kind: str) -> None:
    """Refuse labels that differ from their image in size.

    Args:
        sample: The sample with its image.
        path: The file of the labels.
        size: (height, width) of the labels.
        kind: "a mask" or "depth", for the message.
    """
    if size != sample.image_size:
        hint = "Download or export both again, together."
        if size == sample.image_size[::-1]:
            hint = "If its EXIF orientation turns the image, save the image upright without it, or give both the same."
        elif is_scaled(size, sample.image_size):
            hint = "Both have the same shape, so one is a scaled copy: scale it to the size of the other."
        raise LabelSizeError(
            f"{kind} must have the size of its image; {path} is {sides(size)}, and the image {sample.image_id!r} is "
            f"{sides(sample.image_size)} (height x width). {hint}"
        )


def is_scaled(size: tuple[int, ...], image_size: tuple[int, ...]) -> bool:
    """Whether two sizes, each (height, width), differ, but have the same ratio of height to width, up to rounding."""
    if len(size) != 2:  # a number, or one row, in place of a mask
        return False
    first, second = size[0] * image_size[1], size[1] * image_size[0]
    return size != image_size and abs(first - second) <= _SHAPE * second


def check_turn(sample: Sample, image: Path, labels: Path, orientation: int) -> None:
    """Refuse labels that may describe the image as it was before its EXIF orientation turned it.

    Where the turn swaps two different sides, the size of the labels has shown that they are upright. Otherwise, a mask
    must have the same orientation in its own file, or look the same before and after the turn.

    Args:
        sample: The upright image with its labels.
        image: The file of the image.
        labels: The file of the labels.
        orientation: The EXIF orientation by which the image was turned, 2 to 8.
    """
    planes = [plane for plane in (sample.mask, sample.depth_m) if plane is not None]
    has_boxes = sample.boxes is not None and len(sample.boxes) > 0
    if orientation >= 5 and sample.image_size[0] != sample.image_size[1]:
        return
    if not has_boxes and all(np.array_equal(plane, _turned(plane, orientation)) for plane in planes):
        return
    if not has_boxes and _own_orientation(labels) == orientation:
        return
    raise DatasetError(
        f"{image} is turned by its EXIF orientation ({orientation}), and {labels} may describe it before or after the "
        "turn. Save the image as the labels show it, without an orientation."
    )


def _turned(plane: np.ndarray, orientation: int) -> np.ndarray:
    if orientation >= 5:
        plane = plane.T
    return plane[
        :: -1 if orientation in (3, 4, 7, 8) else 1,
        :: -1 if orientation in (2, 3, 6, 7) else 1,
    ]


def _own_orientation(labels: Path) -> int:
    try:
        return orientation_of(labels)
    except ImageError:  # labels that are not an image
        return 1


def read_depth_m(path: Path) -> Float32[np.ndarray, "_h _w"]:
    """Read depth in metres from a 16-bit picture in millimetres.

    Raises:
        ImageError: If the file is missing or damaged.
        DatasetError: If the picture does not have 16 bits.
    """
    values, mode = read_stored(path)
    if values.dtype not in (np.uint16, np.int32):
        raise DatasetError(
            f"{path} is a picture of mode {mode}; depth must be a 16-bit grey picture, in millimetres. 8-bit "
            "pictures are only for viewing: use the file that came with the data set."
        )
    if values.dtype == np.int32 and values.size and values.min() < 0:
        raise DatasetError(f"{path} has negative depth, {values.min()} mm. Use the file that came with the data set.")
    if values.dtype == np.int32 and values.size and values.max() > _MOST_MM:
        raise DatasetError(
            f"{path} has a depth of {values.max()} mm; depth must be a 16-bit grey picture, in millimetres, up to "
            f"{_MOST_MM}. Use the file that came with the data set."
        )
    depth_m = values.astype(np.float32)
    depth_m /= 1000
    return depth_m


def read_list(path: Path) -> list[str]:
    """Read a list of images; see `tadp.files.checks.read_lines`.

    Raises:
        DatasetError: If the file cannot be read, is not a text file, is empty, or lists a file outside the data set.
    """
    lines = read_lines(path, of="image", error=DatasetError)
    for line in lines:
        if ".." in line.replace("/", " ").split():
            raise DatasetError(f"{path} lists {shown(line)}, which is outside the data set. Remove that line.")
    return lines


def read_objects(path: Path) -> Annotation:
    """Read an annotation in VOC's XML.

    Raises:
        ImageError: If the file is missing or cut short.
        DatasetError: If a side of an object's box is missing or not a number.
    """
    try:
        check_regular(path, most_bytes=LARGEST_JSON)
        tree = ElementTree.parse(path)
        if tree.getroot().tag != "annotation":
            raise ValueError(f"it has <{tree.getroot().tag[:20]}> in place of <annotation>")
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise ImageError(f"{path} cannot be read ({_reason(error)}). Copy or download it again.") from error
    objects = [_object(element, f"{path}, object {number}") for number, element in enumerate(tree.findall("object"))]
    height, width = (_side(tree.findtext(f"size/{side}", "")) for side in ("height", "width"))
    size = (height, width) if height and width else None
    return Annotation(objects, size, tree.findtext("source/database", "").strip())


def read_json_export(path: Path) -> Any:
    """Read a json file of a labelling tool.

    Raises:
        DatasetError: If the file cannot be read or is not json.
    """
    try:
        check_regular(path)
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, CorruptFileError) as error:
        raise DatasetError(f"{path} cannot be read as json ({error}). Export it again.") from error


def is_there(path: Path) -> bool:
    """Whether there is something at a path that a label file names, which may be one that no disk allows."""
    try:
        return path.exists()
    except OSError:
        return False


def stated_size(height: Any, width: Any, where: str) -> tuple[int, int] | None:
    """The (height, width) of an image that a file states; None if it states none.

    Raises:
        DatasetError: If they are not whole numbers of pixels that an image may have.
    """
    if not height or not width:
        return None
    for side in (height, width):
        if isinstance(side, bool) or not isinstance(side, int | float) or not 1 <= side <= MAX_PIXELS or side % 1:
            raise DatasetError(
                f"{where}: height and width must be numbers of pixels; got {shown(height)} and {shown(width)}."
            )
    return int(height), int(width)


def _ranges(table: Int64[np.ndarray, " _values"]) -> str:
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
    name, difficult = element.findtext("name", ""), element.findtext("difficult", "0").strip()
    values = [element.findtext(f"bndbox/{side}", "") for side in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = (float(value) for value in values)
        if not all(map(math.isfinite, (left, top, right, bottom))):
            raise ValueError("a side is not finite")
    except ValueError as error:
        raise DatasetError(
            f"{where}: a box must have the numbers xmin, ymin, xmax, ymax, in pixels; got {shown(values)}."
        ) from error
    return XMLObject(name.strip(), (left, top, right, bottom), difficult == "1")  # "Unspecified" and the like mean 0


def _side(text: str) -> int:
    """A side of an image as a file states it, which some tools write as 480.0; 0 if it is not stated."""
    try:
        side = float(text)
    except ValueError:
        return 0
    return int(side) if 0 < side <= MAX_PIXELS and side.is_integer() else 0


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
