"""Cityscapes, and what the data sets in its form share: 19 classes by train id."""

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
    """Images with masks of Cityscapes' classes, as ..._labelTrainIds.png or ..._labelIds.png in a second tree.

    Where the mask of train ids is there, it is read; else the mask of ids, which is mapped.

    Args:
        root: The data set's folder.
        images: Where the images are in it; ids are paths below that.
        masks: Where the masks are in it, in the same folders.
        image_suffix: What the images' names end in.
        mask_stem: What the masks' names have in its place, before labelTrainIds.png or labelIds.png.
        name: The data set's, for messages.
        advice: What to do where something is missing, for messages.
        captions: As in `FolderDataset`.
        on_error: As in `FolderDataset`.
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
        there: dict[Path, set[str]] = {}
        records = []
        for path in find_images(image_root, image_suffix):
            inside = path.relative_to(image_root)
            folder = mask_root / inside.parent
            stem = path.name.removesuffix(image_suffix) + mask_stem
            if folder not in there:
                there[folder] = listing(folder)
            kind = "labelTrainIds" if f"{stem}labelTrainIds.png" in there[folder] else "labelIds"
            records.append(Record(inside.as_posix(), path, folder / f"{stem}{kind}.png"))
        super().__init__(
            records, name=name, advice=advice, class_names=CITYSCAPES_CLASSES, captions=captions, on_error=on_error
        )

    def _label(self, sample: Sample, path: Path) -> Sample:
        table = _OF_TRAIN_IDS if path.name.endswith("labelTrainIds.png") else _OF_IDS
        return with_mask(sample, path, table, name=self._name)


class Cityscapes(CityscapesForm):
    """Cityscapes for segmentation: 2,975 images to train on and 500 to validate, 19 classes.

    Ids are paths below the split, "aachen/aachen_000000_000019_leftImg8bit.png", which the released code looks captions
    up by.

    Args:
        root: The folder with leftImg8bit and gtFine.
        split: The annotations of "test" are not public.
        captions: A `CaptionTable`, or a mapping from id to caption; None for none.
        on_error: As in `FolderDataset`.

    Raises:
        MissingDataError: If something is not there; the message says what to get.
        UnknownIdError: If an image has no caption.

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
