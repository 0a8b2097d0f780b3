"""Boxes and masks from COCO json, as labelling tools export it."""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from tadp.captions.records import shown
from tadp.datasets.readers.class_choice import ClassNames, warn_about_same
from tadp.datasets.readers.data_options import BadLabels, Unpaired
from tadp.datasets.readers.image_folder import Captions, OnError, Record
from tadp.datasets.readers.label_files import is_there, read_json_export, stated_size
from tadp.datasets.readers.label_problems import keep, kept, spelled_twice
from tadp.datasets.readers.labelled_objects import LabelledImage, LabelledObject, ObjectDataset
from tadp.datasets.readers.outlines import CocoOutline
from tadp.datasets.readers.paired_folders import photographs, splits_of
from tadp.datasets.readers.splitting import NameIndex, split_name
from tadp.errors import Argument, DatasetError, MissingDataError
from tadp.files.checks import check_choice, refuse_pointer
from tadp.language.unicode_forms import composed

_HEAD_BYTES = 2**16
_OTHER_KINDS = {"captions", "keypoints", "panoptic", "stuff", "info"}  # image_info: tests without labels
_KEY = re.compile(r'"(\w+)"\s*:')
_NEEDED = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


class CocoDataset(ObjectDataset):
    """Your own boxes and masks in COCO json, as labelling tools export it, and COCO itself.

    Pass the json file, or the folder of an export with one json file for all images or for each split: in `annotations`
    (CVAT: instances_train.json), at the top (Label Studio: result.json) or next to the images of each split (Roboflow:
    train/_annotations.coco.json). Images are looked for by their file name next to the json file, and in the folders of
    the export, but not in folders of masks or labels. A json file, or a folder in its path or in the file names of its
    images, that is named after train, val (or valid, validation) or test is a split of that name. A warning names json
    files that are not read, such as a second one for a split.

    Masks come from polygons and run lengths (`pip install 'tadp[detection]'`). 0 is background and k is
    `box_class_names[k - 1]`. Where two objects overlap, the one with the smaller box is in front. The box of an object
    that has no outline, in a data set in which others have one, is 255 (unknown). A crowd (iscrowd) is marked in
    `Boxes.difficult`, so that an evaluation ignores its box, and is part of its class in a mask. Training of detection
    leaves crowds out, as `without_crowds` does.

    Image ids are file names as in the json file, without suffix. If there are several json files, the name of the split
    comes first, as in "train/0001".

    Attributes:
        class_names: Names of the classes in masks: "background", then those of `box_class_names`.
        box_class_names: Names of the classes that the labels of boxes index, in the order of the category ids.

    Args:
        root: The folder of the export, or the json file.
        images: The folder of images, if they are not in the folder of the export; None, the default, looks there.
        class_names: None, the default, takes all classes as they are named. A sequence has the classes in the order of
            their indices; objects of other classes are left out, with a warning. A mapping such as {"Dog": "dog"}
            renames classes; those with the name None are left out.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.
        unpaired: What happens to images of the json file that are not there: "raise", the default, raises an error that
            names one, and "skip" leaves them out with a warning. Images in the json file without annotations show no
            object; "skip" leaves them out too.
        bad_labels: What happens to boxes outside their image and to run lengths of another size: "raise", the default,
            raises an error that names the file, and "skip" leaves them out with a warning.

    Raises:
        MissingDataError: If the json file or images are missing.
        DatasetError: If a file is not COCO json, a box or outline is wrong, or two classes only differ in case or
            blanks.
        MissingExtraError: If masks are needed and faster-coco-eval is not installed.
        UnknownIdError: If `captions` lacks the caption of an image.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        images: str | Path | None = None,
        class_names: ClassNames | None = None,
        captions: Captions | None = None,
        on_error: OnError = "raise",
        unpaired: Unpaired = "raise",
        bad_labels: BadLabels = "raise",
    ):
        root = Path(root)
        name = f"CocoDataset {root.resolve().name!r}"
        paths = coco_files(root)
        if not paths:
            raise MissingDataError(
                f"{name}: no COCO json was found in {root}, in its folder annotations, or next to its images."
            )
        folder = root if root.is_dir() else root.parent
        folder = folder.parent if folder.name == "annotations" else folder
        entries: list[LabelledImage] = []
        found: list[str] = []
        splits: dict[str, list[str]] = {}
        contents = _contents(paths) | _split_contents(_other_files(root, paths), folder)
        for path, content in contents.items():
            with kept("unreadable file"):
                part = _split_of(path, folder, content)
                place, index = _image_index(path, folder, part, None if images is None else Path(images))
                prefix = f"{part or path.stem}/" if len(contents) > 1 else ""
                _check_inside(content, path, place, folder)
                own = _images(path, content, place, index, prefix)
                ids = [image.record.image_id for image in own]
                if set(ids) & {image.record.image_id for image in entries}:
                    _tell_of_unread(path, "it lists images of another json file again")
                    continue
                found += _names(content, path)
                entries += own
                for split, members in (splits_of(ids) if part is None else {part: ids}).items():
                    splits.setdefault(split, []).extend(members)
        entries = _present(entries, name, unpaired)
        present = {image.record.image_id for image in entries}
        super().__init__(
            entries,
            found,
            name=name,
            class_names=class_names,
            captions=captions,
            on_error=on_error,
            bad_labels=bad_labels,
            splits={part: [image_id for image_id in ids if image_id in present] for part, ids in splits.items()},
        )

    def without_crowds(self) -> "CocoDataset":
        """Return the same data set without the objects that stand for a crowd."""
        images = {
            key: replace(image, objects=[entry for entry in image.objects if not entry.is_difficult])
            for key, image in self._images.items()
        }
        return self._copy(images=images)


def coco_files(root: Path) -> list[Path]:
    """The COCO json files of an export, without those for captions, keypoints, panoptic masks and tests without labels.

    Args:
        root: The folder of the export, or a json file.
    """
    if root.is_file():
        return [root] if is_coco(root) else []
    paths = [path for folder in (root / "annotations", root) for path in sorted(folder.glob("*.json")) if is_coco(path)]
    instances = [path for path in paths if "instances" in _words(path.stem)]
    return instances or paths or [path for path in sorted(root.glob("*/*.json")) if is_coco(path)]


def _other_files(root: Path, paths: Sequence[Path]) -> list[Path]:
    """The other COCO json files of a folder that may be for a split."""
    if not root.is_dir():
        return []
    json_paths = [
        path for pattern in ("*.json", "*/*.json") for path in sorted(root.glob(pattern)) if path not in paths
    ]
    return [path for path in json_paths if not _OTHER_KINDS & set(_words(path.stem)) and is_coco(path)]


def _split_contents(paths: Sequence[Path], folder: Path) -> dict[Path, dict[str, Any]]:
    """The contents of the files that are for a split; a warning names the rest."""
    contents = {}
    for path in paths:
        try:
            content = _checked(read_json_export(path), path)
        except DatasetError as error:
            _tell_of_unread(path, str(error).removeprefix(f"{path} ").removeprefix(f"{path}: "))
            continue
        if _split_of(path, folder, content) is not None:
            contents[path] = content
        else:
            _tell_of_unread(path, "neither its name nor those of its images name a split")
    return contents


def _tell_of_unread(path: Path, reason: str) -> None:
    warnings.warn(f"{path} is not read: {reason}. To read only this file, pass its path.", stacklevel=4)


def is_coco(path: Path) -> bool:
    """Whether the beginning of a file looks like COCO json, and not like that of another tool."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    refuse_pointer(path, DatasetError)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES).decode("utf-8", errors="replace")
    keys = set(_KEY.findall(head))
    return bool(keys & {"images", "annotations"}) and "shapes" not in keys


