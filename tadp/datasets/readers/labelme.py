"""Boxes and masks from the json files of labelme."""

import base64
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL.Image import DecompressionBombError

from tadp.captions.records import shown
from tadp.datasets.readers.class_choice import ClassNames
from tadp.datasets.readers.data_options import BadLabels, Unpaired
from tadp.datasets.readers.image_folder import Captions, Listings, OnError, Record
from tadp.datasets.readers.label_files import is_there, read_json_export, stated_size
from tadp.datasets.readers.label_problems import kept
from tadp.datasets.readers.labelled_objects import LabelledImage, LabelledObject, ObjectDataset, with_labels
from tadp.datasets.readers.outlines import Bitmap, Drawn, Group, Outline, Polygons
from tadp.datasets.readers.paired_folders import files_below, keyed, photographs, splits_of
from tadp.errors import DatasetError, ImageError, MissingDataError
from tadp.files.checks import read_lines, refuse_pointer
from tadp.language.unicode_forms import composed

# The last four are of masks, which are PNG files.
_SHAPE_ERRORS = (
    LookupError, TypeError, ValueError, OverflowError, OSError, SyntaxError, ImageError, DatasetError,
    DecompressionBombError,
)  # fmt: skip


class LabelmeFolder(ObjectDataset):
    """Your own polygons, rectangles, circles and masks in the json files of labelme, next to the images or elsewhere.

    Masks are drawn as labelme draws them: one shape after the other, so that a later shape is in front. 0 is background
    and k is `box_class_names[k - 1]`; shapes called "__ignore__" are 255 (unknown), and "_background_" is 0. Shapes of
    one name and group are one object. Points and lines have no area and are left out, with a warning.

    The names of classes are those in the json files, in alphabetical order, or in the order of a file labels.txt. Image
    ids are paths below the folder without suffix. If all images are in folders named train, val (or valid, validation)
    and test, these are the `splits`.

    Attributes:
        class_names: Names of the classes in masks: "background", then those of `box_class_names`.
        box_class_names: Names of the classes that the labels of boxes index.

    Args:
        root: The folder with json files, and images there or where the json files say.
        class_names: None, the default, takes all classes as they are named. A sequence has the classes in the order of
            their indices; objects of other classes are left out, with a warning. A mapping such as {"Dog": "dog"}
            renames classes; those with the name None are left out.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.
        unpaired: What happens to images without json file. "raise", the default, raises an error that names one. "skip"
            leaves them out with a warning, and "empty" takes them as images without objects. A json file whose image is
            not there is not used, with a warning.
        bad_labels: What happens to shapes outside their image: "raise", the default, raises an error that names the
            file, and "skip" leaves them out with a warning.

    Raises:
        MissingDataError: If no json files or images are found, or images have no json file.
        DatasetError: If a file is not of labelme, or two classes only differ in case or blanks.
        UnknownIdError: If `captions` lacks the caption of an image.

    Source:
        labelme's _label_file.py for the files and _utils/shape.py for masks.
    """

    smaller_in_front = False

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
        root = Path(root)
        name = f"LabelmeFolder {root.resolve().name!r}"
        files = labelme_files(root)
        if not files:
            raise MissingDataError(f"{name}: no json files of labelme were found in {root}.")
        content: dict[Path, dict[str, Any]] = {}
        shapes: dict[Path, list[LabelledObject]] = {}
        sizes: dict[Path, tuple[int, int] | None] = {}
        for path in files:
            with kept("wrong label"):
                content[path] = _read(path)
                sizes[path] = stated_size(content[path].get("imageHeight"), content[path].get("imageWidth"), str(path))
                shapes[path] = _objects(path, content[path])
        images = keyed(photographs(root), root)
        key_of = {composed(str(path.resolve())): key for key, path in images.items()}
        labels, listings = dict[str, Path](), Listings()
        for path in shapes:
            image = (path.parent / PurePosixPath(content[path]["imagePath"].replace("\\", "/"))).resolve()
            key = key_of.get(composed(str(image)))
            image = listings.find(image) or image
            if key is None and root.resolve().parent in image.parents and is_there(image):  # in another folder
                key = path.relative_to(root).with_suffix("").as_posix()
                images[key] = image
            first = labels.setdefault(key or str(path), path)
            with kept("same file name"):
                if first != path:
                    raise DatasetError(f"{first} and {path} are both labels of {image}. Remove one of them.")
        keys = with_labels(list(images), labels, images, kind="json file", name=name, unpaired=unpaired)
        entries = {key: shapes[labels[key]] for key in keys if key in labels}
        names = root / "labels.txt"
        lines = read_lines(names, of="class", error=DatasetError) if names.is_file() else []
        super().__init__(
            [
                LabelledImage(
                    Record(key, images[key], labels.get(key)),
                    entries.get(key, ()),
                    sizes[labels[key]] if key in labels else None,
                )
                for key in keys
            ],
            [*lines, *sorted({entry.name for objects in entries.values() for entry in objects})],
            name=name,
            class_names=class_names,
            captions=captions,
            on_error=on_error,
            bad_labels=bad_labels,
            splits=splits_of(keys),
        )


