"""The data of a user's own on which `tadp evaluate` measures a model, and what the model's run recorded about them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import typer

from tadp.cli.task_options import Task
from tadp.cli.terminal import echo
from tadp.datasets.readers.data_options import DataOptions
from tadp.errors import Argument, ModelError, UnknownOptionError
from tadp.files.schema import HINT, check_types, shown


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


def run_of(
    model: str, data: str | None, *, task: Task, passed: Mapping[str, Any], has_captions: bool
) -> RunOfModel | None:
    """What a model's run recorded; None if the model is not from a run, or the run had other data.

    The folder may be somebody else's. Files outside it and outside the data are read only if the user passes them.

    Args:
        model: The model's folder.
        data: The folder or name of the data.
        task: The model's task, which has the recorded options.
        passed: Options of the reader that the user passed; those of the run are not read.
        has_captions: Whether the user passed captions or a captioner.

    Raises:
        ModelError: If the record has an option that the task lacks, a value of another type, or a path outside.
    """
    from tadp.datasets.readers.data_options import ReaderOptions
    from tadp.tasks.model_kind import KINDS
    from tadp.trainer.run_record import RECORD, read_record

    record = read_record(model)
    if record is None or data is None:
        return None
    origin, path = record["data"], Path(model) / RECORD
    check_types(origin, _Origin, path, below="data")
    if not Path(data).exists() and origin.get("data") != data:
        return None
    reader = {name: value for name, value in origin.get("reader", {}).items() if name not in passed}
    stored = {"reader": _values(reader, path)}
    _check_options(stored, "reader", ReaderOptions, path, below="data")
    for name in ("images", "masks", "ids"):
        value, key = reader.get(name), f"data.reader.{name}"
        if isinstance(value, str) and origin.get("data") == str(Path(data).resolve()):
            _inside(Path(data).resolve().parent, value, path, key=key, option=name)
        elif value is not None and not isinstance(value, str) and (name != "ids" or not _are_texts(value)):
            raise ModelError(f"{path}: {key} must be a path; got {shown(value)}. {HINT}")
    kind = KINDS[task.value]
    for name, function in (("predict", kind.predict), ("metric", kind.make_metric)):
        _check_options(record["test"], name, function, path, below="test")
    captions, named = None, record.get("captions")
    if not isinstance(named, str | None):
        raise ModelError(f"{path}: captions must be a text or null; got {shown(named)}. {HINT}")
    if named is not None and not has_captions:
        captions = _inside(Path(model).resolve(), named, path, key="captions", option="captions")
    test = record["test"]
    return RunOfModel(
        {**origin, **stored}, captions if captions and captions.exists() else None, test["predict"], test["metric"]
    )


@dataclass
class _Origin:
    """The entries of a record on its data, for `check_types`."""

    data: str | None
    reader: dict[str, Any]
    images: int
    held_out: list[str]
    trained: list[str]


def _check_options(
    entries: Mapping[str, Any], name: str, reader: Callable[..., Any], path: Path, *, below: str
) -> None:
    """Refuse options in a record that a function does not take as keyword arguments, or whose type is another.

    Args:
        entries: Entries of the record.
        name: The entry with the options.
        reader: The function, or the class whose constructor it is.
        path: The record, for error messages.
        below: The entry of the record that holds `entries`, for error messages.

    Raises:
        ModelError: If an option is unknown or its value has another type.
    """
    options = entries.get(name)
    if not isinstance(options, dict):
        raise ModelError(f"{path}: {below}.{name} must be an object; got {shown(options)}. {HINT}")
    known = [key for key, option in signature(reader).parameters.items() if option.kind is Parameter.KEYWORD_ONLY]
    for key in options:
        if key not in known:
            names = ", ".join(known) or "no options"
            raise ModelError(f"{path}: {below}.{name} has the option {shown(key)}; known: {names}. {HINT}")
    check_types(options, reader, path, below=f"{below}.{name}")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _values(reader: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The recorded options of a reader."""
    from tadp.datasets.readers.data_options import from_json

    values = {}
    for name, value in reader.items():
        try:
            values[name] = from_json(value)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: data.reader.{name} must be pairs; got {shown(value)}. {HINT}") from error
    return values


def _inside(folder: Path, name: str, path: Path, *, key: str, option: str) -> Path:
    """A recorded path, if it is in a folder; another may be anybody's file."""
    try:
        place = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a null character, or links in a circle
        raise ModelError(f"{path}: {key} must be a path; got {shown(name)}. {HINT}") from error
    if not place.is_relative_to(folder):
        raise ModelError(
            f"{path}: {key} is {shown(name)}, which is outside {folder} and so is not read. If you trust it, pass ",
            Argument(option, ...),
            " with this path.",
        )
    return place


