"""Cityscapes, and the reader for all data sets in its form: 19 classes by train id."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from tadp.datasets.readers.image_folder import Captions, FolderDataset, Listings, OnError, Record, find_images, require
from tadp.datasets.readers.label_files import class_table, looks_shifted, read_mask, to_classes, with_mask
from tadp.datasets.sample import IGNORE_LABEL, Sample
from tadp.files.checks import check_choice
from tadp.language.class_names import CITYSCAPES_CLASSES

CityscapesSplit = Literal["train", "val"]
# Ids of the classes that are evaluated, in the order of their train ids: cityscapesScripts, helpers/labels.py.
_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_OF_IDS = class_table(
    dict.fromkeys((*range(34), IGNORE_LABEL), IGNORE_LABEL) | {value: k for k, value in enumerate(_IDS)}
)
_OF_TRAIN_IDS = class_table({value: value for value in (*range(19), IGNORE_LABEL)})


class CityscapesForm(FolderDataset):
    """Images and masks in Cityscapes' file layout, with Cityscapes' 19 classes.

    Masks are in a folder tree of their own and are named ..._labelTrainIds.png or ..._labelIds.png. Train ids are
    Cityscapes' numbers 0 to 18 of the 19 classes that its benchmark evaluates. If an image has a mask of train ids,
    that mask is read. Otherwise the mask of ids is read and converted to train ids. A warning is given for the first
    mask of ids that seems to contain train ids already.

    Args:
        root: The data set's folder.
        images: The subfolder of `root` with the images. The id of an image is its path below this folder.
        masks: The subfolder of `root` with the masks. It has the same subfolders as `images`.
        image_suffix: The end of the images' file names, such as "_leftImg8bit.png".
        mask_stem: The text that replaces `image_suffix` in the masks' file names, before labelTrainIds.png or
            labelIds.png, such as "_gtFine_".
        name: The data set's name, for error messages.
        advice: A sentence that says how to get a missing file, for error messages.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read: "raise" or "skip"; see `FolderDataset`.
    """

    tasks = ("segmentation",)

    def __init__(
        self,
        root: str | Path,
        *,
        images: str,
        masks: str,
        image_suffix: str,
        mask_stem: str,
        name: str,
        advice: str,
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        root = Path(root)
        image_root = require(root / images, root=root, name=name, advice=advice)
        mask_root = require(root / masks, root=root, name=name, advice=advice)
        listings, records = Listings(), []
        for path in find_images(image_root, image_suffix):
            inside = path.relative_to(image_root)
            folder = mask_root / inside.parent
            stem = path.name.removesuffix(image_suffix) + mask_stem
            kind = "labelIds" if listings.find(folder / f"{stem}labelTrainIds.png") is None else "labelTrainIds"
            records.append(Record(inside.as_posix(), path, folder / f"{stem}{kind}.png"))
        super().__init__(
            records, name=name, advice=advice, class_names=CITYSCAPES_CLASSES, captions=captions, on_error=on_error
        )

    def _label(self, sample: Sample, path: Path) -> Sample:
        if path.name.endswith("labelTrainIds.png"):
            return with_mask(sample, path, _OF_TRAIN_IDS, name=self._name)
        values = read_mask(sample, path)
        mask = to_classes(values, _OF_IDS, path, name=self._name)
        # Without 255 too: with train ids, most pixels become unknown. Pictures without labels only have 0 to 3.
        is_unknown = 3 < values.max() < len(_IDS) and np.count_nonzero(mask == IGNORE_LABEL) > mask.size / 2
        if is_unknown or looks_shifted(values, len(_IDS) - 1):
            self._warn_once(
                "train ids",
                f"{path} has pixels of 255 or few known classes, and otherwise 0 to {len(_IDS) - 1} at most, as if it "
                "held train ids. By its name it holds ids, which are now mapped to train ids, a second time. Rename "
                f"such files to {path.name.replace('labelIds', 'labelTrainIds')}, or download the masks again.",
            )
        return replace(sample, mask=mask)


class Cityscapes(CityscapesForm):
    """Cityscapes for segmentation: 2,975 images to train on and 500 to validate, 19 classes.

    Image ids are paths below the split's folder, such as "aachen/aachen_000000_000019_leftImg8bit.png". The paper's
    released code looks up captions by the same ids.

    Args:
        root: The folder of the data set, with the subfolders leftImg8bit and gtFine.
        split: The split to read, "train" (the default) or "val". There is no "test", because its annotations are not
            public.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.

    Raises:
        MissingDataError: If a file or folder is missing. The message says how to get it.
        UnknownIdError: If `captions` lacks the caption of an image.

    Source:
        TADP's mm_configs/_base_/datasets/cityscapes_half_512x512.py.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: CityscapesSplit = "train",
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        check_choice(split, get_args(CityscapesSplit), name="split")
        super().__init__(
            root,
            images=f"leftImg8bit/{split}",
            masks=f"gtFine/{split}",
            image_suffix="_leftImg8bit.png",
            mask_stem="_gtFine_",
            name="Cityscapes",
            advice="Get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip (from the Cityscapes project, after "
            f"registration) and unpack them so that leftImg8bit and gtFine are in {root}.",
            captions=captions,
            on_error=on_error,
        )
