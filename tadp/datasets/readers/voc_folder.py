"""Your own labels in the file layout of Pascal VOC, as labelling tools export it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tadp.captions.records import shown
from tadp.datasets.readers.class_choice import ClassNames, fixed_value
from tadp.datasets.readers.data_options import BadLabels, Palette, Unpaired
from tadp.datasets.readers.image_folder import Captions, OnError, Record, TaskName
from tadp.datasets.readers.label_files import Annotation, read_objects
from tadp.datasets.readers.label_problems import kept
from tadp.datasets.readers.labelled_objects import LabelledImage, LabelledObject, ObjectDataset, with_labels
from tadp.datasets.readers.mask_contents import palette_advice, palette_names
from tadp.datasets.readers.mask_values import MaskValues, of_one_size
from tadp.datasets.readers.outlines import Box
from tadp.datasets.readers.paired_folders import files_below, keyed, keyed_by_image, photographs, pictures, splits_of
from tadp.datasets.readers.splitting import NameIndex, find_listed, split_name
from tadp.datasets.sample import IGNORE_LABEL, Sample
from tadp.errors import Argument, DatasetError, MissingDataError
from tadp.files.checks import check_choice, read_lines
from tadp.language.unicode_forms import composed

_IMAGES = ("JPEGImages", "images", "Images")
_MASKS = ("SegmentationClass", "SegmentationClassPNG")
_BORDER = (224, 224, 192)  # VOC's colour of index 255


class VOCFolder(ObjectDataset):
    """Your own boxes, and masks where there are any, in the file layout of Pascal VOC, as labelling tools export it.

    The layout is JPEGImages (or images) with the images, Annotations with an XML file of the same name for each image,
    SegmentationClass with masks, and ImageSets/Main or ImageSets/Segmentation with a list of names for each split.
    Everything but images and labels may be missing, and XML files may also be next to the images or, without a folder
    Annotations, in any other folder. Splits are those of the lists train.txt, val.txt and test.txt, or of folders with
    these names.

    The names of classes are those in the XML files, in alphabetical order. A file labelmap.txt (CVAT) or
    class_names.txt (labelme) gives another order, and the colours or values of classes in masks.

    Pixels of boxes are counted from 0, and right and bottom are exclusive, as labelling tools write them. In files
    whose source is "The VOC… Database", pixels are counted from 1 and inclusive. Image ids are paths of images below
    their folder, without suffix. Boxes that extend beyond their image are clipped, and boxes without area are left
    out, each with a warning.

    Attributes:
        class_names: Names of the classes in masks: "background", then those of `box_class_names`.
        box_class_names: Names of the classes that the labels of boxes index.

    Args:
        root: The folder of the export.
        task: The task that the labels are for: "detection" takes the images with XML files, "segmentation" those with
            masks. None, the default, takes masks where all images have them, or where no XML file has an object.
        class_names: None, the default, takes all classes as they are named. A sequence has the classes in the order of
            their indices; objects of other classes are left out, with a warning. A mapping such as {"Dog": "dog"}
            renames classes; those with the name None are left out.
        labels: The meanings of values in masks that are not class indices; see `MaskFolder`.
        palette: The colours of the classes, if masks are coloured pictures and labelmap.txt does not name them; see
            `MaskFolder`. Without `class_names`, the classes are those of the palette.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.
        unpaired: What happens to images without labels. "raise", the default, raises an error that names one. "skip"
            leaves them out with a warning, and "empty" takes them as images without objects. Labels without image are
            not used, with a warning.
        bad_labels: What happens to boxes outside their image, and to images whose mask has another size: "raise", the
            default, raises an error that names the file, and "skip" leaves them out with a warning.
        resize_labels: Whether a mask of another size but the same shape as its image is scaled to the image; see
            `MaskFolder`. False, the default, treats such masks as `bad_labels` says.

    Raises:
        MissingDataError: If no images or labels are found, or images have no labels.
        DatasetError: If a box is wrong, or two classes only differ in case or blanks.
        UnknownIdError: If `captions` lacks the caption of an image.
    """

    warns_of_clipping = True

    def __init__(
        self,
        root: str | Path,
        *,
        task: TaskName | None = None,
        class_names: ClassNames | None = None,
        labels: Mapping[int, int] | None = None,
        palette: Palette | None = None,
        captions: Captions | None = None,
        on_error: OnError = "raise",
        unpaired: Unpaired = "raise",
        bad_labels: BadLabels = "raise",
        resize_labels: bool = False,
    ):
        root = Path(root)
        check_choice(task, (None, "detection", "segmentation"), name="task")
        name = f"VOCFolder {root.resolve().name!r}"
        images, annotations, masks = _files(root, name)
        read: dict[str, Annotation] = {}
        for key, path in annotations.items():
            with kept("wrong label"):
                read[key] = read_objects(path)
        stored = mask_classes(root) if labels is None and palette is None else {}
        is_named = isinstance(class_names, Sequence)
        if not is_named and not stored:
            stored = {label: number for number, label in enumerate(palette_names(palette))}
        reads_masks = _reads_masks(root, task, images, masks, read, has_names=bool(stored) or is_named, name=name)
        if reads_masks and not stored and class_names is not None:
            names = [label for label in class_names if fixed_value(label) is None]
            stored = {label: number for number, label in enumerate(("background", *names))}
        keys = _keys(root, images, "Segmentation" if task == "segmentation" else "Main")
        needed, kind = (masks, "mask") if reads_masks else (annotations, "XML file")
        keys = with_labels(keys, needed, images, kind=kind, name=name, unpaired=unpaired)
        if reads_masks and bad_labels == "skip":
            files = {key: (images[key], masks[key]) for key in keys if key in masks}
            fitting = of_one_size(files, resize=resize_labels)
            keys = [key for key in keys if key not in masks or key in fitting]
        entries = {key: _objects(annotations[key], read[key]) for key in keys if key in read}
        all_names = [*stored, *sorted({entry.name for objects in entries.values() for entry in objects})]
        super().__init__(
            [
                LabelledImage(
                    Record(key, images[key], needed.get(key)),
                    entries.get(key, ()),
                    read[key].size if key in read else None,
                )
                for key in keys
            ],
            all_names,
            name=name,
            class_names=class_names,
            captions=captions,
            on_error=on_error,
            bad_labels=bad_labels,
            splits=_splits(root, images, keys),
        )
        self._masks = {key: masks[key] for key in keys if key in masks} if reads_masks else {}
        has_boxes = any(entries.values()) and all(key in read for key in keys)
        tasks: list[TaskName] = ["detection"] if has_boxes or not reads_masks else []
        self.tasks = (*tasks, "segmentation") if reads_masks else ("detection",)
        self.resizes_labels = resize_labels
        self._values = None
        if reads_masks:
            meanings = _mask_values(stored, self._value, self.class_names)
            if labels is not None or palette is not None:
                if isinstance(palette, Mapping):
                    palette = {color: self._index_of_label(label) for color, label in palette.items()}
                meanings = MaskValues.of(self.class_names, labels, palette)
            self._values = replace(meanings, resize=resize_labels)

    def _index_of_label(self, label: int | str) -> int | str:
        """The value of a class of a palette, also after it got another name."""
        is_known = isinstance(label, str) and (label in self._index_of or fixed_value(label) is not None)
        return self._value(label) if is_known and isinstance(label, str) else label

    def classes_in(self, image_id: str) -> set[str] | None:
        path = self._masks.get(image_id)
        if path is None or self._values is None:
            return super().classes_in(image_id)
        return {self.class_names[label] for label in self._values.labels_in(path, name=self._name)}

    def _mask(self, entries: Sequence[tuple[LabelledObject, Box]], sample: Sample) -> np.ndarray | None:
        path = self._masks.get(sample.image_id)
        if self._values is None or path is None:
            return None if self._values is None else np.zeros(sample.image_size, np.int64)
        return self._values.read(sample, path, name=self._name)


def mask_classes(root: Path) -> dict[str, int | tuple[int, int, int]]:
    """The classes in a folder's labelmap.txt, with their colours, or class_names.txt, with their values; {} if neither.

    Raises:
        DatasetError: If a line of labelmap.txt is not a name and a colour.

    Source:
        CVAT writes "background:0,0,0::" (name, colour, parts, actions); labelme2voc writes a name per line.
    """
    if (root / "class_names.txt").is_file():
        names = _names(root / "class_names.txt")
        first = -1 if fixed_value(names[0]) == IGNORE_LABEL else 0  # labelme counts "__ignore__" as -1 and stores 255
        _check_once(names, root / "class_names.txt")
        return {name: value % 256 for value, name in enumerate(names, first)}
    path, classes = root / "labelmap.txt", {}
    for number, line in enumerate(_names(path) if path.is_file() else [], 1):
        name, _, rest = line.partition(":")
        if line.startswith("#"):
            continue
        try:
            red, green, blue = (int(part) for part in rest.partition(":")[0].split(","))
            if not all(0 <= part <= 255 for part in (red, green, blue)):
                raise ValueError
        except ValueError as error:
            raise DatasetError(
                f"{path}, line {number}: a line must be a name and a colour, as in 'cat:128,0,0::'; got {shown(line)}."
            ) from error
        _check_once([*classes, name.strip()], path)
        classes[name.strip()] = (red, green, blue)
    return classes


def _names(path: Path) -> list[str]:
    return [composed(line) for line in read_lines(path, of="class", error=DatasetError)]


def _check_once(names: Sequence[str], path: Path) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DatasetError(f"{path} lists the class {shown(twice)} twice, so it is unclear which masks show it.")


def _files(root: Path, name: str) -> tuple[dict[str, Path], dict[str, Path], dict[str, Path]]:
    """Images, XML files and masks by their path below their folder, without suffix."""
    if not root.is_dir():
        raise MissingDataError(f"{name}: no folder {root}.")
    image_root = next((root / folder for folder in _IMAGES if (root / folder).is_dir()), root)
    xml_root = root / "Annotations" if (root / "Annotations").is_dir() else root
    mask_root = next((root / folder for folder in _MASKS if (root / folder).is_dir()), None)
    images = keyed(photographs(image_root), image_root)
    annotations = keyed([path for path in files_below(xml_root) if path.suffix.lower() == ".xml"], xml_root)
    masks = (
        {} if mask_root is None else keyed([path for path in pictures(mask_root) if path.suffix == ".png"], mask_root)
    )
    if image_root == root:
        images = {key: path for key, path in images.items() if not key.startswith(("Segmentation", "Annotations"))}
    if not images:
        raise MissingDataError(f"{name}: no images were found in {image_root}.")
    if not annotations and not masks:
        raise MissingDataError(f"{name}: neither XML files in {xml_root} nor masks in SegmentationClass were found.")
    return images, keyed_by_image(annotations, images), keyed_by_image(masks, images)


def _reads_masks(
    root: Path,
    task: TaskName | None,
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    read: Mapping[str, Annotation],
    *,
    has_names: bool,
    name: str,
) -> bool:
    """Whether the data set has masks: those of all images, or the only labels."""
    has_objects = any(annotation.objects for annotation in read.values())
    if task == "segmentation" or (task is None and masks and not has_objects):
        if not masks:
            hint = " It has boxes: train detection with them (tadp train detection)." if has_objects else ""
            raise MissingDataError(f"{name} has no masks: no PNG files in {root / 'SegmentationClass'}.{hint}")
        if not has_names:
            advice = palette_advice(list(masks.values()))
            if advice:
                message = f" of {name} is not known: its masks are coloured pictures. {advice}"
                raise DatasetError("the ", Argument("palette"), message)
            raise DatasetError(
                f"{name} has masks in SegmentationClass, but no labelmap.txt or class_names.txt with class names. "
                "Pass ",
                Argument("class_names", ...),
                ", background and the names in the order of the values in masks.",
            )
        return True
    return task is None and has_names and masks.keys() >= images.keys()


def _lists(root: Path, folder: str) -> dict[str, Path]:
    """The lists in ImageSets, without those of a single class (cat_train.txt)."""
    folders = [root / "ImageSets" / name for name in dict.fromkeys((folder, "Main", "Segmentation"))]
    folder_of_lists = next((path for path in folders if any(path.glob("*.txt"))), None)
    return {path.stem: path for path in sorted(folder_of_lists.glob("*.txt"))} if folder_of_lists else {}


def _keys(root: Path, images: Mapping[str, Path], folder: str) -> list[str]:
    """The images to read: those in the lists of segmentation if there are such lists and masks are wanted, or all."""
    lists = _lists(root, folder) if folder == "Segmentation" and (root / "ImageSets" / folder).is_dir() else {}
    index = NameIndex(images)
    listed = {key for path in lists.values() for key in find_listed(path, index, "", str(root))}
    return [key for key in images if key in listed] or list(images)


def _splits(root: Path, images: Mapping[str, Path], keys: Sequence[str]) -> dict[str, list[str]]:
    """The ids in each split: of the lists named train, val and test, or else of the folders."""
    lists = {split_name(stem): path for stem, path in _lists(root, "Main").items() if split_name(stem)}
    if "train" not in lists:
        return splits_of(keys)
    index, kept = NameIndex(images), set(keys)
    return {
        split: [key for key in find_listed(path, index, "", str(root)) if key in kept]
        for split, path in lists.items()
        if split is not None
    }


def _objects(path: Path, annotation: Annotation) -> list[LabelledObject]:
    first = 1 if annotation.database.startswith("The VOC") else 0  # VOC counts pixels from 1, tools from 0
    return [
        LabelledObject(
            entry.name,
            (entry.box[0] - first, entry.box[1] - first, *entry.box[2:]),
            f"{path}, object {number}",
            is_difficult=entry.is_difficult,
        )
        for number, entry in enumerate(annotation.objects, 1)
    ]


def _mask_values(
    stored: Mapping[str, int | tuple[int, int, int]], value_of: Callable[[str], int], names: Sequence[str]
) -> MaskValues:
    """What the values or colours of the masks mean, once the classes are chosen."""
    colors = {key: value_of(label) for label, key in stored.items() if isinstance(key, tuple)}
    if colors:
        return MaskValues.of(names, palette={_BORDER: IGNORE_LABEL} | colors)
    return MaskValues.of(names, labels={key: value_of(label) for label, key in stored.items() if isinstance(key, int)})
