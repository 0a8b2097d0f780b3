"""The data of a run: the parts to train on and to measure with, their captions, and facts about their labels."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from tadp import datasets
from tadp.captioner import Captioner
from tadp.captions import CaptionTable, Provenance
from tadp.datasets import IGNORE_LABEL, RenderedScenes, Sample
from tadp.datasets.readers.data_options import to_json
from tadp.datasets.readers.named import DATASETS, TaskName, open_dataset
from tadp.datasets.readers.opening import located
from tadp.datasets.scenes import Style
from tadp.datasets.transforms.augmented import SampleSource
from tadp.errors import Argument, OptionError, TrainingError
from tadp.files.progress import tracked
from tadp.tasks.predictions import label_of
from tadp.trainer.processes import Accelerator
from tadp.trainer.row_data import data_of_rows
from tadp.trainer.train_options import TrainOptions

_BLOCK, _SAMPLES = 4096, 16  # bytes of a block; images that count where there are no files

Captions = Mapping[str, str]
Open = Callable[[Captions | None], Any]  # opens a data set with captions, or without any for None


class Kept:
    """Samples of another data set, read on first access and then kept in memory.

    Args:
        data: The data set, with `image_ids` and class names.
        captions: Captions by image id; None for samples without captions.
    """

    def __init__(self, data: RenderedScenes, *, captions: Captions | None):
        self.class_names, self.box_class_names, self.room_names = (
            data.class_names,
            data.box_class_names,
            data.room_names,
        )
        self.image_ids = data.image_ids
        self._data = data
        self._texts = [None] * len(data) if captions is None else [captions[image_id] for image_id in self.image_ids]
        self._samples: list[Sample | None] = [None] * len(data)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self._samples[index]
        if sample is None:
            sample = self._samples[index] = replace(self._data[index], caption=self._texts[index])
        return sample


def scenes(count: int, *, seed: int, style: Style = "plain") -> Open:
    """A function that opens rendered scenes, kept in memory."""
    return lambda captions: Kept(RenderedScenes(count, seed=seed, style=style), captions=captions)


def with_captions(
    openers: Sequence[Open], table: Path, *, captioner: str | None, accelerator: Accelerator
) -> tuple[list[Any], str]:
    """Open data sets with captions. Missing captions are made first and kept in the table.

    Args:
        openers: Functions that open a data set. Each takes the captions by image id, or None for no captions.
        table: Path of the caption table.
        captioner: Name of the captioner that fills the table; None refuses a table that lacks captions.
        accelerator: The accelerator. Only its main process makes captions.

    Returns:
        The data sets, and the fingerprint of the captions of the first.
    """
    if accelerator.is_main_process:
        for opener in openers:
            _fill(opener(None), table, captioner, accelerator.device)
    accelerator.wait_for_everyone()
    captions = CaptionTable.open(table)
    data = [opener(captions) for opener in openers]
    return data, fingerprint(captions, data[0].image_ids)


def fingerprint(captions: Captions, image_ids: Sequence[str]) -> str:
    """A hash of the captions of these images, independent of their order and of the table's file."""
    pairs = sorted((image_id, captions[image_id]) for image_id in image_ids)
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def captioner_of(table: Path) -> str | None:
    """The captioner named in a table, or None if there is not exactly one."""
    with CaptionTable.open(table) as captions:
        names = {provenance.captioner if provenance else None for provenance in captions.provenances}
    return names.pop() if len(names) == 1 else None


def _fill(data: Any, path: Path, name: str | None, device: torch.device | str) -> None:
    missing = list(data.image_ids)
    if path.exists():
        with CaptionTable.open(path) as table:
            missing = table.missing(data.image_ids)
            if not missing:
                return
    if name is None:
        raise TrainingError(
            f"{path} has no caption for {len(missing)} of {len(data.image_ids)} images, such as {missing[0]!r}. Add "
            "them, or pass ",
            Argument("captioner", ...),
            ".",
        )
    captioner = Captioner.from_pretrained(name, device=str(device))
    paths = getattr(data, "image_paths", None)
    pairs = ((sample.image_id, sample.image) for sample in samples(data)) if paths is None else paths.items()
    with CaptionTable.create(path, provenance=Provenance.of(captioner)) as table:
        table.fill(tracked(pairs, len(data), what="captions", unit="image"), captioner)


def samples(data: SampleSource) -> Iterator[Sample]:
    """All samples, one by one. A data set may lack an iterator of its own."""
    return (data[index] for index in range(len(data)))


def largest_class(data: SampleSource, count: int) -> int:
    """The class with the most pixels.

    Args:
        data: Samples with masks.
        count: Number of classes.
    """
    totals = np.zeros(count, np.int64)
    for sample in samples(data):
        mask = label_of(sample, "mask")
        totals += np.bincount(mask[mask != IGNORE_LABEL], minlength=count)
    return int(totals.argmax())


