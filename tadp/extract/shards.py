"""Shards: safetensors files with the features of many images.

The data of an image, its row, is in one piece, so that one read gets all of it: first its record (JSON, as the tensor
`<row>.record` of bytes), then its tensors (`<row>.map.1` and so on). The record lists the names, dtypes and shapes of
the tensors, so a reader that knows where the row is need not read the header of the file, which lists all rows.
"""

import json
import math
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tadp.errors import DatasetError, MissingDataError

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNED = 8  # bytes; tensors begin at a multiple, so that they can be used where they are in the file
_LENGTH = 8  # bytes of the length of the header, at the beginning of a safetensors file
_METADATA = {"format": "pt", "tadp": "feature store"}
_REPAIR = "Delete the shard, and run `tadp extract` again, which computes its images again."


@dataclass(frozen=True)
class Place:
    """Where the row of an image is in its shard.

    Attributes:
        row: Number of the row.
        offset: Position of its first byte in the data of the shard, after the header.
        record_bytes: Size of its record.
        size: Size of the row in bytes, that is, of its record and tensors.
        crc32: Checksum of the row.
    """

    row: int
    offset: int
    record_bytes: int
    size: int
    crc32: int


@dataclass
class OpenShard:
    """A shard that is being filled, in memory."""

    _pieces: list[memoryview | bytes] = field(default_factory=list)
    _header: dict[str, Any] = field(default_factory=lambda: {"__metadata__": _METADATA})
    rows: int = 0
    size: int = 0  # bytes

    def add(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Place:
        """Append a row and return its place."""
        ordered = dict(sorted(tensors.items(), key=lambda pair: -pair[1].dtype.itemsize))  # keeps all of them aligned
        specs = {name: [_NAMES[tensor.dtype], list(tensor.shape)] for name, tensor in ordered.items()}
        text = json.dumps({**record, "tensors": specs}, ensure_ascii=False).encode("utf-8", "backslashreplace")
        text += b" " * (-(self.size + len(text)) % _ALIGNED)
        pieces = [text, *(_bytes_of(tensor) for tensor in ordered.values())]
        size, crc32 = sum(map(len, pieces)), 0
        for piece in pieces:
            crc32 = zlib.crc32(piece, crc32)
        place = Place(self.rows, self.size, len(text), size, crc32)
        self._header |= _entries(place, specs)
        self._pieces += pieces
        self.rows, self.size = self.rows + 1, self.size + size
        return place

    def write(self, path: Path) -> None:
        """Write the shard."""
        with path.open("wb") as file:
            file.write(_header(self._header))
            for piece in self._pieces:
                file.write(piece)


class Shard:
    """A shard that is memory-mapped. Its tensors are the mapped file itself, so only what is used is read.

    Args:
        path: The file.

    Raises:
        MissingDataError: If there is no such file.
        DatasetError: If it is not a shard.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            with path.open("rb") as file:
                self._bytes = os.fstat(file.fileno()).st_size
                if self._bytes <= _LENGTH:
                    raise self._damaged("it is empty")
                # Copy on write: torch wants memory that it may write to, and the file never changes.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError as error:
            raise MissingDataError(
                f"the shard {path} is missing, but the manifest names it. Get it from a copy, or run `tadp extract` "
                "again, which computes its images again."
            ) from error
        except OSError as error:
            raise DatasetError(f"the shard {path} cannot be read: {error.strerror or error}.") from error
        self._start = _LENGTH + int.from_bytes(self._map[:_LENGTH], "little")

    def read(self, offset: int, record_bytes: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The record of a row, and its tensors by name.

        Args:
            offset: Position of the row in the data of the shard.
            record_bytes: Size of the record.
        """
        record = self.record(offset, record_bytes)
        tensors, start = {}, self._start + offset + record_bytes
        try:
            specs = [
                (name, _DTYPES[dtype], math.prod(shape), shape) for name, (dtype, shape) in record["tensors"].items()
            ]
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise self._damaged("a record in it lists no tensors") from error
        for name, dtype, count, shape in specs:
            self._check_end(start + count * dtype.itemsize)
            tensors[name] = torch.frombuffer(self._map, dtype=dtype, count=count, offset=start).reshape(shape)
            start += count * dtype.itemsize
        return record, tensors

    def record(self, offset: int, record_bytes: int) -> dict[str, Any]:
        """The record of a row."""
        start = self._start + offset
        self._check_end(start + record_bytes)
        try:
            record = json.loads(self._map[start : start + record_bytes])
            known = {"id", "image_size", "tensors"} <= record.keys()
        except (ValueError, RecursionError, AttributeError) as error:
            raise self._damaged(f"a record in it is not JSON: {error}") from error
        if not known:
            raise self._damaged("a record in it lacks an entry")
        return record

    def rows(self) -> Iterator[tuple[dict[str, Any], Place, str]]:
        """The record, place and dtype of each row, as the header lists them."""
        try:
            header = json.loads(self._map[_LENGTH : self._start])
            ends = [
                (int(name.partition(".")[0]), *entry["data_offsets"], name.endswith(".record"), entry["dtype"])
                for name, entry in header.items()
                if name != "__metadata__"
            ]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise self._damaged("its header is not that of a shard") from error
        for row, entries in groupby(sorted(ends), key=lambda entry: entry[0]):
            listed = list(entries)
            start, stop, end = listed[0][1], listed[0][2], listed[-1][2]
            self._check_end(self._start + end)
            crc32 = zlib.crc32(memoryview(self._map)[self._start + start : self._start + end])
            dtypes = {str(_DTYPES[dtype]).removeprefix("torch.") for *_, is_record, dtype in listed if not is_record}
            place = Place(row, start, stop - start, end - start, crc32)
            yield self.record(start, stop - start), place, ", ".join(sorted(dtypes))

    def damages(self, places: Sequence[Place]) -> Iterator[str]:
        """What differs from the shard that was written, in words. Reads the whole file.

        Args:
            places: The places of its rows that count, at least one, in their order.
        """
        expected = self._start + max(place.offset + place.size for place in places)
        if self._bytes < expected or self._start < _LENGTH:
            yield f"{self._path} has {self._bytes} bytes instead of {expected}"
            return
        header: dict[str, Any] = {"__metadata__": _METADATA}
        is_whole = True
        for place in places:
            start = self._start + place.offset
            if zlib.crc32(memoryview(self._map)[start : start + place.size]) != place.crc32:
                is_whole = False
                yield f"{self._path} has changed bytes in row {place.row}"
            elif is_whole:
                header |= _entries(place, self.record(place.offset, place.record_bytes)["tensors"])
        is_complete = expected == self._bytes and len(places) == places[-1].row + 1
        if is_whole and not self._has_header(header, is_complete):
            yield f"{self._path} has changed bytes in its header, or its size has changed"

    def _has_header(self, expected: dict[str, Any], is_complete: bool) -> bool:
        """Whether the header has the expected entries, and, if they are complete, no others."""
        if is_complete:
            return self._map[: self._start] == _header(expected)
        try:
            header = json.loads(self._map[_LENGTH : self._start])
            end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
            return self._start + end == self._bytes and all(header.get(name) == expected[name] for name in expected)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return False

    def _check_end(self, end: int) -> None:
        if end > self._bytes:
            raise self._damaged(f"it is cut short, at {self._bytes} bytes")

    def _damaged(self, why: str) -> DatasetError:
        return DatasetError(f"the shard {self._path} is damaged: {why}. {_REPAIR}")


def _entries(place: Place, specs: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a row in the header of a safetensors file."""
    stop = place.offset + place.record_bytes
    entries = {f"{place.row}.record": _entry("U8", [place.record_bytes], place.offset, stop)}
    for name, (dtype, shape) in specs.items():
        start, stop = stop, stop + math.prod(shape) * _DTYPES[dtype].itemsize
        entries[f"{place.row}.{name}"] = _entry(dtype, shape, start, stop)
    return entries


def _entry(dtype: str, shape: Sequence[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def _header(entries: Mapping[str, Any]) -> bytes:
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(_LENGTH, "little") + text


def _bytes_of(tensor: Tensor) -> memoryview:
    array: np.ndarray = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return array.data
