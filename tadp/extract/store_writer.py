"""Writing a feature store: shards, and after each shard the rows of its images in the manifest."""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tadp._version import __version__
from tadp.errors import OutputError
from tadp.extract import manifest
from tadp.extract.outputs import difference
from tadp.extract.shards import OpenShard, Place, Shard
from tadp.extract.store_index import StoreIndex, key_of_id
from tadp.files.atomic import remove_leftovers, replace_file
from tadp.files.checks import LARGEST_JSON, check_regular

STORE = "store.json"
SHARDS = "shards"
FORMAT = 1
_LONGEST_S = 300.0  # after so long, a shard is written even if it is small, so that a killed run loses little


class StoreWriter:
    """The writer of a run into a feature store. Only one may be open per store at a time.

    Args:
        folder: The folder of the store, which exists.
        settings: Everything that determines the features, as JSON values.
        shard_mb: Largest size of a shard in MB (10**6 bytes). A single image may take more.
        check: A function that raises if the folder is no longer there. It is called before each shard is written.
        worker: Number of this process among those that write in one run.

    Raises:
        MissingExtraError: If pyarrow is not installed.
        OutputError: If the store has features from other settings, or is of a newer version of tadp.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        shard_mb: int,
        check: Callable[[], None] = lambda: None,
        worker: int = 0,
    ):
        manifest.pyarrow()
        self._folder, self._check, self._most_bytes = folder, check, shard_mb * 10**6
        self._settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        _start_store(folder, settings)
        remove_leftovers(folder)
        for name in (SHARDS, manifest.FOLDER):
            (folder / name).mkdir(exist_ok=True)
            remove_leftovers(folder / name)
        self.index = StoreIndex.open(folder)
        for name in self.index.replaced:
            (folder / manifest.FOLDER / name).unlink(missing_ok=True)
        self._start(worker)
        if self._adopt():
            self.index = StoreIndex.open(folder)
            self._start(worker)

    def _start(self, worker: int) -> None:
        self._run, self._parts = self.index.last_run + 1, dict(self.index.parts)
        self._name, self._number = f"{self._run:05d}-{secrets.token_hex(3)}-{worker:03d}", 0
        self._shard, self._rows, self._opened = OpenShard(), [], time.monotonic()

    def write(self, image_id: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Add the features of an image, and return its record. They are on the disk when the shard is full.

        Args:
            image_id: Id of the image.
            record: The entries image, image_sha256, image_size, caption, tokens, words, levels, and others.
            tensors: The tensors by name, on the CPU.

        Raises:
            OutputError: If the shard cannot be written.
        """
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._shard.rows and self._shard.size + size > self._most_bytes:
            self.flush()
        stored = {"id": image_id, **record, "run": self._run, "settings": self._settings}
        stored = json.loads(json.dumps(stored).encode("utf-8", "backslashreplace"))
        place = self._shard.add(stored, tensors)
        self._rows.append(_row(stored, place, f"{self._stem()}.safetensors", tensors_dtype(tensors)))
        if time.monotonic() - self._opened > _LONGEST_S or self._shard.size >= self._most_bytes:
            self.flush()
        return stored

    def fail(self, image_id: str, *, source: str, digest: str | None, reason: str) -> None:
        """Record that an image failed, and why."""
        row = {"id": image_id, "source": source, "reason": reason}
        row = {name: text.encode("utf-8", "backslashreplace").decode() for name, text in row.items()}
        own = {"key": key_of_id(image_id), "run": self._run, "settings": self._settings}
        self._rows.append({**row, "status": "failed", "sha256": digest, **own})

    def flush(self) -> None:
        """Write the shard that is being filled, and its rows in the manifest.

        Raises:
            OutputError: If this is not possible; the images of this shard are then not in the store.
        """
        if not self._rows:
            return
        self._check()
        shard, rows, stem = self._shard, self._rows, self._stem()
        self._shard, self._rows, self._opened = OpenShard(), [], time.monotonic()
        try:
            if shard.rows:
                with replace_file(self._folder / SHARDS / f"{stem}.safetensors") as partial:
                    shard.write(partial)
            manifest.write_part(self._folder / manifest.FOLDER / f"{stem}.parquet", rows)
        except OutputError as error:
            raise OutputError(
                f"{error} The last {len(rows)} images are not in the store; run the command again."
            ) from error
        self._parts[f"{stem}.parquet"] = len(rows)
        self._number += 1
        if names := manifest.to_merge(self._parts):
            self._merge(names)

    def close(self) -> None:
        """Write what is left, remove rows that later rows replace, and bring the index up to date."""
        self.flush()
        index = StoreIndex.open(self._folder)
        if index.superseded:
            keep = index.is_live(self._folder)
            for name in index.parts:
                part = manifest.Part(self._folder / manifest.FOLDER / name)
                if not all(keep(batch).all() for batch in part.batches(("shard", "row", "status", "key", "run"))):
                    self._merge([name], keep=keep)
            left = StoreIndex.open(self._folder)
            for name in set(index.shards).difference(left.shards):
                (self._folder / SHARDS / name).unlink(missing_ok=True)

    def _merge(self, names: list[str], *, keep: Callable[[Any], Any] | None = None) -> None:
        parts, target = [self._folder / manifest.FOLDER / name for name in names], f"{self._stem()}.parquet"
        rows = manifest.merge(self._folder / manifest.FOLDER / target, parts, keep=keep)
        self._number += 1
        for name in names:
            del self._parts[name]
        self._parts[target] = rows

    def _stem(self) -> str:
        return f"{self._name}-{self._number:06d}"

    def _adopt(self) -> bool:
        """Add the rows of complete shards that no part names, as a killed run leaves one, and return if there are any.

        The features of other settings stay as they are.
        """
        known = set(self.index.shards)
        unnamed = sorted(path for path in (self._folder / SHARDS).glob("*.safetensors") if path.name not in known)
        for path in unnamed:
            rows = list(Shard(path).rows())
            if rows and all(record.get("settings") == self._settings for record, _, _ in rows):
                part = self._folder / manifest.FOLDER / f"{path.stem}.parquet"
                manifest.write_part(part, [_row(record, place, path.name, dtype) for record, place, dtype in rows])
        return bool(unnamed)


