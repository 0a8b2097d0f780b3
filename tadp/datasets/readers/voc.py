"""Pascal VOC in its VOCdevkit folder: masks, including those of SBD, and boxes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from tadp.datasets.readers.image_folder import Captions, FolderDataset, Listings, OnError, Record, require
from tadp.datasets.readers.label_files import (
    XMLObject,
    check_label_size,
    class_table,
    read_list,
    read_objects,
    with_mask,
)
from tadp.datasets.sample import IGNORE_LABEL, Sample, sides
from tadp.errors import DatasetError, MissingDataError
from tadp.files.checks import check_choice, check_classes
from tadp.images.boxes import Boxes
from tadp.language.class_names import VOC_CLASSES

VOCSplit = Literal["train", "val", "trainval", "trainaug"]
VOCBoxSplit = Literal["train", "val", "trainval", "test"]

# VOC's own spelling, where the paper spells a class differently.
_SPELLED = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "tvmonitor": "television",
}
_GET = (
    "Get Pascal VOC 2012 (VOCtrainval_11-May-2012.tar, from the PASCAL VOC project) and unpack it so that "
    "{root}/JPEGImages is there."
)
_GET_LIST = (
    "It lists the 10,582 images of trainaug, one name per line. Copy it from datasets/trainaug.txt of the paper's "
    "released code, or put SBD's part of it as aug.txt next to train.txt."
)
_GET_MASKS = (
    "VOC comes with the masks of train and val. The masks that trainaug adds are from SBD (Semantic Boundaries "
    "Dataset). They are available as index pictures named SegmentationClassAug: unpack them to "
    "{root}/SegmentationClassAug."
)
_TABLE = class_table({value: value for value in (*range(21), IGNORE_LABEL)})


class PascalVOC(FolderDataset):
    """Pascal VOC 2012 for segmentation: 20 classes and the background, which is class 0.

    Image ids are file names without suffix, such as "2007_000032", as in the caption files of the paper's authors. If
    VOC has a mask of an image (in SegmentationClass), that mask is read. Otherwise the mask of SBD, the Semantic
    Boundaries Dataset, is read (in SegmentationClassAug).

    Args:
        root: The folder VOCdevkit/VOC2012, with JPEGImages, SegmentationClass and ImageSets/Segmentation.
        split: The split to read. "trainaug" (10,582 images, VOC's and SBD's) needs the list trainaug.txt in
            ImageSets/Segmentation, or the list aug.txt there next to train.txt.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.

    Raises:
        MissingDataError: If a file or folder is missing. The message says how to get it.
        UnknownIdError: If `captions` lacks the caption of an image.

    Source:
        TADP's datasets/VOCDataset.py for folders, lists and class names.

    Example:
        >>> data = PascalVOC("VOCdevkit/VOC2012", split="val")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        tadp.errors.MissingDataError: Pascal VOC needs VOCdevkit/VOC2012/JPEGImages, which is not there. Get ...
    """

    tasks = ("segmentation",)

    def __init__(
        self,
        root: str | Path,
        *,
        split: VOCSplit = "trainaug",
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        root = Path(root)
        check_choice(split, get_args(VOCSplit), name="split")
        images = require(root / "JPEGImages", root=root, name="Pascal VOC", advice=_GET.format(root=root))
        names = _segmentation_names(root, split)
        listings = Listings()
        records = [
            Record(
                name,
                images / f"{name}.jpg",
                listings.find(root / "SegmentationClass" / f"{name}.png")
                or root / "SegmentationClassAug" / f"{name}.png",
            )
            for name in names
        ]
        super().__init__(
            records,
            name="Pascal VOC",
            advice=_GET_MASKS.format(root=root),
            class_names=("background", *VOC_CLASSES),
            captions=captions,
            on_error=on_error,
        )

    def _label(self, sample: Sample, path: Path) -> Sample:
        labelled = with_mask(sample, path, _TABLE, name=self._name)
        if labelled.mask is not None and np.count_nonzero(labelled.mask == IGNORE_LABEL) > labelled.mask.size / 2:
            self._warn_once(
                "shifted",
                f"{path} is 255 in most places, which Pascal VOC only uses along outlines. Background must be 0, and "
                "classes 1 to 20; if they were shifted to count from 0, every class is now another. Use the masks that "
                "come with VOC and SBD.",
            )
        return labelled


class VOCBoxes(FolderDataset):
    """Boxes in the folder structure and XML of Pascal VOC, for any kind of images.

    In a sample, pixels are counted from 0, and the right and bottom sides of a box are exclusive. In the XML files,
    pixels are counted from 1 and all sides are inclusive, so left and top are reduced by 1. Objects marked as difficult
    are kept and marked in `Boxes.difficult`. Boxes that reach beyond their image are clipped; the first of them causes
    a warning.

    Args:
        root: A folder with JPEGImages, Annotations and ImageSets/Main.
        split: Name of the list of images to read: ImageSets/Main/<split>.txt.
        known: Names of all classes that occur in the annotations, in this package's spelling ("dining table" for VOC's
            "diningtable").
        class_names: Names of the classes that the labels index. Objects of other classes in `known` are left out.
        name: The data set's name, for error messages.
        advice: A sentence that says how to get a missing file, for error messages.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read: "raise" or "skip"; see `FolderDataset`.

    Raises:
        MissingDataError: If a file or folder is missing.
        ValueError: If a name in `class_names` is not a class of Pascal VOC or is listed twice, or none of the names is
            in `known`.
    """

    tasks = ("detection",)

    def __init__(
        self,
        root: str | Path,
        *,
        split: str,
        known: Sequence[str],
        class_names: Sequence[str],
        name: str,
        advice: str,
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        root = Path(root)
        _check_names(class_names, known, name)
        images = require(root / "JPEGImages", root=root, name=name, advice=advice)
        lines = read_list(require(root / "ImageSets/Main" / f"{split}.txt", root=root, name=name, advice=advice))
        names = [line.lstrip("/") for line in lines]
        self._known = tuple(known)
        super().__init__(
            [Record(stem, images / f"{stem}.jpg", root / "Annotations" / f"{stem}.xml") for stem in names],
            name=name,
            advice=advice,
            class_names=class_names,
            captions=captions,
            on_error=on_error,
        )

    @property
    def box_class_names(self) -> tuple[str, ...]:
        """Names of the classes that the labels of boxes index: `class_names`."""
        return self.class_names

    def _label(self, sample: Sample, path: Path) -> Sample:
        objects, size, _ = read_objects(path)
        if size is not None:
            check_label_size(sample, path, size, kind="an annotation")
        annotated = [self._converted(entry, f"{path}, object {number}", sample) for number, entry in enumerate(objects)]
        kept = [entry for entry in annotated if entry.name in self.class_names]
        boxes = Boxes(
            torch.tensor([entry.box for entry in kept], dtype=torch.float32).reshape(-1, 4),
            torch.tensor([self.class_names.index(entry.name) for entry in kept], dtype=torch.int64),
            torch.tensor([entry.is_difficult for entry in kept], dtype=torch.bool),
        )
        return replace(sample, boxes=boxes)

    def _converted(self, entry: XMLObject, where: str, sample: Sample) -> XMLObject:
        """Check an object, and convert it to this package's spelling and pixels."""
        name = _SPELLED.get(entry.name, entry.name)
        if name not in self._known:
            raise DatasetError(
                f"{where}: {entry.name!r} is not a class of {self._name}; its classes are {', '.join(self._known)}."
            )
        left, top, right, bottom = entry.box
        left, top = left - 1, top - 1
        height, width = sample.image_size
        if right <= left or bottom <= top:
            raise DatasetError(
                f"{where}: a box must have an area; got {entry.box} for xmin, ymin, xmax, ymax. Fix the file or remove "
                "the object from it."
            )
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            raise DatasetError(
                f"{where}: the box {entry.box} lies outside its image of {sides(sample.image_size)} (height x width). "
                "Get the annotation that belongs to this image."
            )
        inside = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        if inside != (left, top, right, bottom):
            self._warn_once(
                "clipped",
                f"{where}: the box {entry.box} reaches beyond its image of {sides(sample.image_size)} (height x "
                "width); it is clipped, and so are others. Pixels of these annotations count from 1; if a file counts "
                "from 0, its boxes are now one pixel off.",
            )
        return XMLObject(name, inside, entry.is_difficult)


