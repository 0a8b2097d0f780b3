"""Keep what was measured of images, so that an unchanged file is not read again."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import cached_assets_path

from tadp.errors import OutputError
from tadp.files.atomic import remove_leftovers, replace_file
from tadp.inspection.image_facts import ImageFacts

_FORMAT = 1  # increased when the same file would give other facts


class FactsCache:
    """The facts of the images in one folder, in a JSON file. If it cannot be read or written, nothing is kept.

    Attributes:
        path: The file; None if its folder is not known.

    Args:
        key: The inputs that determine the facts besides the files: the folder, how it is read, and the classes.
        cache_dir: The folder for such files; None is huggingface_hub's folder for files of other libraries, which is
            `$HF_ASSETS_CACHE`, or else `$HF_HOME/assets`.
    """

    def __init__(self, key: str, cache_dir: str | Path | None):
        self.path: Path | None = None
        self._kept: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError):
            folder = Path(cache_dir).expanduser() if cache_dir else cached_assets_path("tadp", "inspection", "facts")
            self.path = folder / f"{hashlib.sha256(f'{_FORMAT} {key}'.encode()).hexdigest()[:40]}.json"
            self._kept = _dictionary(json.loads(self.path.read_text(encoding="utf-8")))

    def get(self, image: Path, labels: Path | None) -> ImageFacts | None:
        """The facts of an image; None if they are not kept, or its files have changed."""
        entry = self._kept.get(str(image))
        if entry is None or entry.get("files") != _stamp(image, labels):
            return None
        try:
            facts = dict(entry["facts"])
            facts["pixels"] = {int(label): count for label, count in facts["pixels"].items()}
            for name in ("image_size", "depth_m"):
                facts[name] = None if facts[name] is None else tuple(facts[name])
            return ImageFacts(**facts)
        except (KeyError, TypeError, ValueError, AttributeError):  # another program wrote the file
            return None

    def write(self, found: Mapping[tuple[Path, Path | None], ImageFacts]) -> None:
        """Keep the facts of images, except for files that could not be read, which may be repaired."""
        entries = {
            str(image): {"files": _stamp(image, labels), "facts": asdict(facts)}
            for (image, labels), facts in found.items()
            if facts.fault != "unreadable file"
        }
        with suppress(OutputError, ValueError):
            if self.path is not None and entries != self._kept:
                remove_leftovers(self.path.parent)
                with replace_file(self.path) as partial:
                    partial.write_text(json.dumps(entries), encoding="utf-8")
                return
        self.path = self.path if self.path is not None and self.path.is_file() else None


def _dictionary(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {}


def _stamp(image: Path, labels: Path | None) -> list[list[Any]]:
    """Path, size and time of change of the files."""
    stamps = []
    for path in (image, labels):
        with suppress(OSError):
            status = None if path is None else path.stat()
            stamps.append(None if status is None else [str(path), status.st_size, status.st_mtime_ns])
    return stamps
