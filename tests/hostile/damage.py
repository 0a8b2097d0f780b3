"""Sorts of damage to files, and classes of wrong values."""

import gzip
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from .child import CANARY

Damage = Callable[[bytes, Random], bytes]


class Payload:
    """Pickles as a call that creates the canary."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f'touch "${CANARY}"',)


def _zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", data)
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456789\n"
HTML = b"<!DOCTYPE html><html><head><title>403 Forbidden</title></head><body>Rate limit</body></html>\n"

# The content of a file becomes another content. Each of these leaves nothing that a reader could use.
CONTENTS: dict[str, Damage] = {
    "empty": lambda data, rng: b"",
    "cut in half": lambda data, rng: data[: len(data) // 2],
    "first 16 bytes": lambda data, rng: data[:16],
    "zeros": lambda data, rng: bytes(len(data)),
    "random bytes": lambda data, rng: rng.randbytes(len(data)),
    "first bytes changed": lambda data, rng: bytes(byte ^ 0x5A for byte in data[:8]) + data[8:],
    "git-lfs pointer": lambda data, rng: LFS,
    "error page": lambda data, rng: HTML,
    "zip": lambda data, rng: _zipped(data),
    "gzip": lambda data, rng: gzip.compress(data, mtime=0),
    "pickle that runs code": lambda data, rng: pickle.dumps(Payload()),
    "random bytes in front": lambda data, rng: rng.randbytes(40) + data,
}
# The file itself becomes something else.
PLACES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "fifo": lambda path: (path.unlink(), os.mkfifo(path)),
    "broken link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "endless device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}
DAMAGES = (*CONTENTS, *PLACES)

# Values of another type or out of any range; as JSON they are what a hand or another program writes.
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "text": "many",
    "empty text": "",
    "list": [1, [2]],
    "empty list": [],
    "object": {"a": 1},
    "negative": -3,
    "zero": 0,
    "fraction": 2.5,
    "huge": 10**12,
    "NaN": float("nan"),
    "infinite": float("inf"),
}


def damage(path: Path, sort: str, rng: Random) -> Path:
    """Damage a file in one of `DAMAGES`; return its path."""
    if sort in CONTENTS:
        path.write_bytes(CONTENTS[sort](path.read_bytes(), rng))
    else:
        PLACES[sort](path)
    return path
