"""Caption tables as files for others: the authors' JSON, JSON Lines and Parquet.

JSON is read whole; the other two row by row, so that they may be larger than memory. A row has `id`, `captions` (a
list; or `caption`, a string) and any other fields. Its provenance stands in each row rather than in a header, so that a
file may be cut, shuffled and joined with others, and any reader takes it as it is.
"""

import codecs
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tadp.captions.parquet import read_parquet
from tadp.captions.parquet import write_parquet as write_parquet
from tadp.captions.records import CaptionRecord, Located, shown, to_json
from tadp.captions.rows import check_is_file, check_suffix, from_row, located, provenance_text, split_entry
from tadp.captions.strict_json import entry_place, flawed_entry, is_cut_off, loads
from tadp.errors import CaptionError
from tadp.files.atomic import replace_file


def read(path: Path) -> Iterator[Located]:
    """The records of a file for others, by its suffix.

    Raises:
        CaptionError: If there is no such file, it is of another kind, or it is broken; the message says where.
        MissingExtraError: If it is Parquet and pyarrow is not installed.
    """
    readers = {".json": read_json, ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".parquet": read_parquet}
    if path.suffix.lower() not in readers:
        raise CaptionError(f"unknown kind of caption file: {path}. It may be .db, {', '.join(readers)}.")
    return readers[path.suffix.lower()](path)


def read_json(path: Path) -> Iterator[Located]:
    """Entries of the authors' JSON, {id: {"captions": [...], "class_label": 1}}, in their order."""
    with _opened(path) as file:
        content = loads(file.read(), str(path), find=flawed_entry)
    if not isinstance(content, dict):
        raise CaptionError(f'{path} must hold an object {{id: {{"captions": [...]}}}}; got {shown(content)}.')
    if isinstance(content.get("annotations"), list) and isinstance(content.get("images"), list):
        raise CaptionError(
            f'{path} is in COCO\'s form, not {{id: {{"captions": [...]}}}}. Read it as JSON, then: table.add('
            "str(one['image_id']), captions) with the captions of each image among its \"annotations\"."
        )
    for image_id, entry in content.items():
        captions, fields = entry, {}
        try:
            if isinstance(entry, dict):
                captions, fields = split_entry(entry, f"the entry {shown(image_id)}")
            _, record = located("", image_id, captions, fields)
        except CaptionError as error:
            raise CaptionError(f"{entry_place(path, image_id)}: {error}") from error
        yield f"{path}: ", record


def read_jsonl(path: Path) -> Iterator[Located]:
    """Lines, each an object with `id` and `captions`. A last line that was cut off is left out with a warning."""
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = loads(line, where, is_line=True)
            except CaptionError:
                if not is_cut_off(line):
                    raise
                warnings.warn(
                    f"{where} is cut off, as when its writer is killed; it is left out, and its image is missing.",
                    stacklevel=2,
                )
                return
            if not isinstance(row, dict):
                raise CaptionError(f'{where}: a line must be an object {{"id": …, "captions": […]}}; got {shown(row)}.')
            yield from_row(row, where)


def write_json(path: Path, records: Iterable[CaptionRecord]) -> None:
    """Write the authors' JSON, an image a line. It has no place for provenance."""
    check_suffix(path, ".json")
    with replace_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write("{")
        for number, record in enumerate(records):
            entry = {"captions": record.captions, **record.fields}
            file.write(f"{',' if number else ''}\n{to_json(record.id)}: {to_json(entry)}")
        file.write("\n}\n")


def write_jsonl(path: Path, records: Iterable[CaptionRecord]) -> None:
    """Write JSON Lines."""
    check_suffix(path, ".jsonl", ".ndjson")
    with replace_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            for key in ("id", "provenance"):
                if key in record.fields:
                    raise CaptionError(
                        f"the image {shown(record.id)} has a field {key!r}, a name that is taken in JSON Lines. "
                        "Rename it, or write JSON or Parquet."
                    )
            row: dict[str, Any] = {"id": record.id, "captions": record.captions, **record.fields}
            source = provenance_text(record.provenance)
            file.write(to_json(row) + "\n" if source is None else f'{to_json(row)[:-1]}, "provenance": {source}}}\n')


def _opened(path: Path) -> BinaryIO:
    check_is_file(path)
    try:
        return path.open("rb")
    except OSError as error:
        raise CaptionError(f"cannot read {path}: {error.strerror}. Check its permissions.") from error
