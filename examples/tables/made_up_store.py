"""A feature store with any number of made-up images."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pyarrow

from tables.made_up import caption, image_id
from tadp.extract import manifest
from tadp.extract.store_index import key_of_id

ROW_BYTES, RECORD_BYTES = 4096, 512
ROWS_PER_SHARD = 10_000


def digest(number: int) -> str:
    """The SHA-256 of an image that does not exist."""
    return hashlib.blake2b(number.to_bytes(8, "big"), digest_size=32).hexdigest()


def shard_name(number: int) -> str:
    """The shard of an image."""
    return f"00001-abcdef-000-{number // ROWS_PER_SHARD:06d}.safetensors"


def rows(numbers: range) -> pyarrow.Table:
    """The rows of one shard. Tokens and words are empty."""
    ids, count = [image_id(number) for number in numbers], len(numbers)
    within = np.arange(count)
    same = {
        "status": "done", "width": 512, "height": 512, "dtype": "float16", "shard": shard_name(numbers[0]),
        "record_bytes": RECORD_BYTES, "bytes": ROW_BYTES, "crc32": 0, "settings": "0" * 16, "run": 1,
        "reason": None, "tokens": None, "words": None, "levels": [1],
    }  # fmt: skip
    columns = {
        "id": ids,
        "source": ids,
        "sha256": [digest(number) for number in numbers],
        "caption": [caption(number) for number in numbers],
        "key": np.array([key_of_id(image) for image in ids], np.uint64),
        "row": within,
        "offset": within * ROW_BYTES,
    }
    schema = manifest.schema()
    arrays = [
        pyarrow.array(columns[field.name], field.type)
        if field.name in columns
        else pyarrow.array([same[field.name]] * count, field.type)
        for field in schema
    ]
    return pyarrow.Table.from_arrays(arrays, schema=schema)


def write(folder: Path, images: int, looked_up: list[int]) -> list[float]:
    """Write the store as `StoreWriter` does, a part per shard, and return the CPU time of each tenth of it."""
    (folder / "shards").mkdir(parents=True)
    (folder / "store.json").write_text(json.dumps({"feature_store": 1, "settings": {"made": "up"}}))
    parts, tenths, shards = {}, [], range(0, images, ROWS_PER_SHARD)
    started = time.process_time()
    for done, first in enumerate(shards, start=1):
        stem = shard_name(first).removesuffix(".safetensors")
        numbers = range(first, min(first + ROWS_PER_SHARD, images))
        manifest.write_table(folder / "manifest" / f"{stem}.parquet", rows(numbers))
        parts[f"{stem}.parquet"] = len(numbers)
        if names := manifest.to_merge(parts):
            target = f"00001-abcdef-001-{first:09d}.parquet"
            paths = [folder / "manifest" / name for name in names]
            parts[target] = manifest.merge(folder / "manifest" / target, paths)
            for name in names:
                del parts[name]
        if done * 10 // len(shards) > len(tenths):
            tenths.append(time.process_time() - started)
            started = time.process_time()
    for number in looked_up:
        write_row(folder / "shards" / shard_name(number), number)
    return tenths


def write_row(path: Path, number: int) -> None:
    """Write the row of an image into its shard, in which everything else is a hole."""
    text = {
        "id": image_id(number), "image_size": [512, 512], "caption": caption(number), "tokens": None, "words": None,
        "cells": {}, "has_grid": False, "tensors": {"map.1": ["F16", [8, 4, 4]]},
    }  # fmt: skip
    record = json.dumps(text).encode().ljust(RECORD_BYTES)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write((8).to_bytes(8, "little") + b"{}      ")
        file.seek(16 + number % ROWS_PER_SHARD * ROW_BYTES)
        file.write(record)
        file.truncate(16 + ROWS_PER_SHARD * ROW_BYTES)
