"""The data of a run: the parts to train on and to measure with, and how to find the same parts again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tadp import datasets
from tadp.datasets.readers.named import DATASETS, open_dataset
from tadp.errors import Argument, TrainingError
from tadp.trainer.captioned_data import Captions, Open
from tadp.trainer.train_options import TrainOptions

_KEPT_IN_MEMORY = ("scenes",)  # rendering them again in each epoch would take longer than the training


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
        data: The folder of a data set, the name of one, or a data set itself.
        options: The options of the run.

    Raises:
        TrainingError: If the data have no labels for the task.
        DatasetError, MissingDataError: If the data cannot be read or split.
    """
    if isinstance(data, str | Path) and is_named(data, options.root):
        return _named(task, str(data), options)
    opened = open_folder(data, class_names=options.class_names, labels=options.labels, skip=options.skip_broken)
    tasks = getattr(opened, "tasks", (task,))
    if task not in tasks:
        known = " or ".join(tasks) or "none"
        raise TrainingError(f"{opened!r} has no labels for {task}; it has labels for {known}.")
    parts = datasets.split(opened, fraction=options.fraction, seed=options.split_seed, group=options.group)
    measured = "test" if "test" in parts else "val"
    origin = {
        "data": str(Path(data).resolve()) if isinstance(data, str | Path) else None,
        "class_names": options.class_names and list(options.class_names),
        "labels": options.labels and {str(old): new for old, new in options.labels.items()},
        "images": len(opened.image_ids),
        "train": digest(parts["train"].image_ids),
        "held_out": list(parts[measured].image_ids),
    }
    return DataParts(repr(opened).strip("<>"), parts["train"], parts["val"], parts[measured], measured, origin)


def is_named(data: str | Path, root: Path | None) -> bool:
    """Whether `data` is the name of a data set rather than a folder."""
    return str(data) in DATASETS and (root is not None or not Path(data).exists())


def open_folder(
    data: Any, *, class_names: Sequence[str] | None, labels: Mapping[int, int] | None, skip: bool = False
) -> Any:
    """Open the data set in a folder; a data set is returned as it is.

    Args:
        data: The folder, or a data set.
        class_names: Names of the classes, if the data do not have them; None takes those in the data.
        labels: Value of each class in a mask file, by the value in the file; None takes the values as they are.
        skip: Whether images that cannot be read are replaced by others.
    """
    if not isinstance(data, str | Path):
        return data
    reader: dict[str, Any] = {} if class_names is None else {"class_names": class_names}
    reader |= {} if labels is None else {"labels": labels}
    return datasets.open(data, on_error="skip" if skip else "raise", **reader)


def digest(image_ids: Sequence[str]) -> str:
    """A hash of image ids, in their order."""
    return hashlib.sha256(json.dumps(list(image_ids)).encode()).hexdigest()[:16]


def _named(task: str, name: str, options: TrainOptions) -> DataParts:
    """A data set of the paper. Its split to test on is measured, and a fraction of the rest stops the run early."""
    entry = DATASETS[name]
    if task not in entry.tasks or entry.train is None:
        raise TrainingError(f"{name} cannot train {task}. Pass another ", Argument("data", ...), " or task.")
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
    }
    return DataParts(name, train, val, test, entry.test, origin)


def _opener(part: Any) -> Open:
    def opened(captions: Captions | None) -> Any:
        return part if captions is None else part.with_captions(captions)

    return opened
