"""Outlines of objects as polygons, run lengths or bitmaps, and the mask that they make together."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
from jaxtyping import Bool, Int64
from PIL import Image, ImageDraw

from tadp.captions.records import shown
from tadp.datasets.sample import IGNORE_LABEL, sides
from tadp.files.checks import need
from tadp.images.image_files import open_bytes, read_labels
from tadp.images.reading import MAX_PIXELS

Box = tuple[float, float, float, float]
_NO_PIXELS = "a mask must have pixels; all of it is empty"
_NOT_FINITE = "a polygon must have finite coordinates"


class Outline(ABC):
    """The outline of an object."""

    @abstractmethod
    def problem(self, size: tuple[int, int] | None) -> str:
        """What is wrong with the outline in an image of a size (height, width), in words; "" if nothing is."""

    @abstractmethod
    def emptiness(self, size: tuple[int, int] | None) -> str:
        """Why the outline has no area, in words; "" if it has one, or has a `problem` in an image of this size."""

    @abstractmethod
    def region(self, size: tuple[int, int]) -> Bool[np.ndarray, "_h _w"]:
        """The pixels of the object in an image of a size (height, width)."""

    @abstractmethod
    def box(self) -> Box:
        """Left, top, right and bottom of the outline."""


@dataclass(frozen=True, eq=False)
class Polygons(Outline):
    """Polygons, each (N, 2), of x and y in pixels; or in fractions of the image's width and height."""

    points: Sequence[np.ndarray]
    is_relative: bool = False

    def problem(self, size: tuple[int, int] | None) -> str:
        return "" if all(np.isfinite(polygon).all() for polygon in self.points) else _NOT_FINITE

    def emptiness(self, size: tuple[int, int] | None) -> str:
        return _too_few([len(polygon) for polygon in self.points])

    def region(self, size: tuple[int, int]) -> Bool[np.ndarray, "_h _w"]:
        height, width = size
        canvas = Image.new("1", (width, height))
        draw = ImageDraw.Draw(canvas)
        scale = np.array((width, height) if self.is_relative else (1, 1))
        for polygon in self.points:
            draw.polygon(list(map(tuple, (polygon * scale).tolist())), fill=1, outline=1)
        return np.array(canvas)

    def box(self) -> Box:
        points = np.concatenate(list(self.points))
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return left, top, right, bottom


@dataclass(frozen=True, eq=False)
class Drawn(Outline):
    """A rectangle or an ellipse in a box of pixels, drawn as labelme does, with the pixels of its right and bottom."""

    method: Literal["rectangle", "ellipse"]
    corners: Box

    def problem(self, size: tuple[int, int] | None) -> str:
        return "" if np.isfinite(self.corners).all() else _NOT_FINITE

    def emptiness(self, size: tuple[int, int] | None) -> str:
        left, top, right, bottom = self.corners
        return "" if left < right and top < bottom else f"a {self.method} must have an area; it has none"

    def region(self, size: tuple[int, int]) -> Bool[np.ndarray, "_h _w"]:
        canvas = Image.new("1", (size[1], size[0]))
        draw = ImageDraw.Draw(canvas)
        (draw.rectangle if self.method == "rectangle" else draw.ellipse)(self.corners, fill=1, outline=1)
        return np.array(canvas)

    def box(self) -> Box:
        return self.corners


