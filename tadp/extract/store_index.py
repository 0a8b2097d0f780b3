"""The index of a feature store: memory-mapped arrays that find a row by image id or by its number.

The index is made from the manifest, and made again whenever the parts of the manifest have changed. Opening it reads
only a few kilobytes, however many images there are.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tadp.errors import OutputError
from tadp.extract.manifest import FOLDER, Part, digests, part_names
from tadp.files.atomic import replace_folder
from tadp.language.unicode_forms import composed

FAILED = np.uint32(2**32 - 1)  # in place of a position
_INDEX = "index"
_FORMAT = 1
_INFO = "info.json"
_ARRAYS = ("keys", "positions", "contents", "locations", "offsets", "record_bytes")
_ROW_BITS = 32  # a location is the number of the shard, and in the lower bits the number of the row


def key_of_id(image_id: str) -> int:
    """64 bits that stand for an id. Ids that differ only in case or in their Unicode form have the same."""
    text = composed(image_id).casefold().encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class StoreIndex:
    """Where the rows of a store are.

    A position is the number of an image among those that are done, in the order of shards and rows.

    Attributes:
        keys: The keys of all ids, sorted (see `key_of_id`).
        positions: For each key, the position of the image; `FAILED` if it has no features.
        contents: For each key, the first 64 bits of the SHA-256 of the image file.
        locations: For each position, the number of the shard times 2**32, plus the row in it. They are sorted.
        offsets: For each position, where the row begins in the data of the shard.
        record_bytes: For each position, the size of the record.
        shards: The names of the shards, sorted.
        parts: The number of rows of each part of the manifest that counts, by its name.
        replaced: The names of parts that were merged into others, and not yet deleted.
        superseded: Number of rows in the manifest that later rows of the same images replace.
        last_run: Number of the latest run that wrote rows; 0 before the first run.
    """

    keys: np.ndarray
    positions: np.ndarray
    contents: np.ndarray
    locations: np.ndarray
    offsets: np.ndarray
    record_bytes: np.ndarray
    shards: Sequence[str]
    parts: Mapping[str, int]
    replaced: Sequence[str]
    superseded: int
    last_run: int

    @classmethod
    def open(cls, folder: Path) -> "StoreIndex":
        """Open the index of a store; make it first if the manifest has changed or never had one.

        Raises:
            DatasetError: If the manifest is damaged.
        """
        names = part_names(folder)
        target = folder / _INDEX / hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        with suppress(OSError, ValueError, KeyError, TypeError):
            return cls._load(target)
        index = cls._of_parts([Part(folder / FOLDER / name) for name in names])
        with suppress(OutputError):  # it may not be allowed to write there
            index._save(target)
            for other in target.parent.iterdir():
                if other != target:
                    shutil.rmtree(other, ignore_errors=True)
            return cls._load(target)
        return index

    @property
    def failed(self) -> int:
        """The number of images that failed."""
        return len(self.keys) - len(self.locations)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The number of each key in `keys`, or -1 if the store does not have it."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        if len(keys) == 1:
            places = np.array([self._near(int(keys[0]))])
        else:
            places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1)

    def _near(self, key: int) -> int:
        """The place of a key if it is there, for which only a small piece of the file is read.

        Keys are evenly distributed, so a key is about as far into the array as its value into their range.
        """
        count = len(self.keys)
        middle, reach = key * count >> 64, 4 * math.isqrt(count) + 8  # eight standard deviations
        start, stop = max(middle - reach, 0), min(middle + reach, count)
        piece = self.keys[start:stop]
        if not int(piece[0]) <= key <= int(piece[-1]):  # also if the key lies outside of all keys
            start, piece = 0, self.keys
        return min(start + int(np.searchsorted(piece, np.uint64(key))), count - 1)

    def place(self, position: int) -> tuple[str, int, int]:
        """The shard of a position, and offset and record size of its row."""
        shard = int(self.locations[position]) >> _ROW_BITS
        return self.shards[shard], int(self.offsets[position]), int(self.record_bytes[position])

    def positions_of(self, shards: Any, rows: np.ndarray) -> np.ndarray:
        """The positions of rows of the manifest; -1 for rows that do not count.

        Args:
            shards: Names of shards, as an Arrow array.
            rows: Numbers of the rows in them.
        """
        if not len(self.locations):
            return np.full(len(rows), -1)
        wanted = _locations(shards, rows, {name: number for number, name in enumerate(self.shards)})
        places = np.searchsorted(self.locations, wanted).clip(max=len(self.locations) - 1)
        return np.where(self.locations[places] == wanted, places, -1)

    def failures(self, folder: Path) -> dict[int, tuple[int, str, str]]:
        """For the key of each failed image, the run in which it failed, its id, and the reason.

        Args:
            folder: The folder of the store.
        """
        failures: dict[int, tuple[int, str, str]] = {}
        for name in self.parts if self.failed else ():
            for batch in Part(folder / FOLDER / name).batches(("status", "key", "run", "id", "reason")):
                for row in batch.filter(np.array(batch["status"]) == "failed").to_pylist():
                    failure = (row["run"], row["id"], row["reason"])
                    if self.positions[self.find(np.array([row["key"]], np.uint64))[0]] == FAILED:
                        failures[row["key"]] = max(failure, failures.get(row["key"], failure))
        return failures

    def is_live(self, folder: Path) -> Callable[[Any], np.ndarray]:
        """Return a function from a batch of the manifest to booleans, which are false for rows that later rows replace.

        Args:
            folder: The folder of the store.
        """
        failures = self.failures(folder)

        def live(batch: Any) -> np.ndarray:
            positions = self.positions_of(batch["shard"], batch["row"].fill_null(0).to_numpy(zero_copy_only=False))
            pairs = zip(batch["key"].to_pylist(), batch["run"].to_pylist(), strict=True)
            current = np.array([key in failures and failures[key][0] == run for key, run in pairs])
            return np.where(np.array(batch["status"]) == "failed", current, positions >= 0)

        return live

    @classmethod
    def _of_parts(cls, parts: Sequence[Part]) -> "StoreIndex":
        """Read the columns one after another, so that few of them are in memory at once."""
        replaced = {name for part in parts for name in part.replaces}
        counted = [part for part in parts if part.path.name not in replaced]
        keys = _column(counted, "key", np.uint64)
        runs = _column(counted, "run", np.uint32)
        order = np.lexsort((runs, keys))  # for each key, the latest run last
        last_run = int(runs.max(initial=0))
        del runs
        keys = keys[order]
        is_latest = np.append(keys[1:] != keys[:-1], True) if len(keys) else np.zeros(0, bool)
        keys, order = keys[is_latest], order[is_latest]
        names = sorted({name for part in counted for name in _distinct(part, "shard")})
        numbers = {name: number for number, name in enumerate(names)}
        rows = [
            _locations(batch["shard"], batch["row"].fill_null(0).to_numpy(zero_copy_only=False), numbers)
            for part in counted
            for batch in part.batches(["shard", "row"])
        ]
        locations = np.concatenate(rows)[order] if rows else np.zeros(0, np.uint64)
        del rows
        is_done = locations != _NOWHERE
        done = np.flatnonzero(is_done)[np.argsort(locations[is_done], kind="stable")]
        positions = np.full(len(keys), FAILED)
        positions[done] = np.arange(len(done), dtype=np.uint32)
        locations = locations[done]
        total, done = len(is_latest), order[done]
        contents = _contents(counted)[order]
        del order
        return cls(
            keys,
            positions,
            contents,
            locations,
            _column(counted, "offset", np.uint64)[done],
            _column(counted, "record_bytes", np.uint32)[done],
            names,
            {part.path.name: part.rows for part in counted},
            sorted(replaced.intersection(part.path.name for part in parts)),
            total - len(keys),
            last_run,
        )

    def _save(self, target: Path) -> None:
        info = {"format": _FORMAT, "shards": self.shards, "parts": self.parts, "replaced": self.replaced}
        with replace_folder(target) as new:
            for name in _ARRAYS:
                np.save(new / f"{name}.npy", getattr(self, name))
            (new / _INFO).write_text(
                json.dumps(info | {"superseded": self.superseded, "last_run": self.last_run}), encoding="utf-8"
            )

    @classmethod
    def _load(cls, target: Path) -> "StoreIndex":
        info = json.loads((target / _INFO).read_text(encoding="utf-8"))
        if info["format"] != _FORMAT:
            raise ValueError("the index has another format")
        arrays = [np.load(target / f"{name}.npy", mmap_mode="r") for name in _ARRAYS]
        counts = [len(array) for array in arrays]
        if counts != [counts[0]] * 3 + [counts[3]] * 3:
            raise ValueError("the arrays of the index differ in length")
        fields = (info[name] for name in ("shards", "parts", "replaced", "superseded", "last_run"))
        return cls(*arrays, *fields)


_NOWHERE = np.uint64(2**64 - 1)  # the location of an image that failed


def _locations(shards: Any, rows: np.ndarray, numbers: dict[str, int]) -> np.ndarray:
    coded = shards.dictionary_encode()
    values = [numbers.get(name, -1) for name in coded.dictionary.to_pylist()]
    codes = coded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    own = np.array([*values, -1], dtype=np.int64)[codes]
    places = (own.astype(np.uint64) << np.uint64(_ROW_BITS)) | rows.astype(np.uint64)
    return np.where(own < 0, _NOWHERE, places)


def _column(parts: Sequence[Part], name: str, dtype: Any) -> np.ndarray:
    pieces = [
        batch[name].fill_null(0).to_numpy(zero_copy_only=False).astype(dtype)
        for part in parts
        for batch in part.batches([name])
    ]
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype)


def _contents(parts: Sequence[Part]) -> np.ndarray:
    pieces = [digests(batch["sha256"]) for part in parts for batch in part.batches(["sha256"])]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint64)


def _distinct(part: Part, name: str) -> Iterator[str]:
    for batch in part.batches([name]):
        yield from (value for value in batch[name].unique().to_pylist() if value is not None)
