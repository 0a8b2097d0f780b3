"""Commands that are killed at any moment and run again; the result must be that of a run that nobody disturbed.

A kill happens at the n-th event that touches a file of the case (open, rename, remove, mkdir, fsync and so on), with n
spread over the whole run, or at a random time. After it, a file that has the final name of a result must have its final
content, and the same command, run again, must end as if nothing had happened: same files, same contents, nothing else.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from endpoint_server import cleaned, serving

from tadp.inspection import facts_cache

from .cases import RefusedError, tadp
from .child import Outcome, fork
from .fixtures import copy

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod", "os.utime",
          "shutil.rmtree", "shutil.move", "sqlite3.connect", "tempfile.mkstemp", "tempfile.mkdtemp")  # fmt: skip
DONE = re.compile("already exists|is not empty|is finished")  # what a command says when its result is complete
# What differs between two undisturbed runs: times, and names of files that are hashes of the path of the case's folder.
VARIES = re.compile(
    rb'"images_per_s": [\d.]+|"minutes": [\d.]+|\| time \| [^|\n]+ since the last start|\b[0-9a-f]{40}\.json'
)
SECONDS = 300.0


NONE = r"^$"
URL = "http://127.0.0.1:{port}/v1"  # a server that runs as long as the command


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        arguments: Arguments of `tadp`, which runs in the folder that `inputs` fills.
        inputs: Fixtures that are copied into the folder.
        grows: A regular expression for files that grow under their final name, as a table on disk does.
        kills: How often it is killed, at least 10.
        at_random: How many of the kills are at random times. The others are at file events, which native libraries
            (SQLite, safetensors) do not report.
        is_slow: Whether the command is too slow for the sample in the test suite.
    """

    arguments: tuple[str, ...]
    inputs: tuple[str, ...]
    grows: str = NONE
    kills: int = 13
    at_random: int = 3
    is_slow: bool = False


@dataclass(frozen=True)
class Kill:
    """The `number`-th kill of a command."""

    command: str
    number: int

    def __str__(self) -> str:
        return f"kill {self.command}: {self.number}"


def _captioned(suffix: str) -> Command:
    arguments = ("caption", "photos", "-o", f"out.{suffix}", "--batch-size", "1")
    if suffix == "db":
        return Command(arguments, ("photos",), grows=r"^out\.db", at_random=9)
    return Command(arguments, ("photos",))


def _predicted(task: str) -> Command:
    return Command(("predict", task, "photos", "-m", task, "-o", "out", "--caption", "a dog"), ("photos", task))


def _tuned(*arguments: str) -> Command:
    steps = ("--steps", "4", "--batch-size", "1", "--checkpoint-every", "2", "--sample-every", "2", "--side-px", "64")
    return Command(("personalize", *arguments, "-o", "out", "-m", "sd", *steps), ("photos", "sd"), grows="checkpoint")


def _trained(*options: str, inputs: tuple[str, ...] = ()) -> Command:
    arguments = ("train", "segmentation", "--data", "labelled", "-o", "out", "--model", "sd", "--tune", "head",
                 "--head-options", '{"fpn_channels": 8, "channels": 8}', "--crop", "32", "--steps", "4", "--batch", "2",
                 "--save-every", "1", *options)  # fmt: skip
    return Command(
        arguments, ("labelled", "sd", *inputs), grows=r"checkpoints|metrics\.jsonl|captions\.db", at_random=4
    )


