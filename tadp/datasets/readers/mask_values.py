"""What the values or colours of mask files mean."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from tadp.datasets.readers.data_options import Color, Palette
from tadp.datasets.readers.label_files import (
    LabelSizeError,
    check_label_size,
    checked_mask,
    class_table,
    is_scaled,
    to_classes,
)
from tadp.datasets.readers.mask_contents import contents_of, labels_advice, palette_advice
from tadp.datasets.sample import IGNORE_LABEL, Sample, nearest, sides
from tadp.errors import Argument, DatasetError, ImageError, OptionError
from tadp.files.checks import check_ordered, check_whole
from tadp.images.image_files import Stored, read_labels, size_of
from tadp.language.grammar import counted
from tadp.language.unicode_forms import composed

_MOST_VALUES = 2**16  # of 16-bit masks


@dataclass
class MaskValues:
    """The class of each value or each colour in mask files.

    Attributes:
        class_names: Names of the classes in the order of their indices.
        table: The class of each stored value, -1 for values that must not occur; used if there are no `colors`.
        colors: The class of each colour, by its red, green and blue; None if masks store values.
        shown: For each index, the colour that the palette of a file gave it, and the first such file. A file whose
            palette differs is refused.
        resize: Whether to scale a mask to the size of its image if both have the same shape. False refuses it.
        hints: For each folder, the advice on which palette to pass for its masks, for error messages.
        can_skip: Whether the reader has the option `bad_labels`, which the message about such masks then names.
    """

    class_names: tuple[str, ...]
    table: Int64[np.ndarray, " _values"]
    colors: Mapping[tuple[int, int, int], int] | None = None
    shown: dict[int, tuple[tuple[int, ...], Path | str]] = field(default_factory=dict)
    resize: bool = False
    hints: dict[Path, str] = field(default_factory=dict)
    can_skip: bool = True

    @classmethod
    def of(
        cls, class_names: Sequence[str], labels: Mapping[int, int] | None = None, palette: Palette | None = None
    ) -> "MaskValues":
        """The meaning of values that are class indices, except for those in `labels`, or of the colours in `palette`.

        Raises:
            ValueError: If a class in `labels` or `palette` does not exist.
        """
        names = tuple(class_names)
        check_ordered(palette=palette)
        if labels is not None and not isinstance(labels, Mapping):
            raise TypeError(f"labels must be a dictionary, such as {{11: 255}}; got {labels!r}.")
        changes = {
            check_whole(value, name="labels", minimum=0): _class_of(label, names, "labels")
            for value, label in (labels or {}).items()
        }
        if any(value >= _MOST_VALUES for value in changes):
            raise OptionError(
                Argument("labels"), f": a mask stores values up to {_MOST_VALUES - 1}; got {max(changes)}."
            )
        classes = {value: value for value in (*range(len(names)), IGNORE_LABEL)} | changes
        pairs = None
        if isinstance(palette, Mapping):
            pairs = {_color(color): _class_of(label, names, "palette") for color, label in palette.items()}
        elif palette is not None:
            if len(palette) != len(names):
                raise OptionError(
                    Argument("palette"),
                    f" must have one colour per class; got {len(palette)} for {len(names)} ",
                    Argument("class_names"),
                    ".",
                )
            pairs = {_color(color): index for index, color in enumerate(palette)}
            if len(pairs) < len(palette):
                raise OptionError(
                    Argument("palette"), " must have a different colour for each class; two are the same."
                )
        return cls(names, class_table(classes), pairs)

    def read(self, sample: Sample, path: Path, *, name: str) -> Int64[np.ndarray, "_h _w"]:
        """Read a mask.

        Raises:
            ImageError: If the file is missing or damaged.
            DatasetError: If the mask is coloured and there is no palette; see also `classes_of`.
        """
        try:
            stored = read_labels(path, as_colors=self.colors is not None)
        except DatasetError as error:
            if error.option != "palette":
                raise
            text = f" says which classes they mean. {self._palette_hint(path)}"
            raise DatasetError(f"{path} has colours, and no ", Argument("palette"), text) from error
        return self.classes_of(stored, sample, path, name=name)

    def labels_in(self, path: Path, *, name: str) -> list[int]:
        """The labels in a mask file, without unknown, whatever the size of its image.

        Raises:
            ImageError: If the file is missing or damaged.
            DatasetError: If it has a value or colour without class.
        """
        stored = read_labels(path, as_colors=self.colors is not None).values
        if self.colors is not None:
            labels = _from_colors(stored, self.colors, path, name)
        else:
            labels = to_classes(np.unique(stored).astype(np.int64)[None], self.table, path, name=name)
        return [label for label in np.unique(labels).tolist() if label != IGNORE_LABEL]

    def classes_of(self, stored: Stored, sample: Sample, where: Path | str, *, name: str) -> Int64[np.ndarray, "_h _w"]:
        """The class of each pixel.

        Raises:
            DatasetError: If the mask differs from the image in size, has a value or colour without class, or its
                palette contradicts that of another mask.
        """
        size = stored.values.shape[:2]
        if is_scaled(size, sample.image_size):
            if not self.resize:
                skip = ("; to leave such images out, pass ", Argument("bad_labels", "skip")) if self.can_skip else ()
                raise LabelSizeError(
                    f"{where} is {sides(size)}, and the image {sample.image_id!r} is {sides(sample.image_size)} "
                    "(height x width): the same shape at another scale. To scale masks to their images, pass ",
                    Argument("resize_labels", True),
                    *skip,
                    ".",
                )
            rows, columns = (nearest(old, new) for old, new in zip(size, sample.image_size, strict=True))
            stored = stored._replace(values=stored.values[rows[:, None], columns])
        if self.colors is not None:
            check_label_size(sample, where, stored.values.shape[:2], kind="a mask")
            return _from_colors(stored.values, self.colors, where, name)
        values = checked_mask(stored.values, sample, where)
        if stored.palette:
            self._check_palette(np.unique(values).tolist(), stored.palette, where)
        try:
            return to_classes(values, self.table, where, name=name)
        except DatasetError as error:
            if stored.palette:
                colors, hint = " It has a palette; if its colours say the class, pass ", self._palette_hint(where)
                raise DatasetError(*error.args, colors, Argument("palette", ...), f". {hint}".rstrip()) from error
            beside = sorted(where.parent.glob(f"*{where.suffix}")) if isinstance(where, Path) else []
            used = {*contents_of(beside)[1], *np.unique(values).tolist()}
            advice = labels_advice(list(used), self.class_names) if used.isdisjoint(self._changed) else ""
            raise DatasetError(*error.args, f" {advice}" if advice else "") from error

    def _palette_hint(self, mask: Path | str) -> str:
        """The colours of a mask and of some in the same folder, and the palette to pass; "" if it is not a file."""
        if not isinstance(mask, Path):
            return ""
        folder = mask.parent
        if folder not in self.hints:
            masks = list(dict.fromkeys([mask, *sorted(folder.glob(f"*{mask.suffix}"))]))
            self.hints[folder] = palette_advice(masks, self.class_names, by_palette=True)
        return self.hints[folder]

    @property
    def _changed(self) -> set[int]:
        """The values that already have another meaning than that of their number."""
        known = np.flatnonzero(self.table >= 0)
        return {int(value) for value in known if self.table[value] != value}

    def _check_palette(self, used: Sequence[int], palette: Sequence[tuple[int, ...]], where: Path | str) -> None:
        """Refuse an index that is another colour in another mask."""
        for index in used:
            if index >= len(palette):
                continue
            first, place = self.shown.setdefault(index, (palette[index], where))
            if first != palette[index]:
                problem = DatasetError(
                    f"{where} has a palette in which index {index} is the colour {palette[index]}, and in {place} it "
                    f"is {first}, so the indices of these masks are not classes. If the colours are, pass ",
                    Argument("palette", ...),
                    ", the class of each colour.",
                )
                raise DatasetError(*problem.args, f" {self._palette_hint(where)}".rstrip()) from problem


def of_one_size(files: Mapping[str, tuple[Path, Path]], *, resize: bool) -> list[str]:
    """The ids of the images whose masks have their size, or get it, with a warning about the others.

    What cannot be read stays, and has an error later. If no mask fits, all stay.

    Args:
        files: The image and the mask of each id.
        resize: Whether masks of the same shape are scaled to their image.
    """
    wrong: dict[str, Path] = {}
    for image_id, (image, mask) in files.items():
        with suppress(ImageError, DatasetError, OSError):
            size, image_size = size_of(mask), size_of(image)
            if size != image_size and not (resize and is_scaled(size, image_size)):
                wrong[image_id] = mask
    if not wrong or len(wrong) == len(files):
        return list(files)
    warnings.warn(
        f"{counted(len(wrong), 'mask', 'differ')} from the image in size, so {len(wrong)} of {len(files)} images "
        f"are left out; the first: {next(iter(wrong.values()))}. Masks of the same shape as their image can be "
        "scaled to it: resize_labels=True (--resize-labels).",
        stacklevel=3,
    )
    return [image_id for image_id in files if image_id not in wrong]


def _from_colors(
    pixels: np.ndarray, colors: Mapping[tuple[int, int, int], int], where: Path | str, name: str
) -> Int64[np.ndarray, "_h _w"]:
    codes = _code(pixels.astype(np.int64))
    known = np.column_stack((_code(np.array(list(colors), np.int64)), list(colors.values())))
    known = known[known[:, 0].argsort()]
    place = np.searchsorted(known[:, 0], codes).clip(max=len(known) - 1)
    is_wrong = known[place, 0] != codes
    if is_wrong.any():
        color = tuple(pixels[is_wrong][0].tolist())
        raise DatasetError(
            f"{where} has {np.count_nonzero(is_wrong)} pixels whose colour is not in the palette of {name}, such as "
            f"{color}. Add the colour to ",
            Argument("palette"),
            f", with {IGNORE_LABEL} if it has no class; if it only occurs along edges, export the masks without "
            "smoothing.",
        )
    return known[place, 1]


def _code(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]


def _class_of(label: int | str, names: Sequence[str], argument: str) -> int:
    if isinstance(label, str):
        label = composed(label)
        if label not in names:
            raise OptionError(
                Argument(argument),
                f": {label!r} is not one of the ",
                Argument("class_names"),
                f" ({', '.join(names)}).",
            )
        return names.index(label)
    number = check_whole(label, name=argument, minimum=0)
    if number >= len(names) and number != IGNORE_LABEL:
        raise OptionError(
            Argument(argument),
            f": unknown class {number}; the {len(names)} ",
            Argument("class_names"),
            f" are numbered from 0, and {IGNORE_LABEL} means unknown.",
        )
    return number


def _color(color: Color) -> tuple[int, int, int]:
    if isinstance(color, str):
        try:
            red, green, blue = bytes.fromhex(color.removeprefix("#"))
        except ValueError as error:
            raise OptionError(
                Argument("palette"), f": a colour must be (red, green, blue) or '#rrggbb'; got {color!r}."
            ) from error
        return red, green, blue
    if len(color) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in color):
        raise OptionError(
            Argument("palette"), f": a colour must have red, green and blue from 0 to 255; got {color!r}."
        )
    red, green, blue = color
    return red, green, blue
