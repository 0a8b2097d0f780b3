"""Kill a process at its n-th file event."""

import gc
import hashlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator

NOBODY = 99_999_999  # no process has this number
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "sqlite3.connect")


def partial_name(name: str, *, process: int = NOBODY, thread: int = 1, host: str | None = None) -> str:
    """The name of a partial file of a process, of a killed one by default."""
    host = socket.gethostname() if host is None else host
    return f".{name}.tadp-{hashlib.sha256(host.encode()).hexdigest()[:8]}.{thread}.{process}.part"


def kill_at(number: int, action: Callable[[], object], *, folder: object, events: tuple[str, ...] = EVENTS) -> bool:
    """Run an action in a fork that is killed at its `number`-th event below a folder; return whether it was killed."""
    process = os.fork()
    if not process:
        gc.freeze()  # a collection would look at all objects of the parent, and so copy its memory
        seen = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in events and any(str(argument).startswith(str(folder)) for argument in arguments):
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        sys.addaudithook(watch)
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the action failed in the fork, with exit code {code}"
    return code != 0


def each_kill(action: Callable[[], object], *, folder: object, events: tuple[str, ...] = EVENTS) -> Iterator[int]:
    """Kill the action at every event in turn; yield after each kill, and end when the action runs to its end."""
    number = 0
    while kill_at(number, action, folder=folder, events=events):
        yield number
        number += 1
