"""Progress of long work on the error stream: a bar on a terminal, and a line per minute elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from tadp.errors import escaped

LINE_EVERY_S = 60.0  # without a terminal: in a log, a notebook or a pipe

T = TypeVar("T")


class Progress:
    """The progress of one kind of work. Close it at the end, or use it in a `with` block.

    Args:
        total: Number of units of work.
        what: The work in a word, such as "training".
        unit: One unit of the work, such as "step".
        done: Number of units that were done before.
        is_shown: Whether to show anything.
    """

    def __init__(self, total: int, *, what: str, unit: str, done: int = 0, is_shown: bool = True):
        self.total, self.what, self.unit, self.done = total, what, unit, done
        self._started, self._first, self._is_shown = time.monotonic(), done, is_shown
        self._next_line = self._started + LINE_EVERY_S
        self._bar: tqdm | None = None
        if is_shown and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, desc=what, unit=unit, leave=False, file=sys.stderr)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Record that units were done.

        Args:
            count: Number of units.
            note: A figure to show, such as "loss 0.4".
        """
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            if self.done == self.total:
                self._bar.refresh()  # update() skips steps that follow within a tenth of a second
        elif self._is_shown and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            self.say(f"{self.what}: {self.unit} {self.done} of {self.total}{note and f', {note}'}, {self._left()}")

    def say(self, line: str) -> None:
        """Write a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(escaped(line), file=sys.stderr)
        elif self._is_shown:
            say(line)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def _left(self) -> str:
        seconds = (time.monotonic() - self._started) / max(self.done - self._first, 1) * (self.total - self.done)
        return f"about {duration(seconds)} left"


def say(line: str) -> None:
    """Write a line to the error stream."""
    sys.stderr.write(f"{escaped(line)}\n")
    sys.stderr.flush()


def tracked(items: Iterable[T], total: int, *, what: str, unit: str, is_shown: bool = True) -> Iterator[T]:
    """Yield items and show the progress; the arguments are those of `Progress`."""
    with Progress(total, what=what, unit=unit, is_shown=is_shown) as progress:
        for item in items:
            yield item
            progress.advance()


def duration(seconds: float) -> str:
    """A number of seconds in words.

    Example:
        >>> duration(1.2), duration(4.2), duration(60), duration(100), duration(9000)
        ('1 second', '4 seconds', '1 minute', '1.7 minutes', '2.5 hours')
    """
    for unit, size in (("hour", 3600), ("minute", 60)):
        if seconds >= size:
            number = f"{seconds / size:.1f}".removesuffix(".0") if seconds < 10 * size else f"{seconds / size:.0f}"
            return f"{number} {unit}{'s' * (number != '1')}"
    return f"{seconds:.0f} second{'s' * (round(seconds) != 1)}"