def farthest(data: SampleSource, *, most: int = 200) -> float:
    """The largest known depth of a data set in metres, rounded up to two digits.

    Args:
        data: Samples with depth.
        most: Number of images that are read, from all over the data set.

    Raises:
        TrainingError: If no depth is known.
    """
    count = len(data)
    places = sorted(
        {round(place * (count - 1) / max(most - 1, 1)) for place in range(most)} if count > most else range(count)
    )
    depths = [label_of(data[place], "depth_m") for place in places]
    largest = max(
        (float(known.max()) for depth in depths if (known := depth[np.isfinite(depth) & (depth > 0)]).size), default=0.0
    )
    if not largest:
        raise TrainingError(f"no depth is known in the {len(places)} images that were read. Check the depth files.")
    digits = 10 ** (math.floor(math.log10(largest)) - 1)
    return float(f"{math.ceil(largest / digits - 1e-6) * digits:.2g}")


def mean_depths(data: SampleSource, *, farthest_m: float) -> tuple[float, np.ndarray | None]:
    """Average the known depths of a data set.

    Args:
        data: Samples with depth.
        farthest_m: Depth in metres from which on a pixel is left out.

    Returns:
        The mean of all known depths in metres and, if all images have one size, the mean at each pixel, (H, W);
        otherwise None.
    """
    total = count = None
    is_one_size = True
    overall, pixels = 0.0, 0
    for sample in samples(data):
        depth_m = label_of(sample, "depth_m")
        known = np.isfinite(depth_m) & (depth_m > 0) & (depth_m < farthest_m)
        depth = np.where(known, depth_m, 0).astype(np.float64)
        overall, pixels = overall + depth.sum(), pixels + known.sum()
        if total is None or count is None:
            total, count = np.zeros_like(depth), np.zeros(depth.shape)
        is_one_size = is_one_size and depth.shape == total.shape
        if is_one_size:
            total, count = total + depth, count + known
    mean = float(overall / pixels)
    if total is None or count is None or not is_one_size:
        return mean, None
    return mean, np.where(count > 0, total / np.maximum(count, 1), mean).astype(np.float32)


@dataclass(frozen=True)
class DataParts:
    """The parts of a data set.

    Attributes:
        name: The data set, in words.
        train: The part to train on.
        val: The part by which the run stops early.
        test: The part that is measured at the end, which is the same if the data have only two parts.
        measured: Name of that part.
        origin: How the data were opened, as JSON values.
    """

    name: str
    train: Any
    val: Any
    test: Any
    measured: str
    origin: dict[str, Any]

    @property
    def openers(self) -> list[Open]:
        """Functions that return the parts with given captions, each part once."""
        parts = [self.train, self.val, *([] if self.test is self.val else [self.test])]
        return [_opener(part) for part in parts]

    def with_captioned(self, parts: Sequence[Any]) -> "DataParts":
        """The same data with the parts that `openers` returned."""
        return DataParts(self.name, parts[0], parts[1], parts[-1], self.measured, self.origin)


def open_parts(task: str, data: Any, options: TrainOptions) -> DataParts:
    """Open a data set and split it.

    Args:
        task: The task, which the data must have labels for.
        data: The folder of a data set, the name of one, a data set itself, or rows of Hugging Face's `datasets`.
        options: The options of the run.

    Raises:
        TrainingError: If the data have no labels for the task.
        DatasetError, MissingDataError: If the data cannot be read or split.
    """
    if isinstance(data, str | Path) and is_named(data, options.root):
        return _named(task, str(data), options)
    opened = data_of_rows(task, data, options)
    if opened is data:
        opened = open_folder(data, task, options)
    tasks = getattr(opened, "tasks", (task,))
    if task not in tasks:
        known = " or ".join(tasks) or "none"
        raise TrainingError(f"{opened!r} has no labels for {task}; it has labels for {known}.")
    parts = datasets.split(opened, **options.split_arguments)
    parts = {name: _limited(part, options) for name, part in parts.items()}
    held_out = [name for name in ("val", "test") if name in parts]
    if "train" not in parts or not held_out:
        raise TrainingError(f"a run needs the parts train and val, or train and test; got {', '.join(parts)}.")
    measured, train = held_out[-1], parts["train"]
    if task == "detection" and isinstance(train, datasets.CocoDataset):
        train = train.without_crowds()  # a box around many objects is not an object to learn
    origin = {
        "data": str(Path(data).resolve()) if isinstance(data, str | Path) else None,
        "reader": {name: to_json(value) for name, value in _located(data, options).items()},
        "images": len(opened.image_ids),
        "train": digest(train.image_ids),
        "contents": contents(parts.values()),
        "held_out": list(parts[measured].image_ids),
        "trained": list(train.image_ids),
    }
    return DataParts(repr(opened).strip("<>"), train, parts[held_out[0]], parts[measured], measured, origin)


