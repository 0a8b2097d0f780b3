"""Watercolor2k and Comic2k: six classes of Pascal VOC in drawings, in VOC's folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, get_args

from tadp.datasets.readers.image_folder import Captions, OnError
from tadp.datasets.readers.voc import VOCBoxes
from tadp.files.checks import check_choice
from tadp.language.class_names import COMIC_CLASSES, WATERCOLOR_CLASSES

CrossDomainSplit = Literal["train", "test"]
_GET = (
    "Get {name} of Inoue et al. (Cross-Domain Weakly-Supervised Object Detection, CVPR 2018; their repository "
    "cross-domain-detection has a script that fetches it) and unpack it so that JPEGImages, Annotations and "
    "ImageSets/Main are in {root}."
)


class _Drawings(VOCBoxes):
    """The reader that both data sets share."""

    own_classes: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        root: str | Path,
        *,
        split: CrossDomainSplit = "test",
        class_names: Sequence[str] | None = None,
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        check_choice(split, get_args(CrossDomainSplit), name="split")
        name = type(self).__name__
        super().__init__(
            root,
            split=split,
            known=self.own_classes,
            class_names=self.own_classes if class_names is None else class_names,
            name=name,
            advice=_GET.format(name=name, root=root),
            captions=captions,
            on_error=on_error,
        )


class Watercolor2k(_Drawings):
    """Watercolor2k: 1,000 watercolors to train on and 1,000 to test, with boxes.

    Image ids are file names without suffix, such as "43248445".

    Args:
        root: The folder `watercolor`, with JPEGImages, Annotations and ImageSets/Main.
        split: The split to read, "train" or "test" (the default, which the paper tests on).
        class_names: Names of the classes that the labels index; by default the data set's own six. Pass
            `tadp.language.class_names.VOC_CLASSES` to number the classes as in a detector that was trained on Pascal
            VOC.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.

    Raises:
        MissingDataError: If a file or folder is missing. The message says how to get it.
        UnknownIdError: If `captions` lacks the caption of an image.
        ValueError: If a name in `class_names` is not a class of Pascal VOC, or Watercolor2k has none of the classes.

    Source:
        TADP Sec. 4.3; datasets/datamodules.py and train_tadp.py in the paper's code.
    """

    own_classes = WATERCOLOR_CLASSES


class Comic2k(_Drawings):
    """Comic2k: 1,000 comics to train on and 1,000 to test, with boxes.

    Image ids are file names without suffix, such as "79182947".

    Args:
        root: The folder `comic`, with JPEGImages, Annotations and ImageSets/Main.
        split: The split to read, "train" or "test" (the default, which the paper tests on).
        class_names: Names of the classes that the labels index; by default the data set's own six. Pass
            `tadp.language.class_names.VOC_CLASSES` to number the classes as in a detector that was trained on Pascal
            VOC.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.

    Raises:
        MissingDataError: If a file or folder is missing. The message says how to get it.
        UnknownIdError: If `captions` lacks the caption of an image.
        ValueError: If a name in `class_names` is not a class of Pascal VOC, or Comic2k has none of the classes.

    Source:
        TADP Sec. 4.3; datasets/datamodules.py and train_tadp.py in the paper's code.
    """

    own_classes = COMIC_CLASSES
