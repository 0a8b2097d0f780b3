"""Boxes and polygons from YOLO text labels, in the layouts of Ultralytics, darknet and labelling tools."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tadp.captions.records import shown
from tadp.datasets.readers.class_choice import ClassNames
from tadp.datasets.readers.data_options import BadLabels, Unpaired
from tadp.datasets.readers.image_folder import Captions, Listings, OnError, Record
from tadp.datasets.readers.label_files import is_there
from tadp.datasets.readers.label_problems import keep, kept
from tadp.datasets.readers.labelled_objects import LabelledImage, LabelledObject, ObjectDataset, with_labels
from tadp.datasets.readers.outlines import Box, Polygons
from tadp.datasets.readers.paired_folders import files_below, keyed_by_image, photographs, pictures, splits_of
from tadp.datasets.readers.splitting import NameIndex, find_listed
from tadp.datasets.readers.yolo_config import NAMES, listed_names, read_config, yolo_file
from tadp.errors import Argument, CorruptFileError, DatasetError, MissingDataError
from tadp.files.checks import LARGEST_JSON, check_regular
from tadp.language.unicode_forms import composed

_SLACK = 0.01  # by which rounding may move a coordinate beyond the image
_TWO_POINTS = "a polygon must have three points or more; this line has two, or is a box that leaves its image"


class YoloDataset(ObjectDataset):
    """Your own boxes and polygons in YOLO text labels, as Ultralytics, darknet and labelling tools write them.

    Pass the folder of an export, or its data.yaml. The names of the classes are in data.yaml, obj.names (darknet and
    CVAT) or classes.txt (Label Studio, labelImg), or passed. The labels of images/train/a.jpg are in
    labels/train/a.txt, or next to the image; if none are there, they are the text files of the same names in other
    folders. A line is a class, counted from 0, and then a box (the x and y of its centre, width and height) or the x
    and y of three or more points, all as fractions of the image's width and height. The corners of rotated boxes are
    read as polygons.

    Splits are those in data.yaml or obj.data, or the folders named after train, val (or valid, validation) and test. A
    `path` in data.yaml that leads elsewhere, as on another machine, is taken as the folder of data.yaml. If some
    objects have polygons, there are masks: 0 is background and k is `box_class_names[k - 1]`; of two objects that
    overlap, the one with the smaller box is in front, and an object with only a box is 255 (unknown). Image ids are
    paths below the folder with all images, without suffix and without a folder "images" in it, such as "train/0001".

    Attributes:
        class_names: Names of the classes in masks: "background", then those of `box_class_names`.
        box_class_names: Names of the classes that the labels of boxes index.

    Args:
        root: The folder of the export, or its data.yaml.
        class_names: None, the default, takes all classes as they are named. A sequence has the classes in the order of
            their indices; objects of other classes are left out, with a warning. A mapping such as {"Dog": "dog"}
            renames classes; those with the name None are left out. If no file names the classes, a sequence has the
            names of the numbers in the labels, from 0.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.
        unpaired: What happens to images without text file. "raise", the default, raises an error that names one. "skip"
            leaves them out with a warning, and "empty" takes them as images without objects, as Ultralytics does. A
            text file that is empty means no objects. Text files without image are not used, with a warning.
        bad_labels: What happens to boxes outside their image and to class numbers without a name: "raise", the default,
            raises an error that names the file, and "skip" leaves such labels out with a warning.

    Raises:
        MissingDataError: If no images or class names are found, or images have no text file.
        DatasetError: If a line is not a label, or two classes only differ in case or blanks.
        UnknownIdError: If `captions` lacks the caption of an image.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        class_names: ClassNames | None = None,
        captions: Captions | None = None,
        on_error: OnError = "raise",
        unpaired: Unpaired = "raise",
        bad_labels: BadLabels = "raise",
    ):
        root, path = Path(root), yolo_file(Path(root))
        folder = root if path is None or root.is_dir() else path.parent
        name = f"YoloDataset {folder.resolve().name!r}"
        if path is None and (class_names is None or isinstance(class_names, Mapping)):
            raise MissingDataError(
                f"{name}: no data.yaml, obj.names or classes.txt was found in {folder}, so classes have no names. "
                "Pass ",
                Argument("class_names", ...),
                ", one name per number from 0.",
            )
        config: dict[str, Any] = {"names": list(class_names or ())} if path is None else read_config(path)
        images = _images(folder, config)
        if not images:
            raise MissingDataError(f"{name}: no images were found in {folder}. Export the data set with its images.")
        source = path or folder
        found, listings = listed_names(config, source), Listings()
        labels = {key: text for key, image in images.items() if (text := _label_file(image, listings)) is not None}
        labels = labels or _labels_elsewhere(folder, images)
        labels |= _orphans(labels)
        splits = _splits(folder, config, images)
        keys = with_labels(list(images), labels, images, kind="text file", name=name, unpaired=unpaired)
        classes: dict[int, list[str]] = {}
        entries = [
            LabelledImage(
                Record(key, images[key], labels.get(key)),
                _objects(labels[key], found, classes) if key in labels else (),
                (1, 1),
            )
            for key in keys
        ]
        _check_numbers(classes, found, source, bad_labels)
        super().__init__(
            entries,
            found,
            name=name,
            class_names=class_names,
            captions=captions,
            on_error=on_error,
            bad_labels=bad_labels,
            splits={part: [key for key in ids if key in labels or unpaired == "empty"] for part, ids in splits.items()},
        )


