"""Rows as the data of a run, such as those of Hugging Face's library `datasets`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tadp import datasets
from tadp.datasets.readers.rows import Rows
from tadp.errors import TrainingError
from tadp.trainer.train_options import TrainOptions

# For each task, the argument of `RowDataset` that names its column, and the column that is taken without it.
_LABELS = {"segmentation": "mask", "depth": "depth", "detection": "objects"}
_READ = ("class_names", "labels", "palette", "scale", "invalid", "resize_labels")  # options that `RowDataset` has, too


def data_of_rows(task: str, data: Any, options: TrainOptions) -> Any:
    """Make a data set of rows whose columns have the usual names; other data are returned as they are.

    Args:
        task: The task: its labels are in the column "mask", "depth" or "objects".
        data: Rows, which are mappings with an "image", or any other data.
        options: The options of the run, among them the names of the classes.

    Raises:
        TrainingError: If the rows lack a column, or the names of the classes are not known.
        OptionError: If an option for folders is set.
    """
    is_split = isinstance(data, Mapping)  # parts by name, as `load_dataset` returns them
    is_other = not isinstance(data, str | Path) and getattr(data, "image_ids", None) is None
    if not is_split and not (is_other and isinstance(data, Rows) and len(data) > 0 and isinstance(data[0], Mapping)):
        return data
    label: Any = _LABELS[task]
    names = list(data if is_split else data[0])
    is_named = task == "depth" or options.class_names is not None
    if is_split or not {"image", label} <= set(names) or not is_named:
        known = "" if task == "depth" else ", class_names=[…]"
        raise TrainingError(
            f"data must be a data set; got {'parts' if is_split else 'rows'} with {', '.join(map(str, names))}. Pass "
            f'tadp.datasets.RowDataset(rows, {label}="{label}"{known}), which takes the names of the columns. Rows '
            f"with the columns image and {label} can also be passed as they are{known.replace(',', ', with')}."
        )
    chosen: Any = {name: value for name, value in options.chosen.items() if name in _READ}
    replace(options, **dict.fromkeys(chosen)).refuse("rows")
    on_error = "skip" if options.skip_broken else "raise"
    return datasets.RowDataset(data, **{label: label}, on_error=on_error, **chosen)