class PascalVOCDetection(VOCBoxes):
    """Pascal VOC 2007 or 2012 for detection, 20 classes.

    The paper trains on the "trainval" splits of both years, `torch.utils.data.ConcatDataset([voc2012, voc2007])`, and
    tests on the "test" split of 2007.

    Args:
        root: The folder VOCdevkit/VOC2012 or VOCdevkit/VOC2007, with JPEGImages, Annotations and ImageSets/Main.
        split: The split to read. "test" only exists for 2007, because the annotations for 2012 are not public.
        class_names: Names of the classes that the labels index; all 20 by default. Objects of other classes are left
            out.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.

    Raises:
        MissingDataError: If a file or folder is missing. The message says how to get it.
        UnknownIdError: If `captions` lacks the caption of an image.
        ValueError: If a name in `class_names` is not a class of Pascal VOC, or is listed twice.

    Source:
        TADP's train_tadp.py for the splits; its datasets/datamodules.py for pixels that are counted from 0. (TADP's
        training reads the XML with torchvision and does not convert the coordinates.)
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: VOCBoxSplit = "trainval",
        class_names: Sequence[str] = VOC_CLASSES,
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        check_choice(split, get_args(VOCBoxSplit), name="split")
        super().__init__(
            root,
            split=split,
            known=VOC_CLASSES,
            class_names=class_names,
            name="Pascal VOC",
            advice="Get Pascal VOC 2012 or 2007 (VOCtrainval_11-May-2012.tar, VOCtrainval_06-Nov-2007.tar and "
            "VOCtest_06-Nov-2007.tar, from the PASCAL VOC project) and unpack them so that JPEGImages, Annotations "
            f"and ImageSets/Main are in {root}.",
            captions=captions,
            on_error=on_error,
        )


def _segmentation_names(root: Path, split: VOCSplit) -> list[str]:
    lists = root / "ImageSets" / "Segmentation"
    if split != "trainaug":
        advice = _GET.format(root=root)
        lines = read_list(require(lists / f"{split}.txt", root=root, name="Pascal VOC", advice=advice))
        return [line.lstrip("/") for line in lines]
    if (lists / "trainaug.txt").exists():
        # Some lists have two paths per line: /JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png
        return [Path(line.split()[0]).stem for line in read_list(lists / "trainaug.txt")]
    if (lists / "aug.txt").exists() and (lists / "train.txt").exists():
        lines = read_list(lists / "train.txt") + read_list(lists / "aug.txt")
        return list(dict.fromkeys(line.lstrip("/") for line in lines))
    raise MissingDataError(f"Pascal VOC needs {lists / 'trainaug.txt'}, which is not there. {_GET_LIST}")


def _check_names(class_names: Sequence[str], known: Sequence[str], name: str) -> None:
    for class_name in check_classes(class_names, name="class_names"):
        if class_name in _SPELLED:
            raise ValueError(
                f"class_names: {class_name!r} is spelled {_SPELLED[class_name]!r} here; pass that instead."
            )
        if class_name not in VOC_CLASSES:
            raise ValueError(
                f"class_names: {class_name!r} is not a class of Pascal VOC. Its classes are {', '.join(VOC_CLASSES)}."
            )
    if not set(class_names) & set(known):
        raise ValueError(f"class_names: {name} has none of {', '.join(class_names)}; it has {', '.join(known)}.")