@dataclass(frozen=True, eq=False)
class CocoOutline(Outline):
    """A COCO `segmentation`: a list of polygons, or run lengths, drawn as pycocotools does."""

    segmentation: Any

    def problem(self, size: tuple[int, int] | None) -> str:
        if isinstance(self.segmentation, dict):
            stated, counts = self.segmentation.get("size"), self.segmentation.get("counts")
            if not _are_counts(stated) or len(stated) != 2 or stated[0] * stated[1] > MAX_PIXELS:
                return f"run lengths must have the size of their image, height and width; got {shown(stated)}"
            stated = tuple(stated)
            if size is not None and stated != size:
                return f"run lengths must have the size of their image, {sides(size)} (height x width); got {stated}"
            runs = run_lengths(counts) if isinstance(counts, str | list) else None
            total = sum(runs) if runs is not None and _are_counts(runs) else None
            if total != stated[0] * stated[1]:
                return f"run lengths must add up to the pixels of {sides(stated)}; they add up to {total}"
            return ""
        if any(len(polygon) % 2 for polygon in self.segmentation):
            return "a polygon must have x and y in turn; it has an odd number of numbers"
        return "" if all(np.isfinite(polygon).all() for polygon in self.segmentation) else _NOT_FINITE

    def emptiness(self, size: tuple[int, int] | None) -> str:
        if isinstance(self.segmentation, dict):
            counts = self.segmentation.get("counts")  # alternately of background and of the object
            runs = run_lengths(counts) if isinstance(counts, str | list) else []
            return "" if any(runs[1::2]) or self.problem(size) else _NO_PIXELS
        return _too_few([len(polygon) // 2 for polygon in self.segmentation])

    def region(self, size: tuple[int, int]) -> Bool[np.ndarray, "_h _w"]:
        masks = need("faster_coco_eval.core.mask", install="pip install 'tadp[detection]'")
        coded = self.segmentation
        if isinstance(coded, list) or isinstance(coded["counts"], list):
            coded = masks.frPyObjects(coded, *size)
        if isinstance(coded, list):
            coded = masks.merge(coded)
        return masks.decode(coded).astype(bool)

    def box(self) -> Box:
        if isinstance(self.segmentation, list):
            return Polygons([np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in self.segmentation]).box()
        height, width = self.segmentation["size"]
        return _box_of(self.region((height, width)))


@dataclass(frozen=True, eq=False)
class Bitmap(Outline):
    """The pixels of an object, in a PNG whose top left pixel is at `left` and `top` in the image.

    It is kept compressed, because many masks of a large image would not fit into memory.

    Raises:
        ValueError: If the PNG is too large, or has several values per pixel.
        OSError, ImageError, DatasetError, PIL.Image.DecompressionBombError: If it is damaged, or not a PNG.
    """

    png: bytes
    left: int
    top: int

    def __post_init__(self) -> None:
        self.plane()

    def plane(self) -> Bool[np.ndarray, "..."]:
        """Whether each pixel is one of the object."""
        with open_bytes(self.png) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError("a mask must not be larger than an image may be.")
            return read_labels(picture, "the mask").values.astype(bool)

    def problem(self, size: tuple[int, int] | None) -> str:
        height, width = shape = self._shape()
        if size is not None and not (0 <= self.top <= size[0] - height and 0 <= self.left <= size[1] - width):
            return (
                f"a mask of {sides(shape)} at left {self.left} and top {self.top} does not fit an image of "
                f"{sides(size)} (height x width)"
            )
        return ""

    def emptiness(self, size: tuple[int, int] | None) -> str:
        return "" if self.plane().any() or self.problem(size) else _NO_PIXELS

    def region(self, size: tuple[int, int]) -> Bool[np.ndarray, "_h _w"]:
        region = np.zeros(size, bool)
        plane = self.plane()
        region[self.top : self.top + plane.shape[0], self.left : self.left + plane.shape[1]] = plane
        return region

    def box(self) -> Box:
        left, top, right, bottom = _box_of(self.plane())
        return self.left + left, self.top + top, self.left + right, self.top + bottom

    def _shape(self) -> tuple[int, int]:
        with Image.open(io.BytesIO(self.png), formats=["PNG"]) as picture:
            return picture.height, picture.width


@dataclass(frozen=True, eq=False)
class Group(Outline):
    """Several outlines of one object."""

    parts: Sequence[Outline]

    def problem(self, size: tuple[int, int] | None) -> str:
        return next((text for part in self.parts if (text := part.problem(size))), "")

    def emptiness(self, size: tuple[int, int] | None) -> str:
        return next((text for part in self.parts if (text := part.emptiness(size))), "")

    def region(self, size: tuple[int, int]) -> Bool[np.ndarray, "_h _w"]:
        return np.logical_or.reduce([part.region(size) for part in self.parts])

    def box(self) -> Box:
        lefts, tops, rights, bottoms = zip(*(part.box() for part in self.parts), strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)


def _too_few(counts: Sequence[int]) -> str:
    few = [count for count in counts if count < 3]
    return f"a polygon must have three points or more; it has {few[0]}" if few else ""


def _are_counts(numbers: Any) -> TypeGuard[list[int]]:
    """Whether something is a list of whole numbers from 0."""
    return isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)


def _box_of(plane: Bool[np.ndarray, "_h _w"]) -> Box:
    """The box around the pixels of an object. The indices of all its pixels could take gigabytes."""
    rows, columns = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def run_lengths(counts: str | bytes | list[int]) -> list[int]:
    """Decode COCO's compressed run lengths; a list is returned as it is.

    Source:
        rleFrString of pycocotools, maskApi.c: five bits per character, of the difference to the run before the last.
    """
    if isinstance(counts, list):
        return counts
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode() if isinstance(counts, str) else counts:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if shift > 60 or not 0 <= bits < 64:  # such a number has no image
            return []
        if not bits & 32:
            value -= (bits & 16) and 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def paint(regions: Iterable[tuple[Outline | None, Box, int]], size: tuple[int, int]) -> Int64[np.ndarray, "_h _w"]:
    """Draw outlines into a mask of zeros, one after the other.

    Args:
        regions: The outline of each object, its box, and its value in the mask. The box of an object without outline
            becomes `IGNORE_LABEL`, because only some of its pixels are the object's.
        size: (height, width) of the mask.
    """
    mask = np.zeros(size, np.int64)
    for outline, (left, top, right, bottom), value in regions:
        if outline is None:
            mask[int(top) : -int(-bottom // 1), int(left) : -int(-right // 1)] = IGNORE_LABEL
        else:
            mask[outline.region(size)] = value
    return mask