def labelme_files(root: Path) -> list[Path]:
    """The json files of labelme in a folder and its subfolders."""
    if not root.is_dir():
        return []
    paths = [path for path in files_below(root) if path.suffix.lower() == ".json"]
    for path in paths:
        refuse_pointer(path, DatasetError)
    return [path for path in paths if path.is_file() and b'"shapes"' in path.read_bytes()]


def _read(path: Path) -> dict[str, Any]:
    content = read_json_export(path)
    image = content.get("imagePath") if isinstance(content, dict) else None
    if not isinstance(image, str) or "\0" in image or not isinstance(content.get("shapes"), list):
        raise DatasetError(f"{path} must have shapes and imagePath, as json of labelme has. Save it again in labelme.")
    return content


def _objects(path: Path, content: Mapping[str, Any]) -> list[LabelledObject]:
    """The objects in a file; shapes of one name and group are one."""
    objects: list[LabelledObject] = []
    places: dict[tuple[str, Any], int] = {}
    for number, shape in enumerate(content["shapes"], 1):
        entry = _object(shape, f"{path}, shape {number}")
        group = (entry.name, shape.get("group_id"))
        if group[1] is None or group not in places or entry.flaw:
            places[group] = len(objects)
            objects.append(entry)
        else:
            first = objects[places[group]]
            parts = [outline for outline in (first.outline, entry.outline) if outline is not None]
            objects[places[group]] = first._replace(outline=Group(parts))
    return objects


def _object(shape: Any, where: str) -> LabelledObject:
    try:
        name, points = str(shape["label"]), np.asarray(shape["points"], np.float64).reshape(-1, 2)
        kind = shape.get("shape_type") or "polygon"
        outline = _outline(kind, points, shape.get("mask"))
        hash(shape.get("group_id"))
    except _SHAPE_ERRORS as error:
        raise DatasetError(
            f"{where}: a shape must have a label, points, and a mask if it is one; got {shown(shape)}."
        ) from error
    flaw = f"a shape must have an area; it is a {kind}" if outline is None else ""
    return LabelledObject(name, None, where, outline, flaw=flaw)


def _outline(kind: str, points: np.ndarray, mask: str | None) -> Outline | None:
    """The outline of a shape; None for shapes without area, such as a line."""
    if kind in ("polygon", "oriented_rectangle"):
        return Polygons([points])
    if kind == "rectangle":
        (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        return Drawn("rectangle", (left, top, right, bottom))
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points.tolist()
        radius = math.hypot(edge_x - x, edge_y - y)
        return Drawn("ellipse", (x - radius, y - radius, x + radius, y + radius))
    if kind == "mask":
        left, top = points[0].round().astype(int).tolist()
        return Bitmap(base64.b64decode(mask or ""), left, top)
    return None
