"""Data sets of labelled objects, with boxes, and with masks where objects have outlines, in any file format."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch

from tadp.datasets.readers.class_choice import ClassChoice, ClassNames, choose_classes, fixed_value
from tadp.datasets.readers.data_options import BadLabels, Unpaired
from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError, Record
from tadp.datasets.readers.label_files import check_label_size
from tadp.datasets.readers.label_problems import is_collecting, keep
from tadp.datasets.readers.outlines import Box, Outline, paint
from tadp.datasets.sample import Sample, sides
from tadp.errors import Argument, DatasetError, MissingDataError
from tadp.files.checks import check_choice
from tadp.images.boxes import Boxes
from tadp.language.grammar import counted
from tadp.language.unicode_forms import composed


class LabelledObject(NamedTuple):
    """An object as a label file describes it.

    Attributes:
        name: The name of its class in the file.
        box: Left, top, right and bottom, counted from 0, right and bottom exclusive; in pixels, or as fractions of the
            image's width and height. None takes the box around the outline.
        where: The file and the place in it, for error messages.
        outline: Its outline; None if the file has only its box.
        is_difficult: Whether the evaluation ignores it: a difficult object, or a crowd.
        flaw: Why the reader leaves the object out, in words; "" if the object is read.
        contradiction: Why the object cannot belong to its image, in words; "" if it can.
    """

    name: str
    box: Box | None
    where: str
    outline: Outline | None = None
    is_difficult: bool = False
    flaw: str = ""
    contradiction: str = ""


@dataclass(frozen=True)
class LabelledImage:
    """An image with its objects.

    Attributes:
        record: The id and the files.
        objects: The objects in the image.
        size: (height, width) as the labels state it; (1, 1) if boxes and outlines are fractions of the image's sides;
            None if the labels do not state it.
    """

    record: Record
    objects: Sequence[LabelledObject]
    size: tuple[int, int] | None = None


class ObjectDataset(FolderDataset):
    """Images with labelled objects. The labels are read and checked when the data set is opened, the images later.

    This is the base class of `VOCFolder`, `CocoDataset`, `YoloDataset` and `LabelmeFolder`. A subclass reads the label
    files.

    Attributes:
        class_names: Names of the classes in masks: "background", then those of `box_class_names`.
        box_class_names: Names of the classes that the labels of boxes index.

    Args:
        images: The images with their objects.
        found: The names of the classes in the order of the label files.
        name: The data set's name, for error messages.
        advice: A sentence that says how to get a missing file, for error messages.
        class_names: The classes to read; see `CocoDataset`.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read: "raise" or "skip"; see `FolderDataset`.
        bad_labels: What happens to boxes and outlines that are wrong: "raise" or "skip"; see `CocoDataset`.
        splits: The ids of the images in each split that the data set comes with.
    """

    smaller_in_front = True  # of two outlines that overlap; False draws them in the order of the file
    warns_of_clipping = False  # whether a box that extends beyond its image causes a warning

    def __init__(
        self,
        images: Sequence[LabelledImage],
        found: Sequence[str],
        *,
        name: str,
        advice: str = "",
        class_names: ClassNames | None = None,
        captions: Captions | None = None,
        on_error: OnError = "raise",
        bad_labels: BadLabels = "raise",
        splits: Mapping[str, Sequence[str]] | None = None,
    ):
        check_choice(bad_labels, get_args(BadLabels), name="bad_labels")
        images = [
            replace(image, objects=[entry._replace(name=composed(entry.name)) for entry in image.objects])
            for image in images
        ]
        places = {entry.name: entry.where for image in images for entry in image.objects}
        choice = choose_classes(found, class_names, name=name, places=places)
        empty: list[str] = []
        wrong: list[str] = []
        clipped: list[str] = []
        self._images = {image.record.image_id: sound_objects(image, choice, empty, wrong, clipped) for image in images}
        _report(empty, wrong, name, bad_labels)
        if clipped and self.warns_of_clipping and not is_collecting():
            warnings.warn(f"{name}: {_clipping(clipped)}", stacklevel=2)
        self._index_of = choice.index_of
        self.box_class_names = choice.names
        has_outlines = any(entry.outline for image in self._images.values() for entry in image.objects)
        self.tasks = ("detection", "segmentation") if has_outlines else ("detection",)
        super().__init__(
            [image.record for image in images],
            name=name,
            advice=advice,
            class_names=("background", *choice.names),
            captions=captions,
            on_error=on_error,
            splits=splits,
        )

    def __repr__(self) -> str:
        kinds = " and ".join({"detection": "boxes", "segmentation": "masks"}[task] for task in self.tasks)
        count = len(self.box_class_names)
        return f"<{self._name}: {counted(len(self), 'image')}, {kinds} of {counted(count, 'class', plural='classes')}>"

    def classes_in(self, image_id: str) -> set[str] | None:
        return set(self.box_names_in(image_id))

    def box_names_in(self, image_id: str) -> list[str]:
        """The name of the class of each object in an image, which is not opened."""
        entries = self._images[image_id].objects
        return [self.box_class_names[self._index(entry)] for entry in entries if fixed_value(entry.name) is None]

    def _index(self, entry: LabelledObject) -> int:
        return self._index_of[entry.name] or 0

    def _value(self, name: str) -> int:
        """The value of a class in masks; that of a class that is left out is background."""
        fixed, index = fixed_value(name), self._index_of.get(name)
        return fixed if fixed is not None else 0 if index is None else index + 1

    def _label(self, sample: Sample, path: Path) -> Sample:
        image = self._images[sample.image_id]
        height, width = sample.image_size
        if image.size is None:  # only now the size is known
            wrong: list[str] = []
            clipped: list[str] = []
            image = sound_objects(replace(image, size=sample.image_size), None, [], wrong, clipped)
            if wrong:
                raise DatasetError(f"{wrong[0]}.")
            if clipped and self.warns_of_clipping:
                self._warn_once("clipped", _clipping(clipped))
        elif image.size != (1, 1):
            check_label_size(sample, path, image.size, kind="an annotation")
        scale = (width, height, width, height) if image.size == (1, 1) else (1, 1, 1, 1)
        entries = [
            (entry, tuple(np.multiply(entry.box, scale).tolist())) for entry in image.objects if entry.box is not None
        ]
        kept = [(entry, box) for entry, box in entries if fixed_value(entry.name) is None]
        boxes = boxes_of([entry._replace(box=box) for entry, box in kept], lambda name: self._index_of[name] or 0)
        return replace(sample, boxes=boxes, mask=self._mask(entries, sample))

    def _mask(self, entries: Sequence[tuple[LabelledObject, Box]], sample: Sample) -> np.ndarray | None:
        """The mask of an image; of two objects that overlap, the one with the smaller box is in front."""
        if "segmentation" not in self.tasks:
            return None
        ordered = sorted(entries, key=lambda pair: -_area(pair[1])) if self.smaller_in_front else entries
        return paint([(entry.outline, box, self._value(entry.name)) for entry, box in ordered], sample.image_size)


def with_labels(
    keys: Sequence[str],
    labels: Mapping[str, Path],
    images: Mapping[str, Path],
    *,
    kind: str,
    name: str,
    unpaired: Unpaired,
) -> list[str]:
    """The images that have labels, or all; see `unpaired` of `VOCFolder`.

    Raises:
        MissingDataError: If `unpaired` is "raise" and an image has no labels, or none has.
    """
    check_choice(unpaired, get_args(Unpaired), name="unpaired")
    missing = [key for key in keys if key not in labels]
    orphans = [path for key, path in labels.items() if key not in images]
    if orphans and len(orphans) == len(labels) and unpaired != "empty":
        raise MissingDataError(
            f"{name}: {counted(len(keys), 'image', 'have no')} {kind}, the first of them {images[keys[0]]}. The names "
            f"of the {counted(len(orphans), kind)} fit no image, such as {orphans[0]}. Give "
            "each label file the name of its image."
        )
    if orphans and not keep("label without image", [str(path) for path in orphans]):
        warnings.warn(
            f"{name}: {counted(len(orphans), 'label file', 'have no image')} (not used), the first: {orphans[0]}.",
            stacklevel=3,
        )
    if not missing or unpaired == "empty":
        return list(keys)
    count = f"{len(missing)} of {len(keys)} images have no {kind}, the first of them {images[missing[0]]}"
    same = [str(images[key]) for key in missing if orphans and key.rpartition("/")[2] == composed(orphans[0].stem)]
    hint = (
        f" {orphans[0]} may belong to {' or '.join(same[:2])}: move it to a folder with the name of the image's folder."
        if same
        else ""
    )
    labelled = [key for key in keys if key in labels]
    if labelled and keep("image without labels", [str(images[key]) for key in missing]):
        return labelled
    if unpaired == "raise" or len(missing) == len(keys):
        raise MissingDataError(
            f"{name}: {count}.{hint} If such images show no object, pass ",
            Argument("unpaired", "empty"),
            "; to leave them out, pass ",
            Argument("unpaired", "skip"),
            ".",
        )
    warnings.warn(f"{name}: {count}; they are left out.", stacklevel=3)
    return labelled


def boxes_of(objects: Sequence[LabelledObject], index_of: Callable[[str], int]) -> Boxes:
    """The boxes of objects, in pixels, with the index of each class name."""
    return Boxes(
        torch.tensor([entry.box for entry in objects], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([index_of(entry.name) for entry in objects], dtype=torch.int64),
        torch.tensor([entry.is_difficult for entry in objects], dtype=torch.bool),
    )


def _area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def sound_objects(
    image: LabelledImage, choice: ClassChoice | None, empty: list[str], wrong: list[str], clipped: list[str]
) -> LabelledImage:
    """An image with those of its objects that are read and right.

    What is wrong with others is added to `empty` if they have no area, and otherwise to `wrong`. A box that reaches a
    pixel or more beyond the image is clipped and added to `clipped`; less than that is rounding.
    """
    objects = []
    for entry in image.objects:
        if choice is not None and fixed_value(entry.name) is None and choice.index_of[entry.name] is None:
            continue
        emptiness = _emptiness(entry, image.size)
        if emptiness:
            empty.append(f"{entry.where}: {emptiness}")
            continue
        problem = entry.contradiction or ("" if entry.outline is None else entry.outline.problem(image.size))
        box = entry.box if problem or entry.outline is None else entry.box or entry.outline.box()
        problem = problem or _problem(box, image.size)
        if problem or box is None:
            wrong.append(f"{entry.where}: {problem}")
        else:
            inside = _clipped(box, image.size)
            if image.size != (1, 1) and max(abs(a - b) for a, b in zip(box, inside, strict=True)) >= 1:
                clipped.append(f"{entry.where}: {_shown(box)} in an image of {sides(image.size or ())}")
            objects.append(entry._replace(box=inside))
    return replace(image, objects=objects)


def _emptiness(entry: LabelledObject, size: tuple[int, int] | None) -> str:
    """Why an object has no area; "" if it has one."""
    if entry.flaw:
        return entry.flaw
    if entry.box is not None and np.isfinite(entry.box).all():
        left, top, right, bottom = entry.box
        if right <= left or bottom <= top:
            return f"a box must have an area; got left, top, right, bottom = {_shown(entry.box)}"
    return "" if entry.outline is None else entry.outline.emptiness(size)


def _problem(box: Box | None, size: tuple[int, int] | None) -> str:
    if box is None:
        return "an object must have a box or an outline"
    if not np.isfinite(box).all():
        return f"a box must have finite numbers; got {_shown(box)}"
    left, top, right, bottom = box
    if size is not None and (left >= size[1] or top >= size[0] or right <= 0 or bottom <= 0):
        return f"a box must be inside its image of {sides(size)} (height x width); got {_shown(box)}"
    return ""


def _shown(box: Box) -> str:
    return ", ".join(f"{side:g}" for side in box)


def _clipped(box: Box, size: tuple[int, int] | None) -> Box:
    if size is None:
        return box
    left, top, right, bottom = box
    return max(left, 0.0), max(top, 0.0), min(right, float(size[1])), min(bottom, float(size[0]))


def _clipping(clipped: Sequence[str]) -> str:
    count = counted(len(clipped), "box", "extend", plural="boxes")
    return f"{count} beyond the image (clipped); the first: {clipped[0]} (height x width)."


def _report(empty: Sequence[str], wrong: Sequence[str], name: str, bad_labels: BadLabels) -> None:
    """Warn of labels without area, and refuse labels that contradict their image, or warn of them too."""
    if keep("label without area", empty) and keep("label outside", wrong):
        return
    if wrong and bad_labels == "raise":
        more = f" {counted(len(wrong) - 1, 'more label', 'contradict')} the image." if len(wrong) > 1 else ""
        raise DatasetError(
            f"{wrong[0]}.{more} Get the labels that belong to these images, or leave out such labels: ",
            Argument("bad_labels", "skip"),
            ".",
        )
    for problems, what in ((empty, "have no area"), (wrong, "contradict the image")):
        if problems:
            count = counted(len(problems), "label", what)
            warnings.warn(f"{name}: {count} (left out); {problems[0]}.", stacklevel=4)