def _contents(paths: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """The contents of COCO json files, without other json files next to them, as of Label Studio, with a warning."""
    stored: dict[Path, Any] = {}
    for path in paths:
        with kept("unreadable file"):
            stored[path] = read_json_export(path)
    foreign = [
        path
        for path, content in stored.items()
        if not isinstance(content, dict) or len(_NEEDED.keys() - content.keys()) > 1
    ]
    if len(foreign) == len(stored):
        foreign = []  # each has an error of its own
    for path in foreign:
        warnings.warn(
            f"{path} is not COCO json, which has lists of {', '.join(_NEEDED)}, so it is not used.", stacklevel=4
        )
    contents = {}
    for path in [path for path in stored if path not in foreign]:
        with kept("unreadable file"):
            contents[path] = _checked(stored[path], path)
    return contents


def _checked(content: Any, path: Path) -> dict[str, Any]:
    """Check the parts of a COCO json that are needed, and leave out wrong entries if problems are collected."""
    for part, keys in _NEEDED.items():
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise DatasetError(
                f"{path} must have a list of {part}, as COCO json has; it has none. Export it as COCO json."
            )
        content[part] = []
        for number, row in enumerate(rows):
            missing = [key for key in keys if not isinstance(row, dict) or row.get(key) in (None, "")]
            with kept("wrong label"):
                if missing:
                    raise DatasetError(f"{path}: entry {number} of {part} has no {missing[0]!r}; got {shown(row)}.")
                for key in (*keys, "supercategory"):
                    if not isinstance(row.get(key, ""), str | int | float | None) or "\0" in str(row.get(key)):
                        raise DatasetError(f"{path}: entry {number} of {part} has a wrong {key!r}; got {shown(row)}.")
                content[part].append(row)
    return content


def _names(content: Mapping[str, Any], path: Path) -> list[str]:
    """The names of the categories by id, without those that only group others, as Roboflow's category 0."""
    used = {annotation["category_id"] for annotation in content["annotations"]}
    groups = {category.get("supercategory") for category in content["categories"]}
    ordered = sorted(content["categories"], key=lambda category: (isinstance(category["id"], str), category["id"]))
    warn_about_same([str(row["name"]) for row in ordered if row["id"] in used], path)
    return [str(row["name"]) for row in ordered if row["id"] in used or row["name"] not in groups]


def _split_of(path: Path, folder: Path, content: Mapping[str, Any]) -> str | None:
    """The split that a json file is for: instances_train2017.json, train/_annotations.coco.json, or train/1.jpg."""
    words = _words(path.stem)
    if path.parent != folder:
        words.append(path.parent.name.lower())
    named = next((name for word in words if (name := split_name(word)) is not None), None)
    splits = splits_of(_file_name(row) for row in content["images"])
    return next(iter(splits)) if named is None and len(splits) == 1 else named


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z]+", name.lower())