EXTRACT = ("extract", "photos", "-o", "out", "--caption", "a dog")
COMMANDS: dict[str, Command] = {
    "caption to .json": _captioned("json"),
    "caption to .jsonl": _captioned("jsonl"),
    "caption to .parquet": _captioned("parquet"),
    "caption to .db": _captioned("db"),
    "extract": Command((*EXTRACT, "--batch-size", "2"), ("photos",)),
    "extract in tiles": Command((*EXTRACT, "--tile", "64", "--overlap", "0"), ("photos",)),
    "clean": Command(("clean", "captions/captions.jsonl", "-o", "out.jsonl"), ("captions",)),
    "clean to .parquet": Command(("clean", "captions/captions.json", "-o", "out.parquet"), ("captions",)),
    "clean by an endpoint": Command(
        ("clean", "captions/captions.jsonl", "-o", "out.jsonl", "--endpoint", URL, "--language-model", "m"),
        ("captions",),
    ),
    "predict segmentation": _predicted("segmentation"),
    "predict depth": _predicted("depth"),
    "predict detection": _predicted("detection"),
    "evaluate": Command(
        ("evaluate", "segmentation", "-m", "segmentation", "--images", "own/images", "--masks", "own/masks",
         "--captions", "own.json", "-o", "out.json"), ("segmentation", "own", "own.json")
    ),
    "personalize token": _tuned("token", "photos", "--token", "<wash>", "--initializer", "photo"),
    "personalize dreambooth": _tuned("dreambooth", "photos", "--lora-rank", "2"),
    "show": Command(("show", "photos/photo-0.png", "--caption", "a red dog", "-o", "out.png"), ("photos",)),
    "convert": Command(
        ("convert", "vpd.pth", "-o", "out", "--base-model", "sd", "--room", "bedroom"), ("vpd.pth", "sd")
    ),
    "data": Command(("data", "labelled", "-o", "out"), ("labelled",)),
    "train": _trained("--ema", "0.5", "--patience", "2", "--evaluate-every", "1"),
    "train on captions": _trained("--captioner", "blip", inputs=("blip",)),
    "export": Command(("export", "sd", "-o", "out.onnx", "--size", "64x64"), ("sd",), kills=10, is_slow=True),
}  # fmt: skip


@cache
def all_kills() -> dict[str, Kill]:
    """All kills by name."""
    return {
        str(kill): kill for command in COMMANDS for kill in (Kill(command, k) for k in range(COMMANDS[command].kills))
    }


