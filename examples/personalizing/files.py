"""Results in files, each written whole and read where it is there; a command less its files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tadp.files.atomic import replace_file


def kept_array(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array in a file, made if it is not there."""
    if not file.exists():
        with replace_file(file) as part, part.open("wb") as opened:
            np.save(opened, make())
    return np.load(file)


def file_name(condition: str) -> str:
    """A condition as a part of a file's name."""
    return condition.replace(" ", "-").replace("'", "")


def write_json(file: Path, content: object) -> None:
    """Write what JSON can hold."""
    with replace_file(file) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(file: Path):
    """What a file holds; None if it is not there."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def without_paths(arguments: list[str]) -> list[str]:
    """A command's arguments less where its files go on this machine."""
    given = iter(arguments)
    shown = []
    for one in given:
        if one in ("--out", "--page"):
            next(given)
        else:
            shown.append(one)
    return shown