def tensors_dtype(tensors: Mapping[str, Tensor]) -> str:
    """The dtype of the tensors of an image; several names if they differ."""
    return ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}))


def read_store(folder: Path) -> dict[str, Any] | None:
    """The description of a store; None if the folder is not a store."""
    try:
        check_regular(folder / STORE, most_bytes=LARGEST_JSON)
        description = json.loads((folder / STORE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_store = isinstance(description, dict) and isinstance(description.get("feature_store"), int)
    return description if is_store and isinstance(description.get("settings"), dict) else None


def _start_store(folder: Path, settings: Mapping[str, Any]) -> None:
    """Describe a new store, or check that an existing one has the same settings."""
    description = read_store(folder)
    if description is None:
        if (folder / STORE).exists():
            raise OutputError(f"{folder / STORE} is not the description of a feature store. Choose another folder.")
        with replace_file(folder / STORE) as partial:
            text = json.dumps({"feature_store": FORMAT, "tadp": __version__, "settings": settings}, indent=1)
            partial.write_text(text + "\n", encoding="utf-8")
        return
    if description["feature_store"] != FORMAT:
        raise OutputError(
            f"{folder} is a feature store of format {description['feature_store']}; this version of tadp knows "
            f"{FORMAT}. Use a newer version of tadp, or choose another folder."
        )
    stored = description["settings"]
    changed = [key for key in {**stored, **settings} if stored.get(key) != settings.get(key)]
    if changed:
        why = difference(changed[0], stored.get(changed[0]), settings.get(changed[0]))
        raise OutputError(
            f"{folder} is a feature store with other settings: {why}. "
            "All features in a store have the same settings; choose another folder."
        )


def _row(record: Mapping[str, Any], place: Place, shard: str, dtype: str) -> dict[str, Any]:
    """The row of an image in the manifest."""
    height, width = record["image_size"]
    return {
        "id": record["id"],
        "status": "done",
        "source": record["image"],
        "sha256": record["image_sha256"],
        "height": height,
        "width": width,
        **{name: record[name] for name in ("caption", "tokens", "words", "levels", "run", "settings")},
        "dtype": dtype,
        "shard": shard,
        "row": place.row,
        "offset": place.offset,
        "record_bytes": place.record_bytes,
        "bytes": place.size,
        "crc32": place.crc32,
        "key": key_of_id(record["id"]),
    }
