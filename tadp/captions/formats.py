"""Caption tables in formats that other programs read: JSON as the paper's authors write it, JSON Lines and Parquet.

JSON is read as a whole, the other two row by row, so that they may be larger than memory. A row has an `id`, `captions`
(a list) or a `caption` (a string), and any other fields. The record of where captions came from, their provenance, is
in each row rather than in a header. So files can be split, shuffled and joined, and any reader can use them.
"""

import codecs
import math
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from tadp.captions.records import CaptionRecord, Located, Provenance, new_record, shown, to_json
from tadp.captions.strict_json import entry_place, flawed_entry, is_cut_off, loads
from tadp.errors import CaptionError
from tadp.files.atomic import replace_file
from tadp.files.checks import needs, refuse_pointer

_COLUMNS = ("id", "captions", "caption", "fields", "provenance")
_ROWS = 10_000  # rows per row group
_LARGEST_GROUP, _LARGEST_HEADER = 2**29, 2**24  # bytes of a column in a row group, and of a text in the file's header
_LARGEST_LINE = 2**26  # bytes of a line


def read(path: Path) -> Iterator[Located]:
    """Read the caption records of a file, in the format that its suffix stands for.

    Raises:
        CaptionError: If there is no such file, if its suffix is unknown, or if it is broken. The message says where.
        MissingExtraError: If it is a Parquet file and pyarrow is not installed.
    """
    readers = {".json": read_json, ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".parquet": read_parquet}
    if path.suffix.lower() not in readers:
        raise CaptionError(f"unknown kind of caption file: {path}. The suffix may be .db, {', '.join(readers)}.")
    return readers[path.suffix.lower()](path)


def read_json(path: Path) -> Iterator[Located]:
    """Read the entries of the authors' JSON, {id: {"captions": [...], "class_label": 1}}, in their order."""
    with _opened(path) as file:
        content = loads(file.read(), str(path), find=flawed_entry)
    if not isinstance(content, dict):
        raise CaptionError(f'{path} must hold an object {{id: {{"captions": [...]}}}}; got {shown(content)}.')
    if isinstance(content.get("annotations"), list) and isinstance(content.get("images"), list):
        raise CaptionError(
            f'{path} is in COCO\'s format, not {{id: {{"captions": [...]}}}}. Read it as JSON, collect the captions of '
            "each image from its \"annotations\", and add them: table.add(str(annotation['image_id']), captions)."
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
    """Read lines, each an object with `id` and `captions`. A truncated last line is skipped with a warning."""
    with _opened(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(_LARGEST_LINE + 1), b""), start=1):
            if len(line) > _LARGEST_LINE:
                raise CaptionError(f"{path}, line {number} has more than {_LARGEST_LINE} bytes. It holds no captions.")
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
                    f"{where} is cut off, as happens if its writer is killed; it is skipped, so its image is missing.",
                    stacklevel=2,
                )
                return
            if not isinstance(row, dict):
                raise CaptionError(f'{where}: a line must be an object {{"id": …, "captions": […]}}; got {shown(row)}.')
            yield from_row(row, where)


def write_json(path: Path, records: Iterable[CaptionRecord]) -> None:
    """Write the authors' JSON with one image per line. The format has no place for provenance."""
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
                        f"the image {shown(record.id)} has a field {key!r}, but that name is reserved in JSON Lines. "
                        "Rename the field, or write JSON or Parquet."
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


