"""Recognise folders of masks or depth, and read the names of classes that tools write next to masks."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tadp.captions.records import shown
from tadp.datasets.readers.class_choice import ClassNames, new_names
from tadp.datasets.readers.depth_folder import DEPTH_SUFFIXES
from tadp.datasets.readers.mask_contents import palette_advice, palette_names
from tadp.datasets.readers.mask_folder import MaskFolder
from tadp.datasets.readers.paired_folders import MASK_FOLDERS, files_below, pictures
from tadp.datasets.readers.voc_folder import mask_classes
from tadp.datasets.sample import IGNORE_LABEL
from tadp.errors import Argument, DatasetError
from tadp.files.checks import read_lines
from tadp.images.image_files import is_image

_IMAGES = ("images", "imgs", "image", "img", "photos", "rgb", "color", "JPEGImages")
_DEPTHS = ("depth", "depths", "depth_maps", "depth_images")
_SUFFIX = "_mask"  # of masks next to their images, as Roboflow writes them


@dataclass(frozen=True)
class FoundClasses:
    """The classes that a file next to masks names.

    Attributes:
        names: Their names, in the order of the file.
        keys: The value or the colour of each class in masks.
    """

    names: Sequence[str]
    keys: Sequence[int | tuple[int, int, int]]


def mask_folders(folder: Path) -> tuple[dict[str, Any], ...] | None:
    """The arguments of `open_masks` for a folder; None if the folder has no masks."""
    beside = _folders(folder)
    splits = {name: path for name, path in beside.items() if f"{name}annot" in beside}  # as in CamVid
    if splits:
        return ({"images": splits, "masks": {name: beside[f"{name}annot"] for name in splits}},)
    images, masks = _first(beside, _IMAGES), _first(beside, MASK_FOLDERS)
    if images is not None and masks is not None and any(map(is_image, files_below(masks))):
        return ({"images": images, "masks": masks},)
    names = {path.with_suffix("") for path in pictures(folder)} if folder.is_dir() else set()
    if any(path.name.endswith(_SUFFIX) and path.with_name(path.name.removesuffix(_SUFFIX)) in names for path in names):
        return ({"images": folder, "masks": folder, "mask_suffix": _SUFFIX},)
    return None


def depth_folders(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of depth, or None."""
    beside = _folders(folder)
    images, depths = _first(beside, _IMAGES), _first(beside, _DEPTHS)
    return None if images is None or depths is None or not _has(depths, DEPTH_SUFFIXES) else (images, depths)


def open_masks(folders: Mapping[str, Any], *, class_names: ClassNames | None = None, **options: Any) -> MaskFolder:
    """Open a folder of masks, with the names of classes that are passed or that a file in it has.

    Args:
        folders: The folders, as `mask_folders` returns them.
        class_names: The classes in the order of their indices, or new names for those in the file.
        **options: Further arguments of `MaskFolder`.

    Raises:
        DatasetError: If no names are found.
    """
    masks = folders["masks"]
    first = next(iter(masks.values())) if isinstance(masks, Mapping) else masks
    found = None if {"labels", "palette"} & options.keys() else found_classes(first)
    class_names = class_names or palette_names(options.get("palette")) or None
    if found is None:
        if class_names is None or isinstance(class_names, Mapping):
            advice = "" if "palette" in options else palette_advice(pictures(first))
            if advice:
                message = f" of {first} is not known: its masks are coloured pictures. {advice}"
                raise DatasetError("the ", Argument("palette"), message)
            raise DatasetError(
                f"the masks in {first} do not say how their classes are called. Pass ",
                Argument("class_names", ...),
                ", one name per value from 0, and ",
                Argument("labels", ...),
                " for other values.",
            )
        return MaskFolder(**folders, class_names=class_names, **options)
    renamed = new_names(found.names, class_names)
    names = list(dict.fromkeys(name for name in renamed.values() if name is not None))
    if class_names is not None and not isinstance(class_names, Mapping):
        names = list(class_names)
    pairs = {
        key: names.index(new) if (new := renamed[name]) in names and new is not None else IGNORE_LABEL
        for key, name in zip(found.keys, found.names, strict=True)
    }
    argument = "palette" if isinstance(found.keys[0], tuple) else "labels"
    return MaskFolder(**folders, class_names=names, **{argument: pairs}, **options)


def found_classes(masks: Path) -> FoundClasses | None:
    """The classes in a file in the folder of masks, in a folder of a split in it, or above it, or None.

    Raises:
        DatasetError: If the file cannot be read.

    Source:
        CVAT: label_colors.txt ("128 64 128 road") and labelmap.txt; Roboflow: _classes.csv ("0, background").
    """
    for folder in (masks, *sorted(path for path in masks.iterdir() if path.is_dir()), masks.parent):
        stored = mask_classes(folder)
        if stored:
            return FoundClasses(list(stored), list(stored.values()))
        if (folder / "label_colors.txt").is_file():
            return _colored(folder / "label_colors.txt")
        if (folder / "_classes.csv").is_file():
            return _listed(folder / "_classes.csv")
        for name in ("classes.txt", "codes.txt"):
            if (folder / name).is_file():
                names = read_lines(folder / name, of="class", error=DatasetError)
                return FoundClasses(names, list(range(len(names))))
    return None


def _colored(path: Path) -> FoundClasses:
    rows = [line.split(maxsplit=3) for line in read_lines(path, of="class", error=DatasetError) if line[0] != "#"]
    for row in rows:
        if len(row) < 4 or not all(_is_number(part, 255) for part in row[:3]):
            raise DatasetError(f"{path}: a line must be red, green, blue and a name; got {shown(' '.join(row))}.")
    return FoundClasses([row[3] for row in rows], [(int(row[0]), int(row[1]), int(row[2])) for row in rows])


def _listed(path: Path) -> FoundClasses:
    rows = list(csv.reader(read_lines(path, of="class", error=DatasetError), skipinitialspace=True))[1:]
    if not rows or not all(len(row) == 2 and _is_number(row[0].strip(), 2**16 - 1) for row in rows):
        raise DatasetError(f"{path}: after its first line, a line must be a value and a class; got {shown(rows[:1])}.")
    return FoundClasses([row[1].strip() for row in rows], [int(row[0]) for row in rows])


def _is_number(text: str, most: int) -> bool:
    return text.isdecimal() and len(text) <= len(str(most)) and int(text) <= most


def _folders(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()} if folder.is_dir() else {}


def _first(folders: Mapping[str, Path], names: Sequence[str]) -> Path | None:
    by_name = {name.casefold(): path for name, path in folders.items()}
    return next((by_name[name.casefold()] for name in names if name.casefold() in by_name), None)


def _has(folder: Path, suffixes: Sequence[str]) -> bool:
    return any(path.suffix.lower() in suffixes for path in files_below(folder))
