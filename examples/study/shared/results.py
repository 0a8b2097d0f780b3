"""The JSON files of results."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Results:
    """The JSON files of a folder, each read once. A missing file reads as empty."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: dict[str, Any] = {}

    def of(self, file: str) -> Any:
        if file not in self._read:
            path = self.folder / file
            self._read[file] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return self._read[file]

    def at(self, file: str, path: Sequence[str]) -> float | None:
        """A single figure, or None if it is missing."""
        value: Any = self.of(file)
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                return None
            value = value[key]
        return float(value)
