"""Streets at night, labelled as Cityscapes is: the paper's target domains for a model that was trained there."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tadp.datasets.readers.cityscapes import CityscapesForm
from tadp.datasets.readers.image_folder import Captions, OnError
from tadp.files.checks import check_choice


@dataclass(frozen=True)
class _Folders:
    """Where a set keeps its files, of its only split."""

    split: str
    images: str
    masks: str
    image_suffix: str
    mask_stem: str
    name: str
    advice: str


class _Night(CityscapesForm):
    """What the two have in common."""

    folders: ClassVar[_Folders]

    def __init__(
        self,
        root: str | Path,
        *,
        split: str | None = None,
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        here = self.folders
        check_choice(here.split if split is None else split, (here.split,), name="split")
        super().__init__(
            root,
            images=f"{here.images}/{here.split}",
            masks=f"{here.masks}/{here.split}",
            image_suffix=here.image_suffix,
            mask_stem=here.mask_stem,
            name=here.name,
            advice=f"{here.advice} and unpack it so that {here.images} and {here.masks} are in {root}.",
            captions=captions,
            on_error=on_error,
        )


class DarkZurich(_Night):
    """The 50 validation images of Dark Zurich, 19 classes.

    Ids are paths below the split, "night/GOPR0356/GOPR0356_frame_000375_rgb_anon.png", as in the authors' caption file.

    Args:
        root: The folder with rgb_anon and gt.
        split: "val" alone: the annotations of "test" are not public, and "train" has none.
        captions: A `CaptionTable`, or a mapping from id to caption; None for none.
        on_error: As in `FolderDataset`.

    Raises:
        MissingDataError: If something is not there; the message says what to get.
        UnknownIdError: If an image has no caption.

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

    Ids are paths below leftImg8bit/test, "night/0_frame_1824_leftImg8bit.png", as in the authors' caption file.

    Args:
        root: The folder NighttimeDrivingTest, with leftImg8bit and gtCoarse_daytime_trainvaltest.
        split: "test" alone.
        captions: A `CaptionTable`, or a mapping from id to caption; None for none.
        on_error: As in `FolderDataset`.

    Raises:
        MissingDataError: If something is not there; the message says what to get.
        UnknownIdError: If an image has no caption.

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
