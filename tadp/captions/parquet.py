"""Caption tables as Parquet, read and written row group by row group."""

import math
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tadp.captions.records import CaptionRecord, Located, to_json
from tadp.captions.rows import check_is_file, check_suffix, from_row, provenance_text
from tadp.captions.strict_json import loads
from tadp.errors import CaptionError
from tadp.files.atomic import replace_file
from tadp.files.checks import needs

_COLUMNS = ("id", "captions", "caption", "fields", "provenance")
_ROWS = 10_000  # of a row group, and read at once


def write_parquet(path: Path, records: Iterable[CaptionRecord]) -> None:
    """Write Parquet with columns id, captions (list), fields and provenance (JSON objects, or null)."""
    check_suffix(path, ".parquet")
    arrow, parquet = _pyarrow()
    text = arrow.string()
    schema = arrow.schema([("id", text), ("captions", arrow.list_(text)), ("fields", text), ("provenance", text)])
    rows = iter(records)
    with replace_file(path) as partial, parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
        while some := [_parquet_row(record) for record in islice(rows, _ROWS)]:
            writer.write_table(arrow.Table.from_pylist(some, schema))


def _parquet_row(record: CaptionRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "captions": record.captions,
        "fields": to_json(record.fields) if record.fields else None,
        "provenance": provenance_text(record.provenance),
    }


def read_parquet(path: Path) -> Iterator[Located]:
    """Rows; a column of another name is a field, where it is not null and JSON can hold it."""
    arrow, parquet = _pyarrow()
    check_is_file(path)
    try:
        with parquet.ParquetFile(path) as file:
            columns = _columns(file.schema_arrow, path)
            number, left_out = 0, set()
            for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    odd = {key for key, value in row.items() if not _is_finite(value)}
                    if odd - left_out:
                        _warn_of_columns(path, odd - left_out, f"from row {number} on, where it is not finite")
                        left_out |= odd
                    plain = {key: value for key, value in row.items() if value is not None and key not in odd}
                    yield _from_parquet_row(plain, f"{path}, row {number}")
    except CaptionError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as error:  # ValueError: a value that Python has no type for
        raise CaptionError(f"{path} cannot be read as Parquet: {error}. It is damaged, or of another kind.") from error


def _is_finite(value: Any) -> bool:
    """Whether a value of a row has finite numbers alone, however deep."""
    if isinstance(value, list | dict):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _columns(schema: Any, path: Path) -> list[str]:
    """The columns that are read: those of a caption table, and of others those that JSON can hold."""
    doubles = [name for name, count in Counter(schema.names).items() if count > 1]
    if doubles:
        raise CaptionError(f"{path} has two columns {doubles[0]!r}. Leave one out, or rename it.")
    odd = {one.name: one.type for one in schema if one.name not in _COLUMNS and not _is_plain(one.type)}
    if odd:
        _warn_of_columns(path, odd, f"being {', '.join(map(str, odd.values()))}")
    return [name for name in schema.names if name not in odd]


def _is_plain(kind: Any) -> bool:
    """Whether JSON can hold the values of an Arrow type, but for numbers that are not finite."""
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(_is_plain(one.type) for one in kind)
    checks = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    return any(check(kind) for check in (*checks, types.is_null))


def _warn_of_columns(path: Path, names: Collection[str], why: str) -> None:
    warnings.warn(
        f"{path}: what stands in {', '.join(map(repr, sorted(names)))} is left out, {why}; JSON has no such values. "
        "Captions are read.",
        stacklevel=2,
    )


def _from_parquet_row(row: dict[str, Any], where: str) -> Located:
    fields = row.pop("fields", None)
    if isinstance(fields, str) and fields.startswith("{"):  # else another's column of that name
        fields = loads(fields.encode(), f"{where}, column fields", is_line=True)
    return from_row(row, where, fields)


def _pyarrow() -> tuple[Any, Any]:
    with needs("Parquet files need pyarrow", install="pip install 'tadp[parquet]'"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet
