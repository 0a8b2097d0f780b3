"""Your own images and masks, in two folders."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from tadp.datasets.readers.class_choice import check_alike
from tadp.datasets.readers.data_options import BadLabels, Palette
from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError
from tadp.datasets.readers.mask_values import MaskValues, of_one_size
from tadp.datasets.readers.paired_folders import Folder, Unpaired, pair_folders, shared_folder
from tadp.datasets.sample import IGNORE_LABEL, Sample
from tadp.files.checks import check_choice, check_classes
from tadp.images.image_files import LABEL_SUFFIXES
from tadp.language.grammar import counted


class MaskFolder(FolderDataset):
    """Your own images in one folder, and masks with the same names in another: photos/a.jpg and masks/a.png.

    A mask is a picture with one channel or a palette, of any bit depth. Each value in the file is the index of the
    pixel's class, counted from 0, or 255 where the class is unknown; `labels` changes what values mean. With
    `palette`, the colours of a mask say the class instead. If there are two classes, the first mask that only contains
    0 and 255 causes a warning, because in such masks 255 often means the second class.

    Image ids are paths below the folder of images without suffix, such as "a" or "street/a". Caption files written by
    the command `tadp caption` have the same ids. If all images are in folders named train, val (or valid, validation)
    and test, these are the `splits`.

    Args:
        images: The folder of images and of subfolders with images. Or a folder for each split by its name, as in
            {"train": "CamVid/train", "val": "CamVid/val"}; ids then begin with that name.
        masks: The folder of masks, with one PNG, PGM or TIFF file per image. Or a folder for each split.
        class_names: Names of the classes in the order of their indices, 1 to 255 names. Background needs a name too if
            the masks have it as a class.
        labels: The meanings of stored values that are not class indices: {11: 255} ignores pixels of value 11, and
            {255: 1} makes white pixels the second class. Values that it does not contain keep their meaning.
        palette: The colours of the classes, if masks are coloured pictures: one colour per class, or a mapping from
            colour to class name or index, or to 255 for unknown. A colour is (red, green, blue) or "#rrggbb".
        mask_suffix: The text after the image's name in the names of masks, such as "_mask" for a.jpg and a_mask.png;
            "" by default. Masks may then be in the folder of images.
        ids: The images to read: a sequence of ids or file names, or the path of a text file with one per line. None,
            the default, reads all.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.
        unpaired: What happens if images have no mask. "raise", the default, raises an error that names one; "skip"
            leaves them out with a warning. Masks without image are not used, with a warning.
        bad_labels: What happens to masks that differ from their image in size: "raise", the default, raises an error
            when such an image is read, and "skip" leaves these images out with a warning.
        resize_labels: Whether a mask of another size but the same shape as its image is scaled to the image. Each pixel
            gets the nearest value of the mask. False, the default, treats such masks as `bad_labels` says.

    Raises:
        MissingDataError: If a folder is missing or empty, or an image has no mask. The message says which.
        DatasetError: If two names only differ in case or blanks.
        UnknownIdError: If `captions` lacks the caption of an image.
        TypeError: If `class_names` is a single string.
        ValueError: If the names of two images differ only in their suffix, if `class_names` is empty or has more than
            255 names, or if `labels` or `palette` has a class that does not exist.
    """

    tasks = ("segmentation",)

    def __init__(
        self,
        images: Folder,
        masks: Folder,
        *,
        class_names: Sequence[str],
        labels: Mapping[int, int] | None = None,
        palette: Palette | None = None,
        mask_suffix: str = "",
        ids: Sequence[str] | str | Path | None = None,
        captions: Captions | None = None,
        on_error: OnError = "raise",
        unpaired: Unpaired = "raise",
        bad_labels: BadLabels = "raise",
        resize_labels: bool = False,
    ):
        pairs = pair_folders(
            images,
            masks,
            what="mask",
            label_suffixes=LABEL_SUFFIXES,
            label_end=mask_suffix,
            ids=ids,
            unpaired=unpaired,
        )
        if isinstance(class_names, Mapping):
            raise TypeError(
                "class_names must be a list of names by index, and palette or labels a mapping; got a dict."
            )
        names = tuple(check_classes(class_names, name="class_names"))
        if len(names) > IGNORE_LABEL:
            raise ValueError(
                f"a mask can have 1 to {IGNORE_LABEL} classes, as the value {IGNORE_LABEL} means unknown; got "
                f"{len(names)} names."
            )
        self._values = replace(MaskValues.of(names, labels, palette), resize=resize_labels)
        check_choice(bad_labels, get_args(BadLabels), name="bad_labels")
        self.resizes_labels = resize_labels
        self._may_be_white = len(names) == 2 and palette is None and IGNORE_LABEL not in (labels or {})
        root = shared_folder(images)
        files = {record.image_id: (record.image, record.labels or record.image) for record in pairs.records}
        present = set(files if bad_labels == "raise" else of_one_size(files, resize=resize_labels))
        records = [record for record in pairs.records if record.image_id in present]
        check_alike({label: label for label in names}, f"MaskFolder {root.name!r}", {})
        super().__init__(
            records,
            name=root.name or str(root),
            advice=f"Each image needs a mask of the same name: a{mask_suffix}.png for a.jpg. (JPEG is not suitable for "
            "masks, because it changes values.) If masks are called a_mask.png, pass mask_suffix='_mask' "
            "(--mask-suffix _mask). Pass unpaired='skip' (--unpaired skip) to leave out images without mask.",
            class_names=names,
            captions=captions,
            on_error=on_error,
            splits={part: [key for key in keys if key in present] for part, keys in pairs.splits.items()},
        )

    def __repr__(self) -> str:
        count = len(self.class_names)
        return (
            f"<MaskFolder {self._name!r}: {counted(len(self), 'image')}, masks of "
            f"{counted(count, 'class', plural='classes')}>"
        )

    def classes_in(self, image_id: str) -> set[str] | None:
        path = self.label_paths[image_id]
        if path is None:
            return None
        return {self.class_names[label] for label in self._values.labels_in(path, name=self._name)}

    def _label(self, sample: Sample, path: Path) -> Sample:
        labelled = replace(sample, mask=self._values.read(sample, path, name=self._name))
        if self._may_be_white and _is_black_and_white(labelled):
            self._warn_once(
                "black and white",
                f"{path} only has the values 0 and {IGNORE_LABEL}, and {IGNORE_LABEL} means unknown, so it has no "
                f"pixels of {self.class_names[1]!r}. If white is meant to be that class, write 1 instead, or pass "
                f"labels={{{IGNORE_LABEL}: 1}} (--labels {IGNORE_LABEL}=1).",
            )
        return labelled


def _is_black_and_white(sample: Sample) -> bool:
    return sample.mask is not None and np.unique(sample.mask).tolist() == [0, IGNORE_LABEL]
