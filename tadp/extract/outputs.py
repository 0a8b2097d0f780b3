"""Results in two files per image, which are complete or do not exist, and are compared with the current settings."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from tadp._version import __version__
from tadp.extract.saved_tensors import tensors_of
from tadp.features import Features
from tadp.files.atomic import remove_leftovers, replace_file
from tadp.files.checks import LARGEST_JSON, check_regular


@dataclass(frozen=True)
class Planned:
    """What an output has of the images of a run.

    Attributes:
        done: The images that are done, with these settings and of this content.
        failed: The images that failed in an earlier run and have not changed, each with the reason.
        in_the_way: The names of results that differ from this run, each with the difference.
    """

    done: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    in_the_way: dict[str, str] = field(default_factory=dict)

    def add(self, image: Path, name: str, why: str | None) -> None:
        """Add results: those of an image that is done, or, if there is a difference, those in the way."""
        if why is None:
            self.done.append(image)
        else:
            self.in_the_way[name] = why


class FileResults:
    """Results in two files per image.

    Args:
        folder: The output folder.
        names: The name of each image's results.
        settings: Everything that determines the results, as JSON values.
    """

    def __init__(self, folder: Path, names: Mapping[Path, str], settings: dict[str, Any]):
        self.folder, self.names, self._settings = folder, names, settings
        for parent in {(folder / name).parent for name in names.values()}:
            remove_leftovers(parent)

    def plan(self, captions: Mapping[Path, str | None], *, retry_failed: bool) -> Planned:
        """Compare the files with the images, settings and captions of this run. Failed images leave no files."""
        planned, settings = Planned(), self._settings
        for image, name in self.names.items():
            record, digest = _whole_record(self.folder, name), file_digest(image)
            # An image that cannot be read is not done: reading it gives the reason.
            if record is None or digest is None:
                continue
            changed = [key for key in settings if record["settings"].get(key) != settings[key]]
            if changed:
                why = difference(changed[0], record["settings"].get(changed[0]), settings[changed[0]])
            else:
                why = image_difference(record, digest, captions.get(image, record["caption"]))
            planned.add(image, name, why)
        return planned

    def record(self, image: Path) -> dict[str, Any]:
        """The record of an image that is done."""
        return read_record(self.folder / f"{self.names[image]}.json") or {}

    def write(self, image: Path, record: dict[str, Any], features: Features, number: int) -> dict[str, Any]:
        """Write the files of an image, one of the batch that has the features, and return its record."""
        whole = record | {"settings": self._settings, "tadp": __version__}
        return write_result(self.folder / self.names[image], tensors_of(features, number), record=whole)

    def fail(self, image: Path, error: Exception) -> None:
        """A failed image leaves no files."""

    def close(self) -> None:
        """Each image is complete as soon as it is written."""


def image_difference(record: Mapping[str, Any], digest: str, caption: str | None) -> str | None:
    """How an image or its caption differs from a record of results, in words; None if they are the same."""
    if record["caption"] != caption:
        return f"caption was {brief(record['caption'])} and is {brief(caption)}"
    return None if record["image_sha256"] == digest else f"the results are of another image ({record['image']})"


def difference(name: str, before: Any, now: Any) -> str:
    """Words for two values of a setting; if they are objects whose beginnings are equal, for an entry that differs."""
    if isinstance(before, dict) and isinstance(now, dict) and brief(before) == brief(now):
        key = next(key for key in sorted({*before, *now}) if before.get(key) != now.get(key))
        return difference(f"{name}.{key}", before.get(key), now.get(key))
    return f"{name} was {brief(before)} and is {brief(now)}"


def brief(value: Any) -> str:
    """A value as JSON, shortened if it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"


def _whole_record(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of complete results; None if any part of them is missing or incomplete."""
    record, tensors = read_record(folder / f"{name}.json"), folder / f"{name}.safetensors"
    required = {"settings", "image", "image_sha256", "file_bytes", "caption"}
    if record is None or not required <= record.keys() or not isinstance(record["settings"], dict):
        return None
    return record if tensors.is_file() and record["file_bytes"] == tensors.stat().st_size else None


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of a result; None if it is missing, incomplete or damaged."""
    try:
        check_regular(path, most_bytes=LARGEST_JSON)
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def file_digest(image: Path) -> str | None:
    """SHA-256 of a file; None if it cannot be read."""
    try:
        with image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def write_result(target: Path, tensors: dict[str, Tensor], *, record: dict[str, Any]) -> dict[str, Any]:
    """Write the tensors, and then the record, which marks the image as done."""
    tensor_file = target.with_name(target.name + ".safetensors")
    record_file = target.with_name(target.name + ".json")
    with replace_file(tensor_file) as partial:
        partial.write_bytes(save(tensors))  # save_file would write a file that only its owner may read
        record = record | {"file_bytes": partial.stat().st_size}
        # From here to the new record the image does not count as done, so an old record never belongs to new tensors.
        record_file.unlink(missing_ok=True)
    with replace_file(record_file) as partial:
        lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in record.items()]
        # A file name that is not UTF-8 becomes an escape that JSON knows.
        partial.write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8", errors="backslashreplace")
    return record
