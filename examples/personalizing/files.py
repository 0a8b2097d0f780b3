"""Files of results, and the command without the paths of this machine."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tadp.files.atomic import replace_file


def kept_array(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in a file, which is made if it does not exist."""
    if not file.exists():
        with replace_file(file) as part, part.open("wb") as opened:
            np.save(opened, make())
    return np.load(file)


def file_name(condition: str) -> str:
    """A condition as a part of a file name."""
    return condition.replace(" ", "-").replace("'", "")


def write_json(file: Path, content: object) -> None:
    """Write JSON."""
    with replace_file(file) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(file: Path):
    """The content of a JSON file, or None if it does not exist."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def without_paths(arguments: list[str]) -> list[str]:
    """The arguments of a command without the paths of this machine."""
    remaining = iter(arguments)
    shown = []
    for argument in remaining:
        if argument in ("--out", "--page"):
            next(remaining)
        else:
            shown.append(argument)
    return shown
