"""Your own images and masks, in two folders."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError, Record
from tadp.datasets.readers.label_files import class_table, with_mask
from tadp.datasets.sample import IGNORE_LABEL, Sample
from tadp.errors import MissingDataError
from tadp.files.checks import check_classes
from tadp.images.image_files import LABEL_SUFFIXES, SUFFIXES, is_image
from tadp.language.unicode_forms import composed


class MaskFolder(FolderDataset):
    """Your own images in one folder, and masks with the same names in another: photos/a.jpg and masks/a.png.

    A mask is a picture with one channel or a palette, of any bit depth. Each value in the file is the index of the
    pixel's class, counted from 0, or 255 where the class is unknown. If there are two classes, the first mask that only
    contains 0 and 255 causes a warning, because in such masks 255 often means the second class. Image ids are file
    names without their suffix, such as "a". Caption files written by the command `tadp caption` have the same ids.

    Args:
        images: The folder of images.
        masks: The folder of masks, with one PNG, PGM or TIFF file per image.
        class_names: Names of the classes in the order of their indices, 1 to 255 names. Background needs a name too if
            the masks have it as a class.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.

    Raises:
        MissingDataError: If a folder is missing or empty, or an image has no mask. The message says which.
        UnknownIdError: If `captions` lacks the caption of an image.
        TypeError: If `class_names` is a single string.
        ValueError: If the names of two images differ only in their suffix, or if there are no class names or more than
            255.
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
        paths = _pictures(image_root, is_image)
        if not paths:
            raise MissingDataError(f"no images in {image_root}; it has no files that end in {', '.join(SUFFIXES)}.")
        class_names = tuple(check_classes(class_names, name="class_names"))
        if len(class_names) > IGNORE_LABEL:
            raise ValueError(
                f"a mask can have 1 to {IGNORE_LABEL} classes, as the value {IGNORE_LABEL} means unknown; got "
                f"{len(class_names)} names."
            )
        stems = _by_stem(paths, "and so a mask; rename one of them")
        masks_of = _by_stem(_pictures(mask_root, _is_label), "and so an image; remove one of them")
        self._table = class_table({value: value for value in (*range(len(class_names)), IGNORE_LABEL)})
        super().__init__(
            [
                Record(path.stem, path, masks_of.get(stem, mask_root / f"{path.stem}.png"))
                for stem, path in stems.items()
            ],
            name=image_root.name or str(image_root),
            advice=f"Each image needs a mask of the same name in {mask_root}: a.png for a.jpg. (JPEG is not suitable "
            "for masks, because it changes values.)",
            class_names=class_names,
            captions=captions,
            on_error=on_error,
        )

    def _label(self, sample: Sample, path: Path) -> Sample:
        labelled = with_mask(sample, path, self._table, name=self._name)
        if len(self.class_names) == 2 and _is_black_and_white(labelled):
            self._warn_once(
                "black and white",
                f"{path} only has the values 0 and {IGNORE_LABEL}, and {IGNORE_LABEL} means unknown, so it has no "
                f"pixels of {self.class_names[1]!r}. If white is meant to be that class, write 1 instead.",
            )
        return labelled


def _is_label(path: Path) -> bool:
    return path.suffix.lower() in LABEL_SUFFIXES


def _pictures(folder: Path, is_wanted: Callable[[Path], bool]) -> list[Path]:
    """The files in a folder that have a wanted suffix, without hidden ones, which macOS puts next to others."""
    paths = filter(is_wanted, folder.iterdir())
    return sorted(path for path in paths if not path.name.startswith(".") and not path.is_dir())


def _by_stem(paths: Iterable[Path], problem: str) -> dict[str, Path]:
    """Files by their name without suffix; two that share it are refused."""
    stems: dict[str, Path] = {}
    for path in paths:
        stem = composed(path.stem)
        if stem in stems:
            raise ValueError(f"{stems[stem]} and {path} share a name, {problem}.")
        stems[stem] = path
    return stems


def _is_black_and_white(sample: Sample) -> bool:
    return sample.mask is not None and np.unique(sample.mask).tolist() == [0, IGNORE_LABEL]