def write_parquet(path: Path, records: Iterable[CaptionRecord]) -> None:
    """Write Parquet with columns id, captions (list), fields and provenance (JSON objects, or null)."""
    check_suffix(path, ".parquet")
    arrow, parquet = _pyarrow()
    text = arrow.string()
    schema = arrow.schema([("id", text), ("captions", arrow.list_(text)), ("fields", text), ("provenance", text)])
    rows = iter(records)
    with (  # pyarrow opens only names that are UTF-8
        replace_file(path) as partial,
        partial.open("wb") as file,
        parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        while group := [_parquet_row(record) for record in islice(rows, _ROWS)]:
            writer.write_table(arrow.Table.from_pylist(group, schema))


def _parquet_row(record: CaptionRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "captions": record.captions,
        "fields": to_json(record.fields) if record.fields else None,
        "provenance": provenance_text(record.provenance),
    }


def read_parquet(path: Path) -> Iterator[Located]:
    """Read rows; a further column is a field where its value is not null and JSON can hold it."""
    arrow, parquet = _pyarrow()
    check_is_file(path)
    refuse_pointer(path, CaptionError)
    limits = {"thrift_string_size_limit": _LARGEST_HEADER, "thrift_container_size_limit": _LARGEST_HEADER}
    try:
        with path.open("rb") as source, parquet.ParquetFile(source, **limits) as file:
            _check_size(file.metadata, path)
            columns = _columns(file.schema_arrow, path)
            number, warned = 0, set()
            for batch in file.iter_batches(batch_size=_ROWS // 10, columns=columns):
                if batch.nbytes > _LARGEST_GROUP:
                    raise CaptionError(
                        f"{path}: rows {number + 1} to {number + len(batch)} take {batch.nbytes} bytes, too many for "
                        "captions. Leave out the columns that are not captions."
                    )
                for row in batch.to_pylist():
                    number += 1
                    odd = {key for key, value in row.items() if not _is_finite(value)}
                    if odd - warned:
                        _warn_about_columns(path, odd - warned, f"not finite, first in row {number}")
                        warned |= odd
                    plain = {key: value for key, value in row.items() if value is not None and key not in odd}
                    yield _from_parquet_row(plain, f"{path}, row {number}")
    except CaptionError:
        raise
    except (arrow.ArrowException, OSError, ValueError, RecursionError) as error:
        # ValueError: a value that Python has no type for
        raise CaptionError(
            f"{path} cannot be read as Parquet: {error}. It is damaged, or another kind of file."
        ) from error


def _check_size(metadata: Any, path: Path) -> None:
    """Refuse a file that declares parts which would take gigabytes."""
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            size = metadata.row_group(group).column(column).total_uncompressed_size
            if not 0 <= size <= _LARGEST_GROUP:
                name = metadata.row_group(group).column(column).path_in_schema
                raise CaptionError(
                    f"{path}: column {shown(name)} takes {size} bytes in row group {group}, of which at most "
                    f"{_LARGEST_GROUP} are read. Write smaller row groups."
                )


def _is_finite(value: Any) -> bool:
    """Whether all numbers in a value of a row are finite, at any depth."""
    if isinstance(value, list | dict):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _columns(schema: Any, path: Path) -> list[str]:
    """Return the columns to read: those of a caption table, and the others that JSON can hold."""
    doubles = [name for name, count in Counter(schema.names).items() if count > 1]
    if doubles:
        raise CaptionError(f"{path} has two columns {doubles[0]!r}. Leave one out, or rename it.")
    odd = {field.name: field.type for field in schema if field.name not in _COLUMNS and not _is_plain(field.type)}
    if odd:
        _warn_about_columns(path, odd, f"type {', '.join(map(str, odd.values()))}")
    return [name for name in schema.names if name not in odd]


def _is_plain(kind: Any) -> bool:
    """Whether JSON can hold the values of an Arrow type, apart from numbers that are not finite."""
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    checks = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    return any(check(kind) for check in (*checks, types.is_null))


def _warn_about_columns(path: Path, names: Collection[str], why: str) -> None:
    warnings.warn(
        f"{path}: JSON cannot hold the values in {', '.join(map(repr, sorted(names)))} ({why}); they are left out. "
        "The captions are read.",
        stacklevel=2,
    )


def _from_parquet_row(row: dict[str, Any], where: str) -> Located:
    fields = row.pop("fields", None)
    if isinstance(fields, str) and fields.startswith("{"):  # otherwise a foreign column of that name
        fields = loads(fields.encode(), f"{where}, column fields", is_line=True)
    return from_row(row, where, fields)


def _pyarrow() -> tuple[Any, Any]:
    with needs("Parquet files need pyarrow", install="pip install 'tadp[parquet]'"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet


def from_row(row: dict[str, Any], where: str, fields: Any = None) -> Located:
    """Make a record of a row with `id`, `captions` or `caption`, and further fields.

    `fields` are further fields that the row held in a column of that name.
    """
    if "id" not in row:
        names = ", ".join(map(repr, row)) or "nothing"
        raise CaptionError(f"{where}: there is no 'id'; the fields are {names}. Name the image's id 'id'.")
    rest = {key: value for key, value in row.items() if key not in ("id", "provenance")}
    captions, extra = split_entry(rest, where)
    if fields is not None:
        extra = extra | fields if isinstance(fields, dict) else extra | {"fields": fields}
    return located(f"{where}: ", row["id"], captions, extra, row.get("provenance"))


def split_entry(entry: dict[str, Any], where: str) -> tuple[Any, dict[str, Any]]:
    """Return the captions of an entry, and its other fields."""
    for key in ("captions", "caption"):
        if key in entry:
            return entry[key], {name: value for name, value in entry.items() if name != key}
    names = ", ".join(map(repr, entry)) or "nothing"
    raise CaptionError(
        f"{where}: there is neither 'captions' nor 'caption'; the fields are {names}. Give the text that name."
    )


def located(where: str, image_id: Any, captions: Any, fields: dict[str, Any], provenance: Any = None) -> Located:
    """Make a record of what a file holds. A wrong type is then the file's mistake, not the caller's."""
    try:
        text = provenance if isinstance(provenance, str | None) else to_json(provenance)
        source = None if text is None else _provenance(text)
        return where, new_record(image_id, captions, fields, provenance=source)
    except (TypeError, ValueError) as error:
        raise CaptionError(f"{where}{error}") from error


@lru_cache(maxsize=64)
def _provenance(text: str) -> Provenance:
    return Provenance.from_dict(loads(text.encode(), "provenance", is_line=True))


@lru_cache(maxsize=64)
def provenance_text(provenance: Provenance | None) -> str | None:
    """Write provenance as JSON, as rows hold it; None if it is unknown."""
    return None if provenance is None else to_json(provenance.as_dict())


def check_is_file(path: Path) -> None:
    """Raise CaptionError if there is no such file."""
    if not path.is_file():
        raise CaptionError(f"no such caption file: {path}." if not path.exists() else f"{path} is not a file.")


def check_suffix(path: Path, *suffixes: str) -> None:
    """Raise ValueError if a file to be written has a suffix by which it would not be read back."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"the file must have the suffix {' or '.join(suffixes)}, so that it can be read back; got {path}."
        )
