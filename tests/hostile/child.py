"""A case in a forked child: limits on time and memory, and a watch on what runs code or leaves the machine."""

import os
import pickle
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from .cases import Kind, judge

CANARY = "HOSTILE_CANARY"  # the variable with the path of a file that payloads create
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn")
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Outcome:
    """How a case ended: "right", "clear" or "other", what happened, and what it cost."""

    verdict: str
    detail: str
    seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def is_handled(self) -> bool:
        return self.verdict in ("right", "clear")


@dataclass(frozen=True)
class Ended:
    """How a child ended: what its function returned (None if it did not return), its signal, and its costs."""

    value: Any
    signal: int
    seconds: float
    megabytes: float
    is_late: bool


def fork(function: Callable[[], Any], *, log: Path, wait_s: float, before: Callable[[], None] = lambda: None) -> Ended:
    """Call a function in a forked child; its output goes to `log`. The child is killed after `wait_s` seconds."""
    reader, writer = os.pipe()
    start = time.monotonic()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setsid()
            os.close(reader)
            with log.open("ab") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
            os.write(writer, struct.pack("d", _resident_mb()))
            before()
            data = pickle.dumps(function())
            sys.stdout.flush()
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(data)
            code = 0
        except BaseException:  # also an exit: os._exit would hide it
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(writer)
    parts, is_late = [], False
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while True:
            left = start + wait_s - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                is_late = True
                break
            if not (part := pipe.read(65536)):
                break
            parts.append(part)
    with suppress(ProcessLookupError):
        if is_late:
            os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    data = b"".join(parts)
    memory = struct.unpack("d", data[:8])[0] if data else 0.0
    value = pickle.loads(data[8:]) if len(data) > 8 and not is_late else None
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return Ended(value, killed, time.monotonic() - start, usage.ru_maxrss / 1024 - memory, is_late)


def run_kind(kind: Kind, seed: int) -> Outcome:
    """Run one kind and judge it."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as place:
        folder, canary = Path(place, "case"), Path(place, "executed")
        folder.mkdir()

        def case() -> tuple[tuple[str, str], list[str]]:
            os.environ[CANARY] = str(canary)
            os.chdir(folder)
            events = watch(folder, loopback=kind.loopback)
            return judge(kind, folder, Random(f"{seed} {kind}")), events

        ended = fork(case, log=Path(place, "log"), wait_s=2 * kind.seconds, before=lambda: _limit(kind))
        log = Path(place, "log").read_text(errors="replace")[-300:]
        is_executed = canary.exists()
        for path in folder.rglob("*"):  # otherwise a folder without permission would stay
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)
    cost = ended.seconds, ended.megabytes
    if is_executed:
        return Outcome("other", "EXECUTED: the payload's file exists", *cost)
    if ended.is_late or ended.signal == signal.SIGXCPU:
        return Outcome("other", f"not done after {cost[0]:.0f} s", *cost)
    if ended.value is None:
        return Outcome("other", f"ended by signal {ended.signal}: {log}", *cost)
    (verdict, detail), events = ended.value
    if events:
        return Outcome("other", f"EXECUTED: {events[0]}", *cost)
    if cost[1] > kind.megabytes:
        return Outcome("other", f"{cost[1]:.0f} MB of memory; {detail[:200]}", *cost)
    return Outcome(verdict, detail, *cost)


def watch(folder: Path, *, loopback: bool) -> list[str]:
    """Record, and refuse, new processes, connections, and code from the case's folder."""
    events: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STARTS:
            is_bad = True
        elif event in ("socket.connect", "socket.getaddrinfo"):
            address = str(arguments[1] if event == "socket.connect" else arguments[0])
            is_bad = not (loopback and any(local in address for local in ("127.0.0.1", "localhost")))
        elif event == "exec":
            is_bad = getattr(arguments[0], "co_filename", "").startswith(str(folder))
        elif event == "ctypes.dlopen":
            is_bad = str(arguments[0]).startswith(str(folder))
        else:
            return
        if is_bad:
            events.append(f"{event} {str(arguments)[:200]}")
            raise PermissionError(f"{event} is not allowed here")

    sys.addaudithook(hook)
    return events


def _limit(kind: Kind) -> None:
    seconds = int(kind.seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = size + (kind.megabytes + 1500) * _MEGABYTE  # the rest is address space that is reserved and never touched
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / _MEGABYTE
