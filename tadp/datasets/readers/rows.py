"""Rows with images and labels, such as those of Hugging Face's library `datasets`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from PIL import Image
from torch import Tensor

from tadp.captions.records import shown
from tadp.datasets.readers.class_choice import check_alike
from tadp.datasets.readers.data_options import Palette
from tadp.datasets.readers.depth_folder import DepthUnit, check_depth_bits
from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError, Record, caption_of
from tadp.datasets.readers.label_files import check_label_size, check_turn, read_upright
from tadp.datasets.readers.labelled_objects import LabelledImage, LabelledObject, boxes_of, sound_objects
from tadp.datasets.readers.mask_values import MaskValues
from tadp.datasets.sample import Sample
from tadp.errors import DatasetError, ImageError
from tadp.files.checks import check_choice, check_classes
from tadp.images.image_files import Stored, open_bytes, read_labels
from tadp.images.reading import to_pil
from tadp.language.unicode_forms import composed

BoxFormat = Literal["xywh", "xyxy"]
_BOXES, _CLASSES = ("bbox", "boxes"), ("category", "categories", "label", "labels", "category_id")


@runtime_checkable
class Rows(Protocol):
    """A table whose rows are mappings, such as a `datasets.Dataset` or a list of dictionaries."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class RowDataset(FolderDataset):
    """Rows with an image and labels, such as those of Hugging Face's library `datasets`. A row is read when it is used.

    An image, mask or depth is a PIL image, an array, a tensor, a path, or {"bytes": …}, as `datasets` returns them.
    Objects are {"bbox": […], "category": […]} or a list of {"bbox": …, "category": …}; a category is an index into
    `class_names` or one of them.

    Attributes:
        class_names: Names of the classes in masks, or of boxes if the rows have no masks.
        box_class_names: Names of the classes that the labels of boxes index.

    Args:
        rows: The rows: anything with a length that returns a mapping for an index.
        image: Name of the column of images, "image" by default.
        mask: Name of the column of masks; None, the default, if the rows have none.
        depth: Name of the column of depth; None, the default, if the rows have none.
        objects: Name of the column of objects; None, the default, if the rows have none.
        image_id: Name of a column with unique ids; None, the default, takes the number of the row, from "0".
        class_names: Names of the classes in the order of their indices. With `datasets`, they are in `rows.features`.
        labels: The meanings of stored values of masks, such as {255: 1}; see `MaskFolder`.
        palette: The colours of the classes, if masks are coloured pictures; see `MaskFolder`.
        box_format: "xywh" (the default, as in COCO) for left, top, width and height; "xyxy" for left, top, right and
            bottom. In pixels.
        scale: The metres of one unit of depth; see `DepthFolder`.
        invalid: A value of depth that means unknown, besides 0; see `DepthFolder`.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read: "raise" or "skip"; see `FolderDataset`.
        resize_labels: Whether a mask of another size but the same shape as its image is scaled to the image; see
            `MaskFolder`. False, the default, raises an error when such a row is read.

    Raises:
        DatasetError: If a column is missing, two rows have the same id, or two class names only differ in case or
            blanks.
        TypeError: If `rows` are not rows, such as a dictionary of splits or a stream.
        ValueError: If no column of labels is named, or `class_names` is missing for masks or objects.
        UnknownIdError: If `captions` lacks the caption of an image.

    Example:
        >>> rows = [{"image": Image.new("RGB", (64, 48)), "objects": {"bbox": [[2, 3, 10, 5]], "category": [1]}}]
        >>> data = RowDataset(rows, objects="objects", class_names=["dog", "cat"])
        >>> data, data[0].boxes.boxes.tolist()
        (<RowDataset: 1 image>, [[2.0, 3.0, 12.0, 8.0]])
    """

    def __init__(
        self,
        rows: Rows,
        *,
        image: str = "image",
        mask: str | None = None,
        depth: str | None = None,
        objects: str | None = None,
        image_id: str | None = None,
        class_names: Sequence[str] = (),
        labels: Mapping[int, int] | None = None,
        palette: Palette | None = None,
        box_format: BoxFormat = "xywh",
        scale: float | None = None,
        invalid: float | None = None,
        captions: Captions | None = None,
        on_error: OnError = "raise",
        resize_labels: bool = False,
    ):
        check_choice(box_format, get_args(BoxFormat), name="box_format")
        _check_rows(rows)
        self._columns = {"segmentation": mask, "depth": depth, "detection": objects}
        self.tasks = tuple(task for task, column in self._columns.items() if column is not None)  # pyright: ignore
        if not self.tasks:
            raise ValueError("a data set needs labels; pass mask=…, depth=… or objects=… with the name of a column.")
        names = check_classes(class_names, name="class_names") if mask is not None or objects is not None else []
        check_alike({label: label for label in names}, "RowDataset", {})
        self._rows, self._image, self._box_format = rows, image, box_format
        self.box_class_names = tuple(names)
        self._values = None
        if mask is not None:
            self._values = replace(MaskValues.of(names, labels, palette), resize=resize_labels, can_skip=False)
        self._unit = DepthUnit(scale, invalid)
        self._row_of = _numbered(rows, image_id)
        if len(rows):
            first = rows[0]
            for column in (image, *filter(None, self._columns.values())):
                _value(first, column, "row 0")
        super().__init__(
            [Record(key, Path(key), None) for key in self._row_of],
            name="RowDataset",
            class_names=names,
            captions=captions,
            on_error=on_error,
        )

    @property
    def image_paths(self) -> Mapping[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The image of each row by its id, as `CaptionTable.fill` needs them. They are read when they are used."""
        return _Images(self._rows, self._image, {key: self._row_of[key] for key in self.image_ids})

    def _find(self, records: Sequence[Record], advice: str) -> list[Record]:
        return list(records)

    def _load(self, record: Record) -> Sample:
        where = f"row {self._row_of[record.image_id]}"
        row = self._rows[self._row_of[record.image_id]]
        caption = None if self._captions is None else caption_of(self._captions, record.image_id)
        pixels, orientation = pixels_of(picture_of(_value(row, self._image, where), where), f"the image of {where}")
        sample = Sample(pixels, record.image_id, caption)
        for task, read in (("segmentation", self._mask), ("depth", self._depth), ("detection", self._boxes)):
            column = self._columns[task]
            if column is not None:
                sample = read(sample, _value(row, column, where), f"the {column} of {where}")
        if orientation != 1:
            check_turn(sample, Path(where), Path(where), orientation)
        return sample

    def _label(self, sample: Sample, path: Path) -> Sample:
        raise NotImplementedError  # `_load` reads labels from rows

    def _mask(self, sample: Sample, value: Any, where: str) -> Sample:
        if self._values is None:
            return sample
        stored = stored_values(value, where, as_colors=self._values.colors is not None)
        if self._values.colors is None and _may_be_spread(picture_of(value, where), stored):
            self._warn_once(
                "spread",
                f"{where} only has multiples of 17, as Pillow makes of the values in a PNG with 2 or 4 bits when it "
                "loads one. If the file has such values, pass its bytes: rows.cast_column(…, Image(decode=False)).",
            )
        return replace(sample, mask=self._values.classes_of(stored, sample, where, name=self._name))

    def _depth(self, sample: Sample, value: Any, where: str) -> Sample:
        values, mode, _ = stored_values(value, where)
        check_depth_bits(values, mode, where)
        depth_m, warning = self._unit.to_metres(values, where)
        check_label_size(sample, where, depth_m.shape, kind="depth")
        if warning:
            self._warn_once("unit", warning)
        return replace(sample, depth_m=depth_m)

    def _boxes(self, sample: Sample, value: Any, where: str) -> Sample:
        entries = [
            self._object(box, label, f"{where}, object {k}") for k, (box, label) in enumerate(_pairs(value, where), 1)
        ]
        empty: list[str] = []
        wrong: list[str] = []
        record = Record(sample.image_id, Path(where), None)
        image = sound_objects(LabelledImage(record, entries, sample.image_size), None, empty, wrong, [])
        if wrong:
            raise DatasetError(f"{wrong[0]}.")
        if empty:
            self._warn_once("area", f"{empty[0]}; such objects are left out.")
        return replace(sample, boxes=boxes_of(image.objects, self.box_class_names.index))

    def _object(self, box: Any, label: Any, where: str) -> LabelledObject:
        try:
            left, top, third, fourth = (float(number) for number in box)
            names = self.box_class_names
            label = composed(label) if isinstance(label, str) else label
            number = names.index(label) if isinstance(label, str) and label in names else -1
            number = number if isinstance(label, str) else index(label)
            if not 0 <= number < len(names):
                raise IndexError
        except (TypeError, ValueError, OverflowError) as error:
            raise DatasetError(
                f"{where}: a box must have four numbers and a class; got {shown((box, label))}."
            ) from error
        except IndexError as error:
            known = ", ".join(self.box_class_names)
            raise DatasetError(f"{where}: unknown class {label!r}; the class_names are {known}.") from error
        right, bottom = (left + third, top + fourth) if self._box_format == "xywh" else (third, fourth)
        return LabelledObject(names[number], (left, top, right, bottom), where)


class _Images(Mapping[str, Any]):
    """The images of rows by id."""

    def __init__(self, rows: Rows, column: str, row_of: Mapping[str, int]):
        self._rows, self._column, self._row_of = rows, column, row_of

    def __getitem__(self, image_id: str) -> Any:
        where = f"row {self._row_of[image_id]}"
        return picture_of(_value(self._rows[self._row_of[image_id]], self._column, where), where)

    def __iter__(self) -> Iterator[str]:
        return iter(self._row_of)

    def __len__(self) -> int:
        return len(self._row_of)


def _check_rows(rows: Any) -> None:
    if isinstance(rows, Mapping):
        first, known = next(iter(rows), "train"), ", ".join(map(str, rows))
        raise TypeError(f"rows must be those of one split; got a mapping with {known}. Pass rows[{first!r}].")
    if not isinstance(rows, Rows):
        kind = type(rows).__name__
        raise TypeError(f"rows must have a length and numbers; got {kind}. Load the data set without streaming=True.")


def _numbered(rows: Rows, image_id: str | None) -> dict[str, int]:
    """The number of each row by its id."""
    numbers: dict[str, int] = {}
    for number, value in enumerate(range(len(rows)) if image_id is None else _column(rows, image_id)):
        key = str(value)
        if numbers.setdefault(key, number) != number:
            raise DatasetError(
                f"rows {numbers[key]} and {number} have the same id, {key!r}. Pass a column of unique ids."
            )
    return numbers


def _column(rows: Any, name: str) -> list[Any]:
    """The values of a column. A `datasets.Dataset` returns them without decoding the images of the rows."""
    try:
        cells = [{name: value} for value in rows[name]]
    except (TypeError, KeyError):  # a list of rows, or no such column
        cells = [rows[number] for number in range(len(rows))]
    return [_value(cell, name, f"row {number}") for number, cell in enumerate(cells)]


def _value(row: Any, column: str, where: str) -> Any:
    if not isinstance(row, Mapping):
        raise DatasetError(f"{where} must be a mapping from columns to values; got {shown(row)}.")
    if column not in row:
        raise DatasetError(f"{where} has no column {column!r}; its columns are {', '.join(map(str, row))}.")
    if row[column] is None:
        raise DatasetError(f"{where} has no value in the column {column!r}. Remove such rows: rows.filter(…).")
    return row[column]


def picture_of(value: Any, where: str) -> Any:
    """An image in a form that tadp reads, from one that `datasets` returns."""
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(content, bytes):
        try:
            return open_bytes(content)
        except (OSError, Image.DecompressionBombError) as error:
            raise ImageError(f"{where} has bytes that are not an image ({error}).") from error
    return value["path"] if isinstance(value, Mapping) and "path" in value else value


def pixels_of(picture: Any, name: str) -> tuple[np.ndarray, int]:
    """Upright pixels, and the EXIF orientation by which they were turned."""
    if isinstance(picture, str | Path | Image.Image):
        return read_upright(Path(picture) if isinstance(picture, str) else picture, name)
    try:
        return np.asarray(to_pil(_array(picture))), 1
    except ImageError as error:
        raise ImageError(f"{name}: ", *error.args) from error


def _array(picture: Any) -> np.ndarray:
    """A picture as an array, whose channels come last; those of a tensor come first."""
    if isinstance(picture, Tensor) and picture.ndim == 3:
        picture = picture.movedim(0, -1)
    return np.asarray(picture)


def stored_values(value: Any, where: str, *, as_colors: bool = False) -> Stored:
    """The values of a mask or depth in a row."""
    picture = picture_of(value, where)
    if isinstance(picture, str | Path | Image.Image):
        name = where if isinstance(picture, Image.Image) else str(picture)
        return read_labels(Path(picture) if isinstance(picture, str) else picture, name, as_colors=as_colors)
    values = _array(picture)
    if values.dtype.kind not in "biuf":
        raise DatasetError(f"{where} must be an image or an array of numbers; got {values.dtype} {values.shape}.")
    return Stored(values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values, "", [])


def _may_be_spread(picture: Any, stored: Stored) -> bool:
    """Whether Pillow may have spread the values of a PNG with 2 or 4 bits over 0 to 255."""
    is_loaded = isinstance(picture, Image.Image) and picture.format == "PNG" and not getattr(picture, "tile", None)
    if not is_loaded or stored.mode != "L":
        return False
    values = np.unique(stored.values)
    return not (values % 17).any() and not set(values.tolist()) <= {0, 255}


def _pairs(value: Any, where: str) -> list[tuple[Any, Any]]:
    """The box and the class of each object."""
    rows = value if isinstance(value, list | tuple) else [value]
    pairs: list[tuple[Any, Any]] = []
    for row in rows:
        boxes = next((row[key] for key in _BOXES if key in row), None) if isinstance(row, Mapping) else None
        classes = next((row[key] for key in _CLASSES if key in row), None) if isinstance(row, Mapping) else None
        if boxes is None or classes is None:
            raise DatasetError(
                f"{where} must have {' or '.join(_BOXES)}, and {', '.join(_CLASSES[:-1])}; got {shown(row)}."
            )
        try:
            pairs += [(boxes, classes)] if rows is value else list(zip(boxes, classes, strict=True))
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{where} must have one class per box; got {shown(row)}.") from error
    return pairs