def _images(root: Path, config: Mapping[str, Any]) -> dict[str, Path]:
    """The images by id: those of the splits, or all in the folder."""
    paths = [path for split in ("train", "val", "test") for path in _split_images(root, config, split)]
    paths = sorted(set(paths)) or photographs(root)
    shared = os.path.commonpath([path.parent for path in paths]) if paths else ""
    images: dict[str, Path] = {}
    for path in paths:
        parts = PurePosixPath(path.relative_to(shared).with_suffix("").as_posix()).parts
        key = composed("/".join(part for part in parts[:-1] if part != "images") or "")
        key = f"{key}/{composed(parts[-1])}" if key else composed(parts[-1])
        first = images.setdefault(key, path)
        with kept("same file name"):
            if first != path:
                raise DatasetError(
                    f"{first} and {path} share a name, so it is unclear which labels are whose. Rename one."
                )
    return images


def _split_images(root: Path, config: Mapping[str, Any], split: str) -> list[Path]:
    """The images of a split in data.yaml: a folder, a list of images, or several of these."""
    entries = config.get(split) or []
    entries = [entries] if isinstance(entries, str) else entries
    folder = config.get("path") or "."
    for value in (folder, *entries):
        if not isinstance(value, str) or not isinstance(entries, list):
            raise DatasetError(
                f"{root}: path and {split} in data.yaml must be folders or lists; got {shown(folder)} and "
                f"{shown(entries)}."
            )
    limits = {root.resolve().parent, root.absolute().parent}
    base = Path(os.path.normpath(root.resolve() / folder))
    if not limits & set(base.parents):  # the place on the machine that made the export
        base = root
    images: list[Path] = []
    for entry in entries:
        inside = entry.replace("../", "").removeprefix("./")  # Roboflow writes ../train/images
        if Path(entry).is_absolute() and Path(entry).is_relative_to(folder):
            inside = str(Path(entry).relative_to(folder))
        places = [place for place in (base / entry, base / inside, root / inside) if is_there(place)]
        place = next((place for place in places if _is_below(place, limits)), None)
        if places and place is None:
            raise DatasetError(
                f"{root}: {split} in data.yaml leads to {places[0].resolve()}, outside the data set. Move data.yaml "
                "next to the folders with the images."
            )
        if place is None:
            warnings.warn(f"{root}: {split} is {entry!r}, which is not there; it is not used.", stacklevel=4)
        elif place.is_dir():
            images += pictures(place, warn=True)
        else:
            index = NameIndex({path.as_posix(): path for path in photographs(root)})
            images += [Path(path) for path in find_listed(place, index, "", str(root))]
    return images


def _is_below(place: Path, limits: set[Path]) -> bool:
    """Whether a path is below one of some folders. A folder there may be a link to another place; a list may not."""
    named = Path(os.path.normpath(place.absolute()))
    return bool(limits & {*place.resolve().parents, *(named.parents if place.is_dir() else ())})


def _splits(root: Path, config: Mapping[str, Any], images: Mapping[str, Path]) -> dict[str, list[str]]:
    """The ids of each split. A val with the images of train, as in small demonstration sets, is left out."""
    keys = {path: key for key, path in images.items()}
    with warnings.catch_warnings(action="ignore"):  # those of splits that are not there were shown before
        images_of_splits = {name: _split_images(root, config, name) for name in ("train", "val", "test")}
    splits = {name: [keys[path] for path in paths if path in keys] for name, paths in images_of_splits.items()}
    splits = {name: ids for name, ids in splits.items() if ids} or splits_of(images)
    same = [name for name, ids in splits.items() if name != "train" and set(ids) <= set(splits.get("train", []))]
    if same:
        warnings.warn(f"{root}: {same[0]} has the images of train, so it is not used as a split.", stacklevel=4)
    return {name: ids for name, ids in splits.items() if name not in same}


