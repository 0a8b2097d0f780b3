"""The files of one image's results, which are complete or do not exist, and are compared with the current settings."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from tadp.files.atomic import replace_file
from tadp.files.checks import LARGEST_JSON, check_regular


def done_before(
    names: Mapping[Path, str], folder: Path, *, settings: dict[str, Any], captions: Mapping[Path, str | None]
) -> tuple[dict[Path, dict[str, Any]], dict[str, str]]:
    """The records of finished images, and the names of results that differ from this run, each with the difference."""
    done, in_the_way = {}, {}
    for image, name in names.items():
        record, digest = _whole_record(folder, name), file_digest(image)
        if record is None or digest is None:  # an image that cannot be read is not done: reading it gives the reason
            continue
        changed = [key for key in settings if record["settings"].get(key) != settings[key]]
        if changed:
            in_the_way[name] = _difference(changed[0], record["settings"].get(changed[0]), settings[changed[0]])
        elif image in captions and record["caption"] != captions[image]:
            in_the_way[name] = f"caption was {brief(record['caption'])} and is {brief(captions[image])}"
        elif record["image_sha256"] != digest:
            in_the_way[name] = f"the results are of another image ({record['image']})"
        else:
            done[image] = record
    return done, in_the_way


def _difference(name: str, before: Any, now: Any) -> str:
    """Words for two values of a setting; if they are objects whose beginnings are equal, for an entry that differs."""
    if isinstance(before, dict) and isinstance(now, dict) and brief(before) == brief(now):
        key = next(key for key in sorted({*before, *now}) if before.get(key) != now.get(key))
        return _difference(f"{name}.{key}", before.get(key), now.get(key))
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
