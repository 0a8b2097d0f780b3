"""ADE20K's scene parsing benchmark: 150 classes, in the folder ADEChallengeData2016."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError, Record, find_images, require
from tadp.datasets.readers.label_files import class_table, looks_shifted, read_mask, to_classes
from tadp.datasets.sample import IGNORE_LABEL, Sample
from tadp.files.checks import check_choice
from tadp.language.class_names import ADE20K_CLASSES

ADE20KSplit = Literal["training", "validation"]
_GET = (
    "Get ADEChallengeData2016.zip (ADE20K's scene parsing benchmark of 2016, from MIT) and unpack it so that "
    "{root}/images and {root}/annotations are there."
)
# In the files, 0 means none of the 150 classes, and value k means class k - 1.
_TABLE = class_table({0: IGNORE_LABEL, IGNORE_LABEL: IGNORE_LABEL} | {k: k - 1 for k in range(1, 151)})
_HIGHEST = 149  # of masks whose classes count from 0


class ADE20K(FolderDataset):
    """ADE20K for segmentation: 20,210 images to train on and 2,000 to validate, 150 classes.

    In ADE20K's mask files, 0 means "none of the 150 classes" and the classes are 1 to 150. In a sample, 0 becomes
    `IGNORE_LABEL` (255) and the classes are 0 to 149. Image ids are file names, such as "ADE_train_00000001.jpg". The
    paper's released code looks up captions by the same ids. A warning is given for the first mask whose classes seem to
    be 0 to 149 already.

    Args:
        root: The folder ADEChallengeData2016, with the subfolders images and annotations.
        split: The split to read, "training" (the default) or "validation". The folders
            "images" and "annotations" each have a subfolder with this name.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.

    Raises:
        MissingDataError: If a file or folder is missing. The message says how to get it.
        UnknownIdError: If `captions` lacks the caption of an image.

    Source:
        TADP's mm_configs/_base_/datasets/ade20k_vpd.py (`reduce_zero_label=True`).
    """

    tasks = ("segmentation",)

    def __init__(
        self,
        root: str | Path,
        *,
        split: ADE20KSplit = "training",
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        root = Path(root)
        check_choice(split, get_args(ADE20KSplit), name="split")
        advice = _GET.format(root=root)
        images = require(root / "images" / split, root=root, name="ADE20K", advice=advice)
        masks = require(root / "annotations" / split, root=root, name="ADE20K", advice=advice)
        super().__init__(
            [Record(path.name, path, masks / f"{path.stem}.png") for path in find_images(images, ".jpg")],
            name="ADE20K",
            advice=advice,
            class_names=ADE20K_CLASSES,
            captions=captions,
            on_error=on_error,
        )

    def _label(self, sample: Sample, path: Path) -> Sample:
        values = read_mask(sample, path)
        if looks_shifted(values, _HIGHEST):
            self._warn_once(
                "shifted",
                f"{path} has pixels of 255 and otherwise 0 to {_HIGHEST} at most, as if its classes were already "
                "shifted to count from 0. ADE20K's own masks have 1 to 150, and 0 for none of them; here 0 is ignored "
                "and every class moves down by one. Use the masks of ADEChallengeData2016.zip, or MaskFolder for "
                "these.",
            )
        return replace(sample, mask=to_classes(values, _TABLE, path, name=self._name))
