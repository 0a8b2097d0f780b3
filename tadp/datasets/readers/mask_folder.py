"""Your own images and masks, in two folders."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError, Record
from tadp.datasets.readers.label_files import class_table, with_mask
from tadp.datasets.sample import IGNORE_LABEL, Sample
from tadp.errors import MissingDataError
from tadp.files.checks import check_classes
from tadp.images.reading import SUFFIXES


class MaskFolder(FolderDataset):
    """Images in one folder, masks of the same names in another: photos/a.jpg and masks/a.png.

    A mask is a picture with one channel or a palette. Its values are classes from 0, and 255 where the class is
    unknown. With two classes, a mask of only 0 and 255 causes a warning, once, because white is often meant to be the
    second class. Ids are file names without suffix, such as "a", as `tadp caption` writes them.

    Args:
        images: The folder of images.
        masks: The folder of masks, which are .png files.
        class_names: Names of the classes that the values index, including background if it is a class.
        captions: A `CaptionTable`, or a mapping from id to caption. None for samples without captions.
        on_error: The reaction to an image that cannot be read, "raise" or "skip"; see `FolderDataset`.

    Raises:
        MissingDataError: If a folder is missing or empty, or an image has no mask; the message says which.
        UnknownIdError: If an image has no caption.
        TypeError: If `class_names` is a single string.
        ValueError: If two images only differ in their suffix, or there are no class names, or more than 255.
    """

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        *,
        class_names: Sequence[str],
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        image_root, mask_root = Path(images), Path(masks)
        for folder in (image_root, mask_root):
            if not folder.is_dir():
                raise MissingDataError(f"no folder {folder}; pass the folder of images and then the folder of masks.")
        paths = sorted(path for path in image_root.iterdir() if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise MissingDataError(f"no images in {image_root}; it has no files that end in {', '.join(SUFFIXES)}.")
        class_names = tuple(check_classes(class_names, name="class_names"))
        if len(class_names) > IGNORE_LABEL:
            raise ValueError(
                f"a mask can have 1 to {IGNORE_LABEL} classes, as the value {IGNORE_LABEL} means unknown; got "
                f"{len(class_names)} names."
            )
        stems: dict[str, Path] = {}
        for path in paths:
            if path.stem in stems:
                raise ValueError(f"{stems[path.stem]} and {path} share a name, and so a mask; rename one of them.")
            stems[path.stem] = path
        self._has_warned = False
        self._table = class_table({value: value for value in (*range(len(class_names)), IGNORE_LABEL)})
        super().__init__(
            [Record(stem, path, mask_root / f"{stem}.png") for stem, path in stems.items()],
            name=image_root.name or str(image_root),
            advice=f"Each image needs a mask of the same name in {mask_root}: a.png for a.jpg. (JPEG is not suitable "
            "for masks, because it changes values.)",
            class_names=class_names,
            captions=captions,
            on_error=on_error,
        )

    def _label(self, sample: Sample, path: Path) -> Sample:
        labelled = with_mask(sample, path, self._table, name=self._name)
        if len(self.class_names) == 2 and not self._has_warned and _is_black_and_white(labelled):
            self._has_warned = True
            warnings.warn(
                f"{path} only has the values 0 and {IGNORE_LABEL}, and {IGNORE_LABEL} means unknown, so it has no "
                f"pixels of {self.class_names[1]!r}. If white is meant to be that class, write 1 instead.",
                stacklevel=4,
            )
        return labelled


def _is_black_and_white(sample: Sample) -> bool:
    return sample.mask is not None and np.unique(sample.mask).tolist() == [0, IGNORE_LABEL]