def _limited(part: Any, options: TrainOptions) -> Any:
    """A part of the data with at most as many images as the limit, in their order."""
    if options.limit is None or len(part) <= options.limit:
        return part
    drawn = np.random.default_rng(options.split_seed).choice(len(part), options.limit, replace=False)
    return part.subset([part.image_ids[index] for index in sorted(drawn.tolist())])


def is_named(data: str | Path, root: Path | None) -> bool:
    """Whether `data` is the name of a data set rather than a folder."""
    return str(data) in DATASETS and (root is not None or not Path(data).exists())


def _located(data: Any, options: TrainOptions) -> dict[str, Any]:
    return located(Path(data), options.chosen) if isinstance(data, str | Path) else options.chosen


def open_folder(data: Any, task: str, options: TrainOptions) -> Any:
    """Open the data set in a folder; a data set is returned as it is.

    Args:
        data: The folder, or a data set.
        task: The task, where a folder has labels of several kinds.
        options: The options of the run, with those of the reader.
    """
    if not isinstance(data, str | Path):
        options.refuse("a data set that is open")
        return data
    return datasets.open(
        data, task=cast(TaskName, task), on_error="skip" if options.skip_broken else "raise", **options.chosen
    )


def digest(image_ids: Sequence[str]) -> str:
    """A hash of image ids, in their order."""
    return hashlib.sha256(json.dumps(list(image_ids)).encode()).hexdigest()[:16]


def contents(parts: Iterable[Any]) -> dict[str, str]:
    """A hash of the images of data sets, and one of their labels, by which a change is noticed.

    Of each file, the size and three blocks count, because a compressed file that changes anywhere has other last bytes.
    Of images without files, such as rows of a table, a few samples count.

    Args:
        parts: The data sets.
    """
    images, labels = hashlib.sha256(), hashlib.sha256()
    for part in parts:
        paths = getattr(part, "image_paths", None)
        if isinstance(paths, dict):
            images.update(_blocks(paths.values()))
            labels.update(_blocks(part.label_paths.values()))
            continue
        for place in range(0, len(part), max(1, len(part) // _SAMPLES)):
            sample = part[place]
            images.update(sample.image.tobytes())
            boxes = None if sample.boxes is None else (sample.boxes.boxes, sample.boxes.labels)
            for values in (sample.mask, sample.depth_m, *(boxes or ())):
                labels.update(b"" if values is None else np.asarray(values).tobytes())
    return {"images": images.hexdigest()[:16], "labels": labels.hexdigest()[:16]}


def _blocks(paths: Iterable[Path | None]) -> bytes:
    """A hash of the sizes of files, and of a block at the beginning, in the middle and at the end of each."""
    total = hashlib.sha256()
    for path in dict.fromkeys(path for path in paths if path is not None):
        with suppress(OSError):  # the reader reports a file that cannot be read
            size = path.stat().st_size if path.is_file() else 0  # reading a named pipe would wait
            total.update(f"{size} ".encode())
            if size:
                with path.open("rb") as file:
                    for start in sorted({0, max(0, size - _BLOCK) // 2, max(0, size - _BLOCK)}):
                        file.seek(start)
                        total.update(file.read(_BLOCK))
    return total.digest()


def _named(task: str, name: str, options: TrainOptions) -> DataParts:
    """A data set of the paper. Its split to test on is measured, and a fraction of the rest stops the run early."""
    entry = DATASETS[name]
    if task not in entry.tasks or entry.train is None:
        raise TrainingError(f"{name} cannot train {task}. Pass another ", Argument("data", ...), " or task.")
    options.refuse(f"{name}, which is read as published")
    if options.limit is not None:
        raise OptionError(Argument("limit"), f" is for data of your own; {name} is read as published. Leave it out.")
    on_error = "skip" if options.skip_broken else "raise"
    train = open_dataset(name, options.root, split=entry.train, on_error=on_error)
    test = open_dataset(name, options.root, split=entry.test)
    val = test
    if options.patience:
        parts = datasets.split(train, fraction=options.fraction, seed=options.split_seed)
        train, val = parts["train"], parts["val"]
    origin = {
        "data": name,
        "root": options.root and str(options.root.resolve()),
        "split": entry.test,
        "train": digest(train.image_ids),
        "contents": contents([train, test]),
    }
    return DataParts(name, train, val, test, entry.test, origin)


def _opener(part: Any) -> Open:
    def opened(captions: Captions | None) -> Any:
        return part if captions is None else part.with_captions(captions)

    return opened
