"""Data sets by name, for scripts and the command line.

data = open_dataset("voc", "VOCdevkit/VOC2012", split="val", captions="captions.db")
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tadp.captions import CaptionTable
from tadp.datasets.readers.ade20k import ADE20K
from tadp.datasets.readers.cityscapes import Cityscapes
from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError, TaskName
from tadp.datasets.readers.night import DarkZurich, NighttimeDriving
from tadp.datasets.readers.nyu import NYUDepthV2
from tadp.datasets.readers.voc import PascalVOC, PascalVOCDetection
from tadp.datasets.readers.watercolor_comic import Comic2k, Watercolor2k
from tadp.datasets.scenes.rendered import RenderedScenes
from tadp.errors import Argument, OptionError


@dataclass(frozen=True)
class NamedDataset:
    """What one of the names in `DATASETS` stands for: a data set's class and its splits.

    Attributes:
        kind: The class of the data set.
        train: Name of the split to train on; None if the data set is only for tests.
        test: Name of the split to test on.
    """

    kind: type[FolderDataset] | type[RenderedScenes]
    train: str | None
    test: str

    @property
    def tasks(self) -> tuple[TaskName, ...]:
        """The tasks that the data set has labels for."""
        return self.kind.tasks


# Seeds that tadp-tiny was not trained with. Its training used seed 0, and seed 1 to monitor it.
SCENE_SEEDS = {"train": 101, "test": 102}
SCENE_COUNTS = {"train": 2000, "test": 500}
DATASETS: dict[str, NamedDataset] = {
    "scenes": NamedDataset(RenderedScenes, "train", "test"),
    "voc": NamedDataset(PascalVOC, "trainaug", "val"),
    "voc-detection": NamedDataset(PascalVOCDetection, "trainval", "test"),
    "ade20k": NamedDataset(ADE20K, "training", "validation"),
    "nyu": NamedDataset(NYUDepthV2, "train", "test"),
    "cityscapes": NamedDataset(Cityscapes, "train", "val"),
    "dark-zurich": NamedDataset(DarkZurich, None, "val"),
    "nighttime-driving": NamedDataset(NighttimeDriving, None, "test"),
    "watercolor2k": NamedDataset(Watercolor2k, "train", "test"),
    "comic2k": NamedDataset(Comic2k, "train", "test"),
}


def open_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    split: str | None = None,
    captions: Captions | str | Path | None = None,
    on_error: OnError = "raise",
    **options: Any,
) -> Any:
    """Open a data set by its name.

    Args:
        name: A key of `DATASETS`.
        root: The data set's folder. None, the default, is only allowed for "scenes", which are rendered and need no
            folder.
        split: The split to read; None is the split to test on.
        captions: A `CaptionTable` or another mapping from image id to caption, or the path of a caption file. None
            gives samples without captions, except for "scenes", which have captions of their own.
        on_error: What happens if an image cannot be read: "raise" an error, or "skip" it and return the next readable
            image, with a warning; see `FolderDataset`.
        **options: Further arguments of the data set's class; for "scenes", these are `count`, `seed`, `style` and
            `size`.

    Raises:
        ValueError: If `name` or `split` is unknown, or `root` is missing.
        MissingDataError: If a file or folder is missing. The message says how to get it.
        UnknownIdError: If `captions` lacks the caption of an image.

    Example:
        >>> open_dataset("scenes", split="train", count=3)
        <rendered scenes: 3 images>
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}.")
    entry = DATASETS[name]
    split = split or entry.test
    if isinstance(captions, str | Path):
        captions = CaptionTable.open(captions)
    if name == "scenes":
        if split not in SCENE_SEEDS:
            raise ValueError(f"rendered scenes have the splits {', '.join(SCENE_SEEDS)}; got {split!r}.")
        options = {"count": SCENE_COUNTS[split], "seed": SCENE_SEEDS[split]} | options
        return RenderedScenes(options.pop("count"), options.pop("seed"), captions=captions, **options)
    if root is None:
        raise OptionError(f"{name} needs its folder; pass ", Argument("root", ...), ".")
    kind: Any = entry.kind
    return kind(root, split=split, captions=captions, on_error=on_error, **options)
