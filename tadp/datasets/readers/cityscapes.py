"""Cityscapes, and the reader for all data sets in its form: 19 classes by train id."""

from pathlib import Path
from typing import Literal, get_args

from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError, Record, find_images, listing, require
from tadp.datasets.readers.label_files import class_table, with_mask
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
    that mask is read. Otherwise the mask of ids is read and converted to train ids.

    Args:
        root: The data set's folder.
        images: The subfolder of `root` with the images. The id of an image is its path below this folder.
        masks: The subfolder of `root` with the masks. It has the same subfolders as `images`.
        image_suffix: The end of the images' file names, such as "_leftImg8bit.png".
        mask_stem: The text that replaces `image_suffix` in the masks' file names, before labelTrainIds.png or
            labelIds.png, such as "_gtFine_".
        name: The data set's name, for messages.
        advice: A sentence that says how to get a missing file, for messages.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read: "raise" or "skip"; see `FolderDataset`.
    """

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
        listings: dict[Path, set[str]] = {}
        records = []
        for path in find_images(image_root, image_suffix):
            inside = path.relative_to(image_root)
            folder = mask_root / inside.parent
            stem = path.name.removesuffix(image_suffix) + mask_stem
            if folder not in listings:
                listings[folder] = listing(folder)
            kind = "labelTrainIds" if f"{stem}labelTrainIds.png" in listings[folder] else "labelIds"
            records.append(Record(inside.as_posix(), path, folder / f"{stem}{kind}.png"))
        super().__init__(
            records, name=name, advice=advice, class_names=CITYSCAPES_CLASSES, captions=captions, on_error=on_error
        )

    def _label(self, sample: Sample, path: Path) -> Sample:
        table = _OF_TRAIN_IDS if path.name.endswith("labelTrainIds.png") else _OF_IDS
        return with_mask(sample, path, table, name=self._name)


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
