"""From the numbers in a mask's file to classes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from tadp.datasets.readers.label_files import read_indices
from tadp.datasets.sample import IGNORE_LABEL, Sample, sides
from tadp.errors import DatasetError


def class_table(class_of: Mapping[int, int]) -> Int64[np.ndarray, "256"]:
    """For each value that a pixel may have, its class; -1 for values that no file may have."""
    table = np.full(256, -1, np.int64)
    table[list(class_of)] = list(class_of.values())
    return table


def with_mask(sample: Sample, path: Path, table: Int64[np.ndarray, "256"], *, name: str) -> Sample:
    """The sample with the mask in a file.

    Args:
        sample: The image.
        path: A picture of one channel, or of a palette.
        table: As `class_table` makes it.
        name: The data set's, for messages.

    Raises:
        ImageError: If the file is not there, or damaged.
        DatasetError: If it has another size than the image, or a value that is no class.
    """
    values = read_indices(path)
    if values.shape != sample.image_size:
        raise DatasetError(
            f"a mask has the size of its image; {path} is {sides(values.shape)}, and the image {sample.image_id!r} "
            f"{sides(sample.image_size)} (height x width). Get both again."
        )
    mask = table[values.clip(0, 255)]
    wrong = (mask < 0) | (values < 0) | (values > 255)
    if wrong.any():
        found = ", ".join(map(str, np.unique(values[wrong])[:5].tolist()))
        raise DatasetError(
            f"{path} has pixels of value {found}, which is no class; masks of {name} have {_ranges(table)}. Take the "
            f"files that the data set came with, or give pixels of no class the value {IGNORE_LABEL}."
        )
    return replace(sample, mask=mask)


def _ranges(table: Int64[np.ndarray, "256"]) -> str:
    """The values in a table, as "0 to 20 and 255"."""
    runs: list[list[int]] = []
    for value in np.flatnonzero(table >= 0).tolist():
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
