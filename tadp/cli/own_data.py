"""The data of a user's own on which `tadp evaluate` measures a model, and what the model's run recorded about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from tadp.cli.task_options import Task


@dataclass(frozen=True)
class RunOfModel:
    """What the run of a model recorded.

    Attributes:
        origin: How the run opened its data.
        captions: The run's caption file; None if its text was not captions.
        predict: Options of `predict` in its evaluation.
        metric: Options of the metric in its evaluation.
    """

    origin: dict[str, Any]
    captions: Path | None
    predict: dict[str, Any]
    metric: dict[str, Any]


def is_folder(data: str, root: Path | None) -> bool:
    """Whether --data is a folder or file rather than the name of a data set."""
    from tadp.datasets.readers.named import DATASETS

    return Path(data).exists() and (data not in DATASETS or root is None)


def run_of(model: str, data: str | None) -> RunOfModel | None:
    """What a model's run recorded; None if the model is not from a run, or the run had other data."""
    from tadp.trainer.run_record import read_record

    record = read_record(model)
    if record is None or data is None:
        return None
    origin = record["data"]
    if not Path(data).exists() and origin["data"] != data:
        return None
    captions = None if record["captions"] is None else Path(model) / record["captions"]
    test = record["test"]
    return RunOfModel(origin, captions if captions and captions.exists() else None, test["predict"], test["metric"])


def own_data(
    task: Task,
    model: Any,
    data: str,
    *,
    run: RunOfModel | None,
    split: str | None,
    captions: Path | None,
    options: Mapping[str, Any],
) -> Any:
    """The images of a folder on which a model is measured.

    Args:
        task: The task.
        model: The model.
        data: The folder.
        run: The record of the model's run.
        split: The split to measure; "all" is all images, and None the images that the run held out, or else the split
            to test on.
        captions: A caption file; None is that of the run if it has the captions of these images.
        options: Options of the reader; for others, those of the run count.

    Returns:
        The data set, with captions if there are any.
    """
    from tadp import datasets
    from tadp.captions import CaptionTable
    from tadp.datasets.readers.data_options import from_json
    from tadp.errors import OptionError

    names = {} if task is Task.depth else {"class_names": model.class_names}
    stored = {} if run is None else {name: from_json(value) for name, value in run.origin.get("reader", {}).items()}
    if run is not None and run.origin["data"] != str(Path(data).resolve()):
        stored = {name: value for name, value in stored.items() if name not in ("images", "ids", "class_names")}
    try:
        samples = datasets.open(data, task=task.value, **names | stored | options)
    except OptionError:  # an option of the run that the reader of this folder lacks
        samples = datasets.open(data, task=task.value, **names | options)
    if split is not None and split != "all" and split not in samples.splits:
        known = ", ".join([*samples.splits, "all"])
        raise typer.BadParameter(f"{data} has no split {split!r}; it has {known}.", param_hint="--split")
    held_out = [] if run is None or split is not None else run.origin.get("held_out", [])
    if (
        run is not None
        and held_out
        and len(samples) == run.origin["images"]
        and set(held_out) <= set(samples.image_ids)
    ):
        typer.echo(f"measuring the {len(held_out)} images that the training held out", err=True)
        samples = samples.subset(held_out)
    elif split != "all":
        name = split or next((name for name in ("test", "val") if name in samples.splits), None)
        samples = samples if name is None else samples.subset(samples.splits[name])
    if captions is not None:
        return samples.with_captions(CaptionTable.open(captions))
    table = None if run is None or run.captions is None else CaptionTable.open(run.captions)
    return samples if table is None or table.missing(samples.image_ids) else samples.with_captions(table)
