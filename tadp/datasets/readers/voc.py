"""Pascal VOC in its VOCdevkit folder: masks with SBD's further ones, and boxes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch

from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError, Record, listing, require
from tadp.datasets.readers.label_files import XMLObject, class_table, read_lines, read_objects, with_mask
from tadp.datasets.sample import IGNORE_LABEL, Sample, sides
from tadp.errors import DatasetError, MissingDataError
from tadp.files.checks import check_choice, check_classes
from tadp.images.boxes import Boxes
from tadp.language.class_names import VOC_CLASSES

VOCSplit = Literal["train", "val", "trainval", "trainaug"]
VOCBoxSplit = Literal["train", "val", "trainval", "test"]

# VOC's own spelling where the paper's differs.
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
    "It lists the 10,582 images of trainaug, a name a line; the paper's released code has it as datasets/trainaug.txt. "
    "Or keep SBD's part of it as aug.txt beside train.txt."
)
_GET_MASKS = (
    "VOC comes with the masks of train and val. Those that trainaug adds are from SBD (Semantic Boundaries Dataset), "
    "as the index pictures that go round as SegmentationClassAug: unpack them to {root}/SegmentationClassAug."
)
_TABLE = class_table({value: value for value in (*range(21), IGNORE_LABEL)})


class PascalVOC(FolderDataset):
    """Pascal VOC 2012 for segmentation: 20 classes and the background, which is class 0.

    Ids are names without suffix, "2007_000032", as in the authors' caption files. A mask is VOC's own
    (SegmentationClass) where there is one, and else SBD's (SegmentationClassAug).

    Args:
        root: The folder VOCdevkit/VOC2012, with JPEGImages, SegmentationClass and ImageSets/Segmentation.
        split: "trainaug" (10,582 images) needs ImageSets/Segmentation/trainaug.txt, or aug.txt beside train.txt.
        captions: A `CaptionTable`, or a mapping from id to caption; None for none.
        on_error: As in `FolderDataset`.

    Raises:
        MissingDataError: If something is not there; the message says what to get.
        UnknownIdError: If an image has no caption.

    Source:
        TADP's datasets/VOCDataset.py for folders, lists and names of classes.

    Example:
        >>> data = PascalVOC("VOCdevkit/VOC2012", split="val")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        tadp.errors.MissingDataError: Pascal VOC needs VOCdevkit/VOC2012/JPEGImages, which is not there. Get ...
    """

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
        own = listing(root / "SegmentationClass")
        records = [
            Record(
                name,
                images / f"{name}.jpg",
                root / ("SegmentationClass" if f"{name}.png" in own else "SegmentationClassAug") / f"{name}.png",
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
        return with_mask(sample, path, _TABLE, name=self._name)


class VOCBoxes(FolderDataset):
    """Boxes in the folders and the XML of Pascal VOC, whatever the pictures.

    In a sample, boxes count pixels from 0 with right and bottom exclusive; the XML's are 1-based and inclusive, so left
    and top become one less. Objects marked as difficult are kept, and marked.

    Args:
        root: A folder with JPEGImages, Annotations and ImageSets/Main.
        split: The list to read: ImageSets/Main/<split>.txt.
        known: All classes that its annotations name, in this package's spelling.
        class_names: Those that are wanted, in the order that labels count; objects of other known classes are left out.
        name: The data set's, for messages.
        advice: What to do where something is missing, for messages.
        captions: As in `FolderDataset`.
        on_error: As in `FolderDataset`.

    Raises:
        MissingDataError: If something is not there.
        ValueError: If a name in `class_names` is no class of Pascal VOC, stands twice, or none is in `known`.
    """

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
        names = read_lines(require(root / "ImageSets/Main" / f"{split}.txt", root=root, name=name, advice=advice))
        self._known = tuple(known)
        super().__init__(
            [Record(one, images / f"{one}.jpg", root / "Annotations" / f"{one}.xml") for one in names],
            name=name,
            advice=advice,
            class_names=class_names,
            captions=captions,
            on_error=on_error,
        )

    @property
    def box_class_names(self) -> tuple[str, ...]:
        """What the labels of boxes count: `class_names`."""
        return self.class_names

    def _label(self, sample: Sample, path: Path) -> Sample:
        read = enumerate(read_objects(path))
        found = [self._checked(item, f"{path}, object {number}", sample) for number, item in read]
        kept = [one for one in found if one.name in self.class_names]
        boxes = Boxes(
            torch.tensor([one.box for one in kept], dtype=torch.float32).reshape(-1, 4),
            torch.tensor([self.class_names.index(one.name) for one in kept], dtype=torch.int64),
            torch.tensor([one.is_difficult for one in kept], dtype=torch.bool),
        )
        return replace(sample, boxes=boxes)

    def _checked(self, item: XMLObject, where: str, sample: Sample) -> XMLObject:
        """The object in this package's spelling and pixels."""
        name = _SPELLED.get(item.name, item.name)
        if name not in self._known:
            raise DatasetError(
                f"{where}: {item.name!r} is no class of {self._name}; its classes are {', '.join(self._known)}."
            )
        left, top, right, bottom = item.box
        left, top = left - 1, top - 1
        height, width = sample.image_size
        if right <= left or bottom <= top:
            raise DatasetError(
                f"{where}: a box has an area; got xmin, ymin, xmax, ymax of {item.box}. Mend the file, or leave the "
                "object out of it."
            )
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            raise DatasetError(
                f"{where}: the box {item.box} lies outside its image of {sides(sample.image_size)} (height x width). "
                "Get the annotation that belongs to this image."
            )
        return XMLObject(name, (left, top, right, bottom), item.is_difficult)