def _file_name(row: Mapping[str, Any]) -> str:
    return str(row["file_name"]).replace("\\", "/").lstrip("/")


def _image_index(path: Path, folder: Path, part: str | None, images: Path | None) -> tuple[Path, NameIndex]:
    """The folder with the images of a json file, and the images in it."""
    subset = path.stem.removeprefix("instances_")
    names = [name for name in dict.fromkeys((subset, part)) if name is not None]
    places = [base / name for base in (folder / "images", folder / "JPEGImages", folder) for name in names]
    beside = [] if path.parent in (folder, folder / "annotations") else [path.parent]
    place = next((place for place in (*beside, *places) if place.is_dir() and photographs(place)), folder)
    place = place if images is None else images
    if not place.is_dir():
        raise MissingDataError(f"no folder {place}; pass ", Argument("images", ...), " with the folder of the images.")
    return place, NameIndex({picture.relative_to(place).as_posix(): picture for picture in photographs(place)})


def _image_files(content: Mapping[str, Any], place: Path, index: NameIndex, path: Path) -> dict[str, Path]:
    """The file of each file name that is clear; that of a missing image is where it should be.

    A file with another suffix, such as 1.png for 1.jpg, must be in a folder that has images under their own names:
    elsewhere, it may be a mask.
    """
    found: dict[str, Path | None] = {}
    for row in content["images"]:
        name = _file_name(row)
        with kept("same file name"):
            image_id = index.find(name, str(path))
            found[name] = None if image_id is None else place / image_id
    own = {name: file for name, file in found.items() if file and composed(file.name) == composed(Path(name).name)}
    folders = {file.parent for file in own.values()}
    bases = [file.parents[name.count("/")] for name, file in own.items() if file.as_posix().endswith(f"/{name}")]
    files = {}
    for name, file in found.items():
        if file is None or (folders and name not in own and file.parent not in folders):
            base = place.parent if name.startswith(f"{place.name}/") else place
            file = (bases[0] if bases else base) / name
        files[name] = file
    return files


