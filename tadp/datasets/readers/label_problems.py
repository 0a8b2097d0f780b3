"""What is wrong in label files: the first problem stops a reader, unless the problems are collected."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

from tadp.errors import Argument, ImageError, TADPError

Kind = Literal[
    "image without labels",
    "label without image",
    "unreadable file",
    "wrong label",
    "label outside",
    "label without area",
    "similar names",
    "same file name",
    "wrong list",
]


class LabelProblem(NamedTuple):
    """Something that is wrong in label files: its kind, and a sentence with the name of the file."""

    kind: Kind
    text: str


_collected: ContextVar[list[LabelProblem] | None] = ContextVar("collected", default=None)


@contextmanager
def collected_problems() -> Iterator[list[LabelProblem]]:
    """Collect problems in a list instead of stopping at the first. Readers then leave out the labels concerned.

    Readers put the code that reads a label in a `with kept(kind)` block, which adds an error to the list.

    Example:
        >>> with collected_problems() as problems, kept("wrong label"):
        ...     raise TADPError("a.txt, line 3: unknown class 7.")
        >>> problems
        [LabelProblem(kind='wrong label', text='a.txt, line 3: unknown class 7.')]
    """
    problems: list[LabelProblem] = []
    token = _collected.set(problems)
    try:
        yield problems
    finally:
        _collected.reset(token)


def is_collecting() -> bool:
    """Whether problems are collected."""
    return _collected.get() is not None


def keep(kind: Kind, texts: Sequence[str]) -> bool:
    """Add problems to the list, and return whether there is one."""
    problems = _collected.get()
    if problems is not None:
        problems += [LabelProblem(kind, text) for text in texts]
    return problems is not None


def spelled_twice(argument: Argument) -> str:
    """An argument as in Python and as an option, for texts that are read in both.

    Example:
        >>> spelled_twice(Argument("bad_labels", "skip"))
        "bad_labels='skip' (--bad-labels skip)"
    """
    value = "" if not argument.has_value or argument.value is True else argument.value
    option = f"--{argument.name.replace('_', '-')} {'…' if value is ... else value}"
    return f"{argument} ({option.strip()})"


@contextmanager
def kept(kind: Kind, error_type: type[Exception] = TADPError) -> Iterator[None]:
    """Let an error end this block but not the program, if problems are collected. An ImageError is of a bad file."""
    try:
        yield
    except error_type as error:
        text = error.spelled(spelled_twice) if isinstance(error, TADPError) else str(error)
        if not keep("unreadable file" if isinstance(error, ImageError) else kind, [text]):
            raise
