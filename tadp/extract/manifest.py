"""The manifest of a feature store: Parquet files, its parts, with a row for each image, done or failed.

A part is written after the shard of its rows, so a row exists only if its features are complete. Small parts are merged
into larger ones as their number grows. A merged part lists those that it replaces, which then do not count anymore and
are deleted.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tadp.errors import DatasetError
from tadp.files.atomic import replace_file
from tadp.files.checks import needs

FOLDER = "manifest"
COLUMNS = (  # the first ones are for users
    "id", "status", "reason", "source", "sha256", "height", "width", "caption", "tokens", "words", "levels", "dtype",
    "shard", "row", "offset", "record_bytes", "bytes", "crc32", "settings", "run", "key",
)  # fmt: skip
_ROW_GROUP = 16_384  # rows that are read at once
_LARGE = 200_000  # rows of a part that is not merged again
_FAN_IN = 32  # parts of similar size that are merged into one
_REPLACES = b"tadp_replaces"
_NO_DIGEST = "0" * 64


def pyarrow() -> tuple[Any, Any]:
    """Return the modules `pyarrow` and `pyarrow.parquet`.

    Raises:
        MissingExtraError: If pyarrow is not installed.
    """
    with needs("a feature store needs pyarrow", install="pip install 'tadp[parquet]'"):
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet


def schema() -> Any:
    """The columns of the manifest with their types."""
    arrow, _ = pyarrow()
    text, word = arrow.string(), [("text", arrow.string()), ("start", arrow.int32()), ("stop", arrow.int32())]
    types = {
        "height": arrow.int32(), "width": arrow.int32(), "tokens": arrow.list_(text),
        "words": arrow.list_(arrow.struct(word)), "levels": arrow.list_(arrow.int8()), "row": arrow.int32(),
        "offset": arrow.int64(), "record_bytes": arrow.int32(), "bytes": arrow.int64(), "crc32": arrow.uint32(),
        "run": arrow.int32(), "key": arrow.uint64(),
    }  # fmt: skip
    return arrow.schema([(name, types.get(name, text)) for name in COLUMNS])


def write_part(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a part completely or not at all."""
    arrow, _ = pyarrow()
    write_table(path, arrow.Table.from_pylist(list(rows), schema=schema()))


def write_table(path: Path, table: Any) -> None:
    """Write a part from an Arrow table with the columns of `schema`."""
    _, parquet = pyarrow()
    with replace_file(path) as partial:
        parquet.write_table(table, partial, row_group_size=_ROW_GROUP, compression="zstd")


def part_names(folder: Path) -> list[str]:
    """The names of the parts in a store, sorted."""
    try:
        return sorted(path.name for path in (folder / FOLDER).iterdir() if path.suffix == ".parquet")
    except FileNotFoundError:
        return []


class Part:
    """A part that is open for reading.

    Args:
        path: The file.

    Raises:
        DatasetError: If it cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        arrow, parquet = pyarrow()
        try:
            self.file = parquet.ParquetFile(path)
        except (OSError, arrow.ArrowException) as error:
            raise self._damaged(error) from error
        missing = [name for name in COLUMNS if name not in self.file.schema_arrow.names]
        if missing:
            raise self._damaged(f"it lacks the column {missing[0]!r}")
        self.rows: int = self.file.metadata.num_rows
        replaced = (self.file.schema_arrow.metadata or {}).get(_REPLACES, b"[]")
        self.replaces: list[str] = json.loads(replaced)

    def batches(self, columns: Sequence[str]) -> Iterable[Any]:
        """Read some columns in pieces."""
        arrow, _ = pyarrow()
        try:
            yield from self.file.iter_batches(_ROW_GROUP, columns=list(columns))
        except (OSError, arrow.ArrowException) as error:
            raise self._damaged(error) from error

    def _damaged(self, why: object) -> DatasetError:
        return DatasetError(
            f"{self.path} cannot be read as a part of a manifest: {str(why).rstrip('.')}. Get the file from a copy; if "
            "there is none, delete it, and run `tadp extract` again, which computes its images again."
        )


def merge(target: Path, parts: Sequence[Path], *, keep: Callable[[Any], np.ndarray] | None = None) -> int:
    """Write one part that replaces others, delete those, and return its number of rows.

    Args:
        target: The part to write.
        parts: The parts that it replaces.
        keep: The rows of a batch to keep, as booleans; None keeps all.
    """
    arrow, parquet = pyarrow()
    described = schema().with_metadata({_REPLACES: json.dumps([path.name for path in parts])})
    waiting, rows = [], 0
    with replace_file(target) as partial, parquet.ParquetWriter(partial, described, compression="zstd") as writer:
        for path in parts:
            for batch in Part(path).batches(COLUMNS):
                kept = batch if keep is None else batch.filter(arrow.array(keep(batch)))
                waiting.append(kept.select(COLUMNS).cast(schema()))
                rows += kept.num_rows
                if sum(piece.num_rows for piece in waiting) >= _ROW_GROUP:
                    writer.write_table(arrow.Table.from_batches(waiting), row_group_size=_ROW_GROUP)
                    waiting = []
        if waiting:
            writer.write_table(arrow.Table.from_batches(waiting), row_group_size=_ROW_GROUP)
    for path in parts:
        path.unlink(missing_ok=True)
    return rows


def to_merge(sizes: Mapping[str, int]) -> list[str]:
    """Choose parts to merge: those of similar size, once there are many. So each row is written only a few times.

    Args:
        sizes: Number of rows of each part.
    """
    classes = {name: int(math.log(max(rows, 1), _FAN_IN)) for name, rows in sizes.items() if rows < _LARGE}
    for size, count in sorted(Counter(classes.values()).items()):
        if count >= _FAN_IN:
            return sorted(name for name, own in classes.items() if own == size)
    return []


def digests(hexadecimal: Any) -> np.ndarray:
    """The first 64 bits of each digest in an Arrow array of hexadecimal texts; 0 for rows without a digest."""
    arrow, _ = pyarrow()
    compute = arrow.compute
    texts = compute.fill_null(hexadecimal.cast(arrow.string()), _NO_DIGEST)
    if len(texts) == 0 or not compute.all(compute.equal(compute.binary_length(texts), len(_NO_DIGEST))).as_py():
        return np.array([int(text[:16].strip() or "0", 16) for text in texts.to_pylist()], dtype=np.uint64)
    start = len(_NO_DIGEST) * texts.offset
    characters = np.frombuffer(texts.buffers()[2], np.uint8, count=len(_NO_DIGEST) * len(texts), offset=start)
    first = characters.reshape(len(texts), -1)[:, :16]
    nibbles = np.where(first > ord("9"), first - ord("a") + 10, first - ord("0")).astype(np.uint64)
    return (nibbles << np.arange(60, -4, -4, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