def own_data(
    task: Task,
    model: Any,
    data: str,
    *,
    run: RunOfModel | None,
    split: str | None,
    captions: Path | None,
    options: DataOptions,
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
        options: Options of the reader, of which others are those of the run, and of the split.

    Returns:
        The data set, with captions if there are any.
    """
    from tadp.captions import CaptionTable

    is_same = run is not None and run.origin.get("data") == str(Path(data).resolve())
    samples = _opened(task, model, data, run=run, is_same=is_same, passed=options.chosen)
    held_out = [] if run is None or split is not None or options.chosen_split else run.origin.get("held_out", [])
    if run and held_out and len(samples) == run.origin.get("images") and set(held_out) <= set(samples.image_ids):
        echo(f"measuring the {len(held_out)} images that the training held out", err=True)
        samples = samples.subset(held_out)
    else:
        samples, name = _part(samples, split, options, data)
        echo(_measured(samples.image_ids, name, run, is_same=is_same), err=True)
    if captions is not None:
        return samples.with_captions(CaptionTable.open(captions))
    table = None if run is None or run.captions is None else CaptionTable.open(run.captions)
    return samples if table is None or table.missing(samples.image_ids) else samples.with_captions(table)


def _opened(
    task: Task, model: Any, data: str, *, run: RunOfModel | None, is_same: bool, passed: Mapping[str, Any]
) -> Any:
    """The data set in a folder, with the options that are passed, and those of the run that its reader has.

    The classes are those of the model, also where the run or the user renames the classes of the folder.
    """
    from tadp import datasets
    from tadp.datasets.readers.class_choice import OrderedNames

    stored = {} if run is None else run.origin["reader"]
    if not is_same:
        own = ["images", "masks", "ids", *([] if isinstance(stored.get("class_names"), Mapping) else ["class_names"])]
        stored = {name: value for name, value in stored.items() if name not in own}
    stored = {name: value for name, value in stored.items() if name not in passed}
    names = {} if task is Task.depth else {"class_names": model.class_names}
    chosen = passed.get("class_names", stored.get("class_names"))
    if names and isinstance(chosen, Mapping):
        names = {"class_names": OrderedNames(model.class_names, chosen)}
    elif names and "class_names" in passed:
        names = {"class_names": passed["class_names"]}
    unfit: list[str] = []
    while True:
        try:
            samples = datasets.open(data, task=task.value, **{**stored, **passed, **names})
            break
        except UnknownOptionError as error:
            if error.option is None or error.option not in stored:
                raise
            unfit.append(error.option)
            stored = {name: value for name, value in stored.items() if name != error.option}
    if unfit:
        layout = type(samples).__name__
        echo(f"not used for {data}, as {layout} does not take them: the run's options {', '.join(unfit)}", err=True)
    if stored:
        echo(f"reading {data} with these options of the run: {', '.join(stored)}", err=True)
    return samples


def _part(samples: Any, split: str | None, options: DataOptions, data: str) -> tuple[Any, str]:
    """The part of a data set to measure, and its name: the part to test on, unless another is named."""
    from tadp import datasets

    parts: Mapping[str, Sequence[str]] = samples.splits
    order = ["test", "val"]
    if options.chosen_split:
        drawn = datasets.split(samples, **options.split_arguments)
        parts = {name: part.image_ids for name, part in drawn.items()}
        order += parts
    if split is not None and split != "all" and split not in parts:
        known = ", ".join([*parts, "all"])
        raise typer.BadParameter(f"{data} has no split {split!r}; it has {known}.", param_hint="--split")
    name = split or next((part for part in order if part in parts), "all")
    return (samples if name == "all" else samples.subset(parts[name])), name


def _measured(image_ids: Sequence[str], part: str, run: RunOfModel | None, *, is_same: bool) -> str:
    """What is measured, in words, and how many of the images the run trained on."""
    text = f"measuring {len(image_ids)} images ({part})"
    trained = None if run is None else run.origin.get("trained")
    if run is None or trained is None:  # not from a run, or the data set has a name
        return text
    count = len(set(trained) & set(image_ids))
    if is_same:
        note = "; figures on those are too good" if count else ""
        return f"{text}; {count} of them were used for training{note}"
    names = f"; {count} of them have the name of an image that was used for training" if count else ""
    return f"{text} of a folder that is not that of the training{names}"
