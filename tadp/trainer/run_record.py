"""The records in the folder of a run.

run.json       what the run does
metrics.jsonl  the loss and the figures of each recorded step
result.json    what the run measured in the end
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tadp.errors import CorruptFileError
from tadp.files.atomic import replace_file

RECORD, RESULT = "run.json", "result.json"
_HINT = "Remove it, or use another folder."


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """What a run does; None if the folder has no run.

    Raises:
        CorruptFileError: If the record is damaged.
    """
    path = Path(folder) / RECORD
    record = _read(path, {"task": str, "choices": dict, "data": dict, "measured": str, "test": dict})
    if record is not None and "train" not in record["data"]:
        raise CorruptFileError(f"{path} does not say what was trained on; it is not the record of a run. {_HINT}")
    return record


def finished(folder: str | Path) -> dict[str, Any] | None:
    """What a run measured; None if it is not finished.

    Raises:
        CorruptFileError: If the record is damaged.
    """
    path = Path(folder) / RESULT
    result = _read(path, {"figures": dict, "baselines": dict})
    if result is None:
        return None
    try:
        result["figures"] = _numbers(result["figures"])
        result["baselines"] = {name: _numbers(figures) for name, figures in result["baselines"].items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise CorruptFileError(f"{path} has a figure that is not a number ({error}). {_HINT}") from error
    return result


def drawing_score(folder: str | Path) -> float | None:
    """The score above which boxes of a run's model are best drawn; None if no run measured it.

    Raises:
        CorruptFileError: If the result is damaged, or the score is not from 0 to 1.
    """
    score = (finished(folder) or {}).get("drawing_score")
    if score is None or (isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1):
        return score
    path = Path(folder) / RESULT
    raise CorruptFileError(f"{path}: drawing_score must be a number from 0 to 1; got {score!r:.40}. {_HINT}")


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record."""
    with replace_file(path) as part:
        text = json.dumps(json_values(content), indent=2, ensure_ascii=False)
        part.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def json_values(value: Any) -> Any:
    """A value for JSON, which has no NaN: NaN becomes None."""
    if isinstance(value, Mapping):
        return {str(key): json_values(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """Figures as they were before `json_values`."""
    return {name: math.nan if value is None else float(value) for name, value in figures.items()}


def _read(path: Path, entries: Mapping[str, type]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        wrong = [name for name, kind in entries.items() if not isinstance(content.get(name), kind)]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CorruptFileError(f"{path} cannot be read: {error}. {_HINT}") from error
    if wrong:
        raise CorruptFileError(
            f"{path} lacks {wrong[0]!r}, or it has another type; it is not the record of a run. {_HINT}"
        )
    return content


def _step_of(line: str) -> float:
    """The step of a line of figures; infinite for a line that is damaged."""
    try:
        figures = json.loads(line)
        is_sound = all(isinstance(value, int | float) for value in figures.values())
        return figures["step"] if is_sound else math.inf
    except (ValueError, LookupError, AttributeError, RecursionError):
        return math.inf


class Record:
    """A line of figures for each recorded step. A run that continues drops the lines of steps that it repeats.

    Args:
        path: Path of the .jsonl file.
        is_writing: Whether this process writes the file; only the main process of a run does.
        keep_steps: Last step whose line is kept.
    """

    def __init__(self, path: Path, *, is_writing: bool, keep_steps: int):
        self.path, self.is_writing = path, is_writing
        if not is_writing:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        kept = [line for line in lines if _step_of(line) <= keep_steps]
        with replace_file(path) as part:
            part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, step: int, **figures: float) -> None:
        """Add a line."""
        if self.is_writing:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **figures}) + "\n")