@cache
def unbroken(name: str) -> tuple[dict[str, str], int, float]:
    """The files that a command leaves when nobody disturbs it, the number of events, and its duration."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as place:
        folder = _prepare(COMMANDS[name], Path(place))
        start = time.monotonic()
        ended = fork(lambda: _run(COMMANDS[name], folder), log=Path(place, "log"), wait_s=SECONDS)
        assert (ended.value or [None])[0] == 0, f"tadp {name} fails: {ended} {Path(place, 'log').read_text()}"
        return _snapshot(folder), ended.value[2], time.monotonic() - start


def run_kill(kill: Kill, seed: int) -> Outcome:
    """Kill a command, run it again, and compare the result with that of an undisturbed run."""
    command, rng, start = COMMANDS[kill.command], Random(f"{seed} {kill}"), time.monotonic()
    expected, events, seconds = unbroken(kill.command)
    by_event = min(events, command.kills - command.at_random)  # the other kills are at random times
    at_event = at_time = None
    if kill.number < by_event:
        at_event = min(events, 1 + int((kill.number + rng.random()) * events / by_event))
    else:
        at_time = rng.random() * seconds
    moment = f"event {at_event} of {events}" if at_event else f"{at_time:.2f} s of {seconds:.2f} s"
    with tempfile.TemporaryDirectory(prefix="hostile-") as place:
        folder, log = _prepare(command, Path(place)), Path(place, "log")
        fork(lambda: _run(command, folder, at_event=at_event, at_time=at_time), log=log, wait_s=SECONDS)
        left = _snapshot(folder)
        early = _differences(left, expected, only_existing=True, leave_out=command.grows)
        if left == expected:  # killed after the last step
            return Outcome("right", f"killed at {moment}, when it was done", time.monotonic() - start)
        between = sorted(set(left) - set(expected))
        ended = fork(lambda: _run(command, folder), log=log, wait_s=SECONDS)
        late = _differences(_snapshot(folder), expected, only_existing=False, leave_out=NONE)
    cost = time.monotonic() - start, ended.megabytes
    if early:
        return Outcome("other", f"killed at {moment}: incomplete under a final name: {', '.join(early)}", *cost)
    says_done = expected.items() <= left.items() and ended.value and DONE.search(ended.value[1])
    if ended.value is None or (ended.value[0] != 0 and not says_done):
        return Outcome("other", f"killed at {moment}, left {between}; run again: {ended.value or ended}", *cost)
    if late:
        return Outcome("other", f"killed at {moment}, left {between}; after the second run: {'; '.join(late)}", *cost)
    return Outcome("right", f"killed at {moment}", *cost)


def _prepare(command: Command, place: Path) -> Path:
    folder = place / "case"
    folder.mkdir()
    for name in command.inputs:
        copy(name, folder)
    return folder


def _run(
    command: Command, folder: Path, *, at_event: int | None = None, at_time: float | None = None
) -> tuple[int, str, int]:
    """Run a command; return its exit code, what it printed, and how many events there were."""
    os.chdir(folder)
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in EVENTS and _is_below(arguments, folder):
            count += 1
            if count == at_event:
                os.kill(os.getpid(), signal.SIGKILL)

    def synchronise(file: Any, real: Callable[[Any], None] = os.fsync) -> None:
        sys.audit("open", str(folder), None, 0)
        real(file)

    os.fsync = synchronise
    # Measurements of `tadp data`, which are kept in the user's folder, are part of the case.
    facts_cache.cached_assets_path = lambda *names: folder.joinpath("kept", *names)
    sys.addaudithook(hook)
    if at_time is not None:
        timer = threading.Timer(at_time, lambda: os.kill(os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    try:
        port = _free_port(folder)
        with serving(lambda server, handler, captions: cleaned(captions), port=port):
            return 0, tadp(*(argument.replace("{port}", str(port)) for argument in command.arguments)), count
    except RefusedError as refusal:
        return *refusal.args, count
    except AssertionError as error:
        return -1, str(error), count


def _free_port(folder: Path) -> int:
    """A port for the server, the same in all runs in a folder: a run only continues one with the same address."""
    note = folder.with_name("port")
    if not note.exists():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            note.write_text(str(probe.getsockname()[1]))
    return int(note.read_text())


def _is_below(arguments: tuple[Any, ...], folder: Path) -> bool:
    for argument in arguments[:2]:
        if isinstance(argument, bytes):
            argument = os.fsdecode(argument)
        if isinstance(argument, str | os.PathLike) and (
            not Path(argument).is_absolute() or str(argument).startswith(str(folder))
        ):
            return bool(str(argument)) and str(argument) not in ("r", "rb")
    return False


def _snapshot(folder: Path) -> dict[str, str]:
    """The content of every file below a folder, without what depends on the moment or the folder's name."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir() or not any(path.iterdir()))
    return {
        VARIES.sub(b"VARIES", str(path.relative_to(folder)).encode()).decode(): _content(path, str(folder))
        for path in files
    }


def _content(path: Path, folder: str) -> str:
    if path.is_dir():
        return "empty folder"
    if path.name.endswith(("-journal", "-wal", "-shm")):
        return "part of a table"
    data = path.read_bytes()
    if data.startswith(b"SQLite format 3"):
        return _table(path)
    return hashlib.sha256(VARIES.sub(b"VARIES", data.replace(folder.encode(), b"FOLDER"))).hexdigest()


def _table(path: Path) -> str:
    """The rows of a table on disk. They are read from a copy, because SQLite would repair the table."""
    with tempfile.TemporaryDirectory() as place:
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy(file, place)
        path = Path(place, path.name)
        try:
            with sqlite3.connect(path) as table:
                names = [name for (name,) in table.execute("SELECT name FROM sqlite_master WHERE type='table'")]
                rows = {name: sorted(map(str, table.execute(f'SELECT * FROM "{name}"'))) for name in sorted(names)}
            return json.dumps(rows)
        except sqlite3.Error as error:
            return f"broken: {error}"
        finally:
            table.close()


def _differences(actual: dict[str, str], expected: dict[str, str], *, only_existing: bool, leave_out: str) -> list[str]:
    names = sorted(set(actual) & set(expected) if only_existing else set(actual) | set(expected))
    differences = []
    for name in names:
        if re.search(leave_out, name) or actual.get(name) == expected.get(name):
            continue
        state = "missing" if name not in actual else "left over" if name not in expected else "different"
        differences.append(f"{name} ({state})")
    return differences