def _label_file(image: Path, listings: Listings) -> Path | None:
    """The text file of an image: in the folder "labels" in place of the last folder "images", or next to the image."""
    parts = list(image.with_suffix(".txt").parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    matches = [listings.find(path) for path in (Path(*parts), image.with_suffix(".txt"))]
    return next((path for path in matches if path is not None and path.is_file()), None)


def _labels_elsewhere(root: Path, images: Mapping[str, Path]) -> dict[str, Path]:
    """The text files with the names of images, in any folder.

    Raises:
        DatasetError: If several folders have a text file for the same image.
    """
    texts = {
        path.relative_to(root).with_suffix("").as_posix(): path
        for path in files_below(root)
        if path.suffix == ".txt" and path.name not in NAMES
    }
    texts_of_images = {key: path for key, path in keyed_by_image(texts, images).items() if key in images}
    if not texts_of_images:
        names = {key.rpartition("/")[2] for key in images}
        several = [path for path in texts.values() if composed(path.stem) in names]
        if several:
            same = [path for path in several if path.stem == several[0].stem]
            raise DatasetError(
                f"{same[0]} and {same[-1]} may both be labels of one image, so it is unclear which are meant. Move the "
                'right ones into a folder "labels" next to the folder "images".'
            )
    return texts_of_images


def _orphans(labels: Mapping[str, Path]) -> dict[str, Path]:
    """The text files next to those of images that belong to no image, by their path; not lists and notes."""
    used = set(labels.values())
    folders = {path.parent for path in used if "labels" in path.parts}
    texts = [path for folder in sorted(folders) for path in sorted(folder.glob("*.txt"))]
    return {str(path): path for path in texts if path not in used and path.name not in NAMES}


def _check_numbers(
    classes: Mapping[int, Sequence[str]], names: Sequence[str], path: Path, bad_labels: BadLabels
) -> None:
    """Refuse class numbers without a name, because the names of the others may then be wrong, too.

    Args:
        classes: The places of the labels of each class number.
        names: The names.
        path: The file with the names.
        bad_labels: Whether to warn only.
    """
    unknown = [number for number in sorted(classes) if not 0 <= number < len(names)]
    if not unknown:
        return
    counts = ", ".join(f"{number} ({len(classes[number])})" for number in sorted(classes))
    problem = (
        f"{classes[unknown[0]][0]}: unknown class {unknown[0]}; the {len(names)} names are numbered from 0. If {path} "
        f"lists other classes than the labels, all names are wrong; labels by class number: {counts}."
    )
    if keep("wrong label", [problem]):
        return
    if bad_labels == "raise":
        raise DatasetError(
            f"{problem} Correct the names in {path.name}, or leave out labels without a name: ",
            Argument("bad_labels", "skip"),
            ".",
        )
    warnings.warn(f"{problem} Labels without a name are left out.", stacklevel=3)


def _objects(path: Path, names: Sequence[str], classes: dict[int, list[str]]) -> list[LabelledObject]:
    lines, objects = [], []
    with kept("wrong label"):
        try:
            check_regular(path, most_bytes=LARGEST_JSON)
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError, CorruptFileError) as error:
            raise DatasetError(f"{path} cannot be read ({error}). Export it again.") from error
    for number, line in enumerate(lines, 1):
        with kept("wrong label"):
            objects += _object(line, f"{path}, line {number}", names, classes) if line.strip() else []
    if any(entry.outline is not None for entry in objects):  # Ultralytics takes all lines of such a file for outlines
        return [entry._replace(flaw=_TWO_POINTS) if _sticks_out(entry.box) else entry for entry in objects]
    return objects


def _sticks_out(box: Box | None) -> bool:
    """Whether a box leaves its image, as boxes that were written as fractions never do."""
    return box is not None and (min(box) < -_SLACK or max(box) > 1 + _SLACK)


def _object(line: str, where: str, names: Sequence[str], classes: dict[int, list[str]]) -> list[LabelledObject]:
    """The object of a line, which whose place is added to that of its class; [] if its class has no name."""
    try:
        index, *numbers = (float(word) for word in line.split())
        if not index.is_integer() or len(numbers) < 4 or len(numbers) % 2:
            raise ValueError
    except ValueError as error:
        raise DatasetError(
            f"{where}: a label must be a class number and four numbers of a box, or the x and y of three points or "
            f"more; got {shown(line)}."
        ) from error
    classes.setdefault(int(index), []).append(where)
    if not 0 <= index < len(names):
        return []
    name = names[int(index)]
    if not all(-_SLACK <= number <= 1 + _SLACK for number in numbers):  # NaN is not between them either
        problem = f"coordinates must be fractions of the image's width and height, 0 to 1; got {shown(line)}"
        return [LabelledObject(name, None, where, contradiction=problem)]
    if len(numbers) == 4:
        x, y, width, height = numbers
        return [LabelledObject(name, (x - width / 2, y - height / 2, x + width / 2, y + height / 2), where)]
    return [LabelledObject(name, None, where, Polygons([np.reshape(numbers, (-1, 2))], is_relative=True))]
