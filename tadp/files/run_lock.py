"""A lock for what one run writes. However its process ends, the lock is released, so a killed run blocks nobody."""

import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tadp.errors import OutputError

FOLDER_LOCK = ".tadp.lock"
_ASK_AGAIN_S = 0.02

P = ParamSpec("P")
T = TypeVar("T")


class Run:
    """A run that holds the lock on its output.

    Args:
        output: The folder or file that the run writes.
        lock: The lock file, in that folder or next to that file.
    """

    def __init__(self, output: Path, lock: Path):
        self._output, self._lock, self._folder = output, lock, _identity(lock.parent)

    def check(self) -> None:
        """Check that the folder is still the one in which the run began.

        Raises:
            OutputError: If it was deleted, replaced, moved or unmounted, and results of the run are therefore missing.
        """
        if not self._lock.exists() or _identity(self._lock.parent) != self._folder:
            raise OutputError(
                f"{self._lock.parent} was deleted, moved or unmounted while this run was writing {self._output}, so "
                "its earlier results are not there. Check the disk, and run the command again."
            )


@contextmanager
def only_run(output: Path, *, is_folder: bool) -> Iterator[Run]:
    """Make sure that no other run writes a folder or file at the same time.

    Args:
        output: The folder or file.
        is_folder: Whether it is a folder. It is created if it does not exist.

    Raises:
        OutputError: If another run is writing it, the lock cannot be written, or the folder disappears during the run.
    """
    lock = output / FOLDER_LOCK if is_folder else output.with_name(f"{output.name}.part.lock")
    is_new = is_folder and not output.exists()
    advice = f"Wait for it, or choose another {'folder' if is_folder else 'name'}."
    try:
        with locked(lock, busy=f"another run is writing {output}. {advice}"):
            run = Run(output, lock)
            yield run
            run.check()
    finally:
        if is_new:
            with suppress(OSError):
                output.rmdir()  # only if it is empty


def one_run_per_output(function: Callable[P, T]) -> Callable[P, T]:
    """Make calls with the same argument `output`, a folder or None, exclude each other."""
    parameters = signature(function)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        output: Any = parameters.bind_partial(*args, **kwargs).arguments.get("output")
        with nullcontext() if output is None else only_run(Path(output), is_folder=True):
            return function(*args, **kwargs)

    return run


@contextmanager
def locked(lock: Path, *, busy: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file, which is removed at the end.

    Args:
        lock: The lock file.
        busy: The message of the error if another process or thread holds the lock.
        wait_s: Longest time to wait for the lock, in seconds.

    Raises:
        OutputError: If the lock is held elsewhere, or the file cannot be written.
    """
    ends = time.monotonic() + wait_s
    while (held := _try(lock, busy)) is None:
        if time.monotonic() >= ends:
            raise OutputError(busy)
        time.sleep(_ASK_AGAIN_S)
    try:
        yield
    finally:
        # Removed while it is held, so that nobody locks a file that is about to go. Windows removes no open file.
        for step in (lock.unlink, held.close) if os.name == "posix" else (held.close, lock.unlink):
            with suppress(OSError):
                step()


def _try(lock: Path, busy: str) -> sqlite3.Connection | None:
    """Take the lock; None if it is held elsewhere, or the file was removed or replaced meanwhile.

    SQLite's locks are the system's, on every platform, and also exclude each other within a process.
    """
    held = None
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
        before = _identity(lock)
        held = sqlite3.connect(lock, timeout=0, isolation_level=None, check_same_thread=False)
        held.execute("PRAGMA journal_mode = OFF")  # nothing is written, so a killed run needs to leave no journal
        held.execute("BEGIN EXCLUSIVE")
        if _identity(lock) == before is not None:
            return held
        held.close()
        return None
    except (OSError, sqlite3.Error) as error:
        code = getattr(error, "sqlite_errorcode", None) or 0
        if held is not None and code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL):
            warnings.warn(f"no lock is possible on the disk of {lock}. Do not start two runs there.", stacklevel=5)
            return held
        if held is not None:
            held.close()
        if code == sqlite3.SQLITE_BUSY:
            return None
        output = busy.removeprefix("another run is writing ").partition(". ")[0]
        is_other = isinstance(error, sqlite3.Error) and lock.exists()  # something else has the lock's name
        hint = f"{lock} is not a lock; move it away" if is_other else "Choose another folder"
        raise OutputError(f"cannot write {output}: {getattr(error, 'strerror', None) or error}. {hint}.") from error


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
