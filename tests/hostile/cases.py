"""What a kind is, how families are found, and how an outcome is judged."""

import io
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from tadp.errors import TADPError

MOST_PER_FAMILY = 60
LONGEST_MESSAGE = 600
PACKAGE = str(Path(__file__).parents[2] / "tadp")
FAMILIES: dict[str, Callable[[], Iterator["Kind"]]] = {}
Run = Callable[[Path, Random], Any]


@dataclass(frozen=True)
class Kind:
    """One reader with one sort of damage, or one key with one class of wrong value.

    Attributes:
        name: What is damaged and how; unique in its family.
        run: Called with an empty folder and a seeded generator; damages something there and reads it.
        names: A regular expression, or several, that the message must contain: the file, the key, the argument.
        right: Whether what `run` returned is right; None if only an error is right.
        seconds: CPU time that the case may take; it may wait twice as long.
        megabytes: Memory that the case may take on top of the warm process.
        loopback: Whether the case may connect to this machine.
        family: The name of its family.
    """

    name: str
    run: Run
    names: str | tuple[str, ...] = ()
    right: Callable[[Any], bool] | None = None
    seconds: float = 10
    megabytes: int = 500
    loopback: bool = False
    family: str = ""

    def __str__(self) -> str:
        return f"{self.family}: {self.name}"


def family(name: str) -> Callable[[Callable[[], Iterator[Kind]]], Callable[[], Iterator[Kind]]]:
    """Register a generator of kinds under the name of its family."""

    def register(kinds: Callable[[], Iterator[Kind]]) -> Callable[[], Iterator[Kind]]:
        assert name not in FAMILIES, f"two families are named {name!r}"
        FAMILIES[name] = kinds
        return kinds

    return register


@cache
def all_kinds() -> dict[str, Kind]:
    """The kinds of all families by full name, which is "family: kind"."""
    for path in sorted(Path(__file__).parent.glob("families_*.py")):
        import_module(f"{__package__}.{path.stem}")
    kinds: dict[str, Kind] = {}
    for name, generate in FAMILIES.items():
        own = [Kind(**(vars(kind) | {"family": name})) for kind in generate()]
        assert 0 < len(own) <= MOST_PER_FAMILY, f"{name!r} has {len(own)} kinds"
        for kind in own:
            assert str(kind) not in kinds, f"two kinds are named {str(kind)!r}"
            kinds[str(kind)] = kind
    return kinds


class RefusedError(Exception):
    """A command ended with an exit code other than 0; the arguments are the code and what it printed."""


def tadp(*arguments: object) -> str:
    """Run `tadp ARGUMENTS` and return what it printed; raise `RefusedError` for an exit code other than 0."""
    from tadp.cli import app

    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        try:
            app([str(argument) for argument in arguments])
            code: Any = 0
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException as error:
            raise AssertionError(f"traceback on the command line: {type(error).__name__}: {error}") from error
    text = " ".join(re.sub(r"[│╭╮╰╯─]|\x1b\[[\d;]*m", " ", output.getvalue()).split())
    assert "Traceback" not in text, f"traceback on the command line: {text[-500:]}"
    if code:
        raise RefusedError(code, text)
    return text


def judge(kind: Kind, folder: Path, rng: Random) -> tuple[str, str]:
    """Run a kind; return "right", "clear" or "other", and what happened."""
    try:
        value = kind.run(folder, rng)
    except RefusedError as refusal:
        code, text = refusal.args
        if code not in (1, 2) or "rror" not in text:
            return "other", f"exit code {code}: {text[-500:]}"
        return _judge_message(kind, text[text.index("rror") :])
    except (TADPError, ValueError, TypeError) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        if not isinstance(error, TADPError) and not where.filename.startswith(PACKAGE):
            return "other", f"{type(error).__name__} raised in {where.filename}:{where.lineno}: {str(error)[:300]}"
        return _judge_message(kind, str(error))
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "other", f"{type(error).__name__} raised in {where.filename}:{where.lineno}: {str(error)[:300]}"
    if kind.right is None:
        return "other", f"accepted: {str(value)[:200]!r}"
    return ("right", "") if kind.right(value) else ("other", f"wrong value: {str(value)[:200]!r}")


def _judge_message(kind: Kind, message: str) -> tuple[str, str]:
    missing = [name for name in ((kind.names,) if isinstance(kind.names, str) else kind.names)
               if not re.search(name, message)]  # fmt: skip
    if missing:
        return "other", f"does not name {missing[0]!r}: {message[:500]}"
    if len(message) > LONGEST_MESSAGE:
        return "other", f"{len(message)} characters: {message[:500]}"
    return "clear", message
