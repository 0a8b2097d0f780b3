"""Stop a run between two steps when Ctrl-C is pressed or the process is asked to end, so that it can be saved first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class StopRequest:
    """Whether the run was asked to stop.

    Attributes:
        number: The signal that asked for it; None if there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._handlers: dict[int, Any] = {}

    @contextmanager
    def handled(self, say: Callable[[str], None], *, is_alone: bool) -> Iterator[None]:
        """Handle SIGINT and SIGTERM inside a `with` block. The second signal ends the process at once.

        Args:
            say: Function that shows a line.
            is_alone: Whether this is the only process of the run. Several processes are ended at once, because they
                would have to agree on the step.
        """

        def handle(number: int, frame: object) -> None:
            if self.number is not None:
                self._end(number)
            self.number = number
            say("stopping after this step; the same command will continue. Ctrl-C again stops at once.")

        if is_alone and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._handlers[number] = signal.signal(number, handle)
        try:
            yield
        finally:
            self._restore()

    def obey(self) -> None:
        """End the process, or raise KeyboardInterrupt, if that was asked for."""
        if self.number is not None:
            self._end(self.number)

    def _end(self, number: int) -> None:
        self._restore()
        signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
