"""Images and masks of one's own, in two folders."""

from collections.abc import Sequence
from pathlib import Path

from tadp.datasets._captioned import Captions
from tadp.datasets._masks import class_table, with_mask
from tadp.datasets.folder import FolderDataset, OnError, Record
from tadp.datasets.sample import IGNORE_LABEL, Sample
from tadp.errors import MissingDataError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class MaskFolder(FolderDataset):
    """Images in one folder, masks of the same names in another: photos/a.jpg and masks/a.png.

    A mask is a picture of one channel, or of a palette, whose values are classes from 0, and 255 where there is none.
    Ids are names without suffix, "a", as `tadp caption` writes them.

    Args:
        images: The folder of images.
        masks: The folder of masks, .png.
        class_names: What the values count, background included if there is one.
        captions: A `CaptionTable`, or a mapping from id to caption; None for none.
        on_error: As in `FolderDataset`.

    Raises:
        MissingDataError: If a folder is not there or empty, or an image has no mask; the message says which.
        UnknownIdError: If an image has no caption.
        ValueError: If two images differ in nothing but their suffix.
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
                raise MissingDataError(f"no folder {folder}; pass the folder of images, then that of masks.")
        paths = sorted(path for path in image_root.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES)
        if not paths:
            raise MissingDataError(f"no images in {image_root}; it has no {', '.join(_IMAGE_SUFFIXES)}.")
        stems: dict[str, Path] = {}
        for path in paths:
            if path.stem in stems:
                raise ValueError(f"{stems[path.stem]} and {path} share a name, and so a mask; rename one.")
            stems[path.stem] = path
        self._table = class_table({value: value for value in (*range(len(class_names)), IGNORE_LABEL)})
        super().__init__(
            [Record(stem, path, mask_root / f"{stem}.png") for stem, path in stems.items()],
            name=f"masks of {image_root.name}",
            advice=f"Each image has a mask of its name in {mask_root}.",
            class_names=class_names,
            captions=captions,
            on_error=on_error,
        )

    def _label(self, sample: Sample, path: Path) -> Sample:
        return with_mask(sample, path, self._table, name=self._name)
