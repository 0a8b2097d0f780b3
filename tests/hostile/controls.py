"""Kinds that must not be counted as handled: they show that the judge and the watch see what is wrong."""

import os
import pickle
import socket
import subprocess
import time
from pathlib import Path
from random import Random

from tadp.errors import ImageError

from .cases import Kind, tadp
from .child import CANARY
from .damage import Payload


def raise_(error: Exception) -> None:
    raise error


def crash(folder: Path, rng: Random) -> None:
    os.abort()


def spin(folder: Path, rng: Random) -> None:
    while True:
        pass


def run_file(folder: Path, rng: Random) -> None:
    (folder / "code.py").write_text("x = 1")
    exec(compile((folder / "code.py").read_text(), folder / "code.py", "exec"))


# What the outcome must say, and the kind.
CONTROLS = {
    "EXECUTED: the payload's file": Kind("file", lambda *_: Path(os.environ[CANARY]).touch()),
    "EXECUTED: os.system": Kind("pickle", lambda *_: pickle.loads(pickle.dumps(Payload()))),
    "EXECUTED: subprocess.Popen": Kind("process", lambda *_: subprocess.run(["true"], check=False)),
    "EXECUTED: socket.connect": Kind("socket", lambda *_: socket.socket().connect(("10.0.0.1", 80))),
    "EXECUTED: socket.getaddrinfo": Kind("name", lambda *_: socket.getaddrinfo("example.org", 80)),
    "EXECUTED: exec": Kind("code", run_file),
    "not done after": Kind("time", lambda *_: time.sleep(60), seconds=1),
    "not done": Kind("processor", spin, seconds=1),
    "MB of memory": Kind("memory", lambda *_: len(bytearray(os.urandom(1)) * 300_000_000), megabytes=100),
    "MemoryError": Kind("a lot of memory", lambda *_: bytearray(10**12)),
    "ended by signal 6": Kind("crash", crash),
    "accepted": Kind("value", lambda *_: 1),
    "wrong value": Kind("wrong value", lambda *_: 1, right=lambda value: value == 2),
    "KeyError raised in": Kind("foreign error", lambda *_: {}["x"]),
    "ValueError raised in": Kind("foreign value error", lambda *_: int("x")),
    "does not name": Kind("no name", lambda *_: raise_(ImageError("cannot be read")), names="photo"),
    "700 characters": Kind("long", lambda *_: raise_(ImageError("x" * 700))),
    "does not name 'nosuch": Kind("command", lambda *_: tadp("show", "other.png"), names="nosuch"),
}