def _check_inside(content: Mapping[str, Any], path: Path, place: Path, root: Path) -> None:
    """Refuse names of images that lead out of both the folder of the images and that of the data set."""
    for row in content["images"]:
        name = _file_name(row)
        target = Path(os.path.abspath(place / name))  # noqa: PTH100  links may lead elsewhere
        if ".." in name and not any(target.is_relative_to(os.path.abspath(folder)) for folder in (place, root)):  # noqa: PTH100
            raise DatasetError(
                f"{path} lists the image {shown(name)}, which is outside the data set. Correct its file_name."
            )


def _images(path: Path, content: Mapping[str, Any], place: Path, index: NameIndex, prefix: str) -> list[LabelledImage]:
    """The images of a json file with their objects; the path of a missing image is where it should be."""
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    objects: dict[Any, list[LabelledObject]] = {row["id"]: [] for row in content["images"]}
    for number, row in enumerate(content["annotations"]):
        where = f"{path}, annotation {row.get('id', number)}"
        with kept("wrong label"):
            for key, known in (("image_id", objects), ("category_id", names)):
                if row[key] not in known:
                    raise DatasetError(f"{where}: there is no {key.removesuffix('_id')} with the id {row[key]!r}.")
            objects[row["image_id"]].append(_object(row, names[row["category_id"]], where))
    entries: dict[str, LabelledImage] = {}
    files = _image_files(content, place, index, path)
    for row in content["images"]:
        name = _file_name(row)
        if name not in files:  # a problem that was kept
            continue
        with kept("same file name"):
            stem = composed(PurePosixPath(name).with_suffix("").as_posix())
            image_id = stem if stem.startswith(prefix) else prefix + stem
            if image_id in entries:
                raise DatasetError(
                    f"{path} lists the image {name!r} twice, or another one whose name differs in its suffix."
                )
            size = None
            with kept("wrong label"):
                size = stated_size(row.get("height"), row.get("width"), f"{path}, image {name!r}")
            entries[image_id] = LabelledImage(Record(image_id, files[name], path), objects[row["id"]], size)
    return list(entries.values())


def _object(row: Mapping[str, Any], name: str, where: str) -> LabelledObject:
    """An annotation. Where CVAT and datumaro write attributes, iscrowd only says that the outline is run lengths."""
    segmentation, box = row.get("segmentation"), row.get("bbox")
    try:
        left, top, width, height = (float(side) for side in box) if box else (0.0,) * 4
        if isinstance(segmentation, list):
            segmentation = [[float(number) for number in polygon] for polygon in segmentation]
        elif not isinstance(segmentation, dict | None):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"{where}: bbox must be four numbers, left, top, width and height, and segmentation lists of numbers or "
            f"run lengths; got {shown(box)} and {shown(row.get('segmentation'))}."
        ) from error
    return LabelledObject(
        name,
        (left, top, left + width, top + height) if box else None,
        where,
        CocoOutline(segmentation) if segmentation else None,
        bool(row.get("iscrowd")) and "attributes" not in row,
    )


def _present(entries: list[LabelledImage], name: str, unpaired: Unpaired) -> list[LabelledImage]:
    """The images that are there; see `unpaired`."""
    check_choice(unpaired, get_args(Unpaired), name="unpaired")
    missing = [entry for entry in entries if not is_there(entry.record.image)]
    present = [entry for entry in entries if is_there(entry.record.image)]
    if missing:
        text = f"{len(missing)} of {len(entries)} images in the json are not there, the first of them "
        text = f"{name}: {text}{missing[0].record.image}"
        is_kept = present and keep("label without image", [str(entry.record.image) for entry in missing])
        if not is_kept and (unpaired != "skip" or not present):
            raise MissingDataError(
                f"{text}. Export the data set with its images, pass their folder as ",
                Argument("images", ...),
                ", or leave them out: ",
                Argument("unpaired", "skip"),
                ".",
            )
        if not is_kept:
            warnings.warn(f"{text}; they are left out.", stacklevel=3)
    empty = [entry for entry in present if not entry.objects]
    if empty and not keep("image without labels", [str(entry.record.image) for entry in empty]) and unpaired != "empty":
        skip = spelled_twice(Argument("unpaired", "skip"))
        how = "left out" if unpaired == "skip" else f"taken as images without objects; {skip} leaves them out"
        warnings.warn(
            f"{name}: {len(empty)} of {len(present)} images have no annotations, the first of them "
            f"{empty[0].record.image}; they are {how}.",
            stacklevel=3,
        )
    return [entry for entry in present if entry.objects] if unpaired == "skip" else present
