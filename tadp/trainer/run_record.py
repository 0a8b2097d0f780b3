"""The records in the folder of a run: run.json, what it does, and result.json, what it measured in the end."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tadp.errors import CorruptFileError
from tadp.files.atomic import replace_file

RECORD, RESULT = "run.json", "result.json"


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """What a run does; None if the folder has no run.

    Raises:
        CorruptFileError: If the record is damaged.
    """
    return _read(Path(folder) / RECORD, ("task", "choices", "data", "measured", "test"))


def finished(folder: str | Path) -> dict[str, Any] | None:
    """What a run measured; None if it is not finished.

    Raises:
        CorruptFileError: If the record is damaged.
    """
    return _read(Path(folder) / RESULT, ("figures", "baselines"))


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


def _read(path: Path, entries: tuple[str, ...]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name in entries if name not in content]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CorruptFileError(f"{path} cannot be read: {error}. Remove it, or use another folder.") from error
    if missing:
        raise CorruptFileError(f"{path} lacks {missing[0]!r}; it is no record of a run. Use another folder.")
    return content