class PascalVOCDetection(VOCBoxes):
    """Pascal VOC 2007 or 2012 for detection, 20 classes.

    The paper trains on both trainval splits, `torch.utils.data.ConcatDataset([voc2012, voc2007])`, and tests on
    2007's test.

    Args:
        root: The folder VOCdevkit/VOC2012 or VOCdevkit/VOC2007, with JPEGImages, Annotations and ImageSets/Main.
        split: "test" is 2007's; 2012's has no public annotations.
        class_names: The classes that are wanted, in the order that labels count; objects of others are left out.
        captions: A `CaptionTable`, or a mapping from id to caption; None for none.
        on_error: As in `FolderDataset`.

    Raises:
        MissingDataError: If something is not there; the message says what to get.
        UnknownIdError: If an image has no caption.
        ValueError: If a name in `class_names` is no class of Pascal VOC, or stands twice.

    Source:
        TADP's train_tadp.py for the splits, datasets/datamodules.py for pixels that count from 0. (Its training reads
        the XML with torchvision, and leaves the coordinates as they are.)
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
        return read_lines(require(lists / f"{split}.txt", root=root, name="Pascal VOC", advice=advice))
    if (lists / "trainaug.txt").exists():
        # Some lists have two paths a line: /JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png
        return [Path(line.split()[0]).stem for line in read_lines(lists / "trainaug.txt")]
    if (lists / "aug.txt").exists() and (lists / "train.txt").exists():
        return list(dict.fromkeys(read_lines(lists / "train.txt") + read_lines(lists / "aug.txt")))
    raise MissingDataError(f"Pascal VOC needs {lists / 'trainaug.txt'}, which is not there. {_GET_LIST}")


def _check_names(class_names: Sequence[str], known: Sequence[str], name: str) -> None:
    for one in check_classes(class_names, name="class_names"):
        if one not in VOC_CLASSES:
            hint = f"Here it is {_SPELLED[one]!r}." if one in _SPELLED else f"They are {', '.join(VOC_CLASSES)}."
            raise ValueError(f"class_names: {one!r} is no class of Pascal VOC. {hint}")
    if not set(class_names) & set(known):
        raise ValueError(f"class_names: none of {', '.join(class_names)} is in {name}; it has {', '.join(known)}.")
