"""Streets at night with Cityscapes' classes: the paper's target domains for models trained on Cityscapes."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tadp.datasets.readers.cityscapes import CityscapesForm
from tadp.datasets.readers.image_folder import Captions, OnError
from tadp.files.checks import check_choice


@dataclass(frozen=True)
class _Folders:
    """The folders and file names of a data set with a single split."""

    split: str
    images: str
    masks: str
    image_suffix: str
    mask_stem: str
    name: str
    advice: str


class _Night(CityscapesForm):
    """The reader that both data sets share."""

    folders: ClassVar[_Folders]

    def __init__(
        self,
        root: str | Path,
        *,
        split: str | None = None,
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        folders = self.folders
        check_choice(folders.split if split is None else split, (folders.split,), name="split")
        super().__init__(
            root,
            images=f"{folders.images}/{folders.split}",
            masks=f"{folders.masks}/{folders.split}",
            image_suffix=folders.image_suffix,
            mask_stem=folders.mask_stem,
            name=folders.name,
            advice=f"{folders.advice} and unpack it so that {folders.images} and {folders.masks} are in {root}.",
            captions=captions,
            on_error=on_error,
        )


class DarkZurich(_Night):
    """The 50 validation images of Dark Zurich, 19 classes.

    Image ids are paths below the split's folder, such as "night/GOPR0356/GOPR0356_frame_000375_rgb_anon.png", as in the
    caption file of the paper's authors.

    Args:
        root: The folder of the data set, with the subfolders rgb_anon and gt.
        split: The split to read, which can only be "val". The annotations of "test" are not public, and "train" has
            none.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.

    Raises:
        MissingDataError: If a file or folder is missing. The message says how to get it.
        UnknownIdError: If `captions` lacks the caption of an image.

    Source:
        TADP's mm_configs/_base_/datasets/cityscapes_to_darkzurich_512x512.py.
    """

    folders = _Folders(
        split="val",
        images="rgb_anon",
        masks="gt",
        image_suffix="_rgb_anon.png",
        mask_stem="_gt_",
        name="Dark Zurich",
        advice="Get Dark_Zurich_val_anon.zip (Dark Zurich of Sakaridis et al., from ETH Zurich)",
    )


class NighttimeDriving(_Night):
    """The 50 test images of Nighttime Driving, 19 classes, coarsely labelled.

    Image ids are paths below leftImg8bit/test, such as "night/0_frame_1824_leftImg8bit.png", as in the caption file of
    the paper's authors.

    Args:
        root: The folder NighttimeDrivingTest, with the subfolders leftImg8bit and gtCoarse_daytime_trainvaltest.
        split: The split to read, which can only be "test".
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.

    Raises:
        MissingDataError: If a file or folder is missing. The message says how to get it.
        UnknownIdError: If `captions` lacks the caption of an image.

    Source:
        TADP's mm_configs/_base_/datasets/cityscapes_to_nighttime_512x512.py.
    """

    folders = _Folders(
        split="test",
        images="leftImg8bit",
        masks="gtCoarse_daytime_trainvaltest",
        image_suffix="_leftImg8bit.png",
        mask_stem="_gtCoarse_",
        name="Nighttime Driving",
        advice="Get NighttimeDrivingTest.zip (Nighttime Driving of Dai and Van Gool, from ETH Zurich)",
    )
