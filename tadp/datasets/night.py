"""Streets at night, labelled as Cityscapes is: the paper's target domains for a model that was trained there."""

from pathlib import Path
from typing import Literal

from tadp.datasets._captioned import Captions
from tadp.datasets.cityscapes import CityscapesForm
from tadp.datasets.folder import OnError, check_split


class DarkZurich(CityscapesForm):
    """The 50 validation images of Dark Zurich, 19 classes.

    Ids are paths below the split, "night/GOPR0356/GOPR0356_frame_000375_rgb_anon.png", as in the authors' caption file.

    Args:
        root: The folder with rgb_anon and gt.
        split: The annotations of "test" are not public, and "train" has none.
        captions: A `CaptionTable`, or a mapping from id to caption; None for none.
        on_error: As in `FolderDataset`.

    Raises:
        MissingDataError: If something is not there; the message says what to get.
        UnknownIdError: If an image has no caption.

    Source:
        TADP's mm_configs/_base_/datasets/cityscapes_to_darkzurich_512x512.py.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: Literal["val"] = "val",
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        check_split(split, ("val",))
        super().__init__(
            root,
            images=f"rgb_anon/{split}",
            masks=f"gt/{split}",
            image_suffix="_rgb_anon.png",
            mask_stem="_gt_",
            name="Dark Zurich",
            advice="Get Dark_Zurich_val_anon.zip (Dark Zurich of Sakaridis et al., from ETH Zurich) and unpack it so "
            f"that rgb_anon and gt are in {root}.",
            captions=captions,
            on_error=on_error,
        )


class NighttimeDriving(CityscapesForm):
    """The 50 test images of Nighttime Driving, 19 classes, coarsely labelled.

    Ids are paths below leftImg8bit/test, "night/0_frame_1824_leftImg8bit.png", as in the authors' caption file.

    Args:
        root: The folder NighttimeDrivingTest, with leftImg8bit and gtCoarse_daytime_trainvaltest.
        split: There is no other.
        captions: A `CaptionTable`, or a mapping from id to caption; None for none.
        on_error: As in `FolderDataset`.

    Raises:
        MissingDataError: If something is not there; the message says what to get.
        UnknownIdError: If an image has no caption.

    Source:
        TADP's mm_configs/_base_/datasets/cityscapes_to_nighttime_512x512.py.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: Literal["test"] = "test",
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        check_split(split, ("test",))
        super().__init__(
            root,
            images=f"leftImg8bit/{split}",
            masks=f"gtCoarse_daytime_trainvaltest/{split}",
            image_suffix="_leftImg8bit.png",
            mask_stem="_gtCoarse_",
            name="Nighttime Driving",
            advice="Get NighttimeDrivingTest.zip (Nighttime Driving of Dai and Van Gool, from ETH Zurich) and unpack "
            f"it so that leftImg8bit and gtCoarse_daytime_trainvaltest are in {root}.",
            captions=captions,
            on_error=on_error,
        )
