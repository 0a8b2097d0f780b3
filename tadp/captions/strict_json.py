"""JSON as a caption file must have it: UTF-8, no NaN, no name twice in one object; and where in a file it is not."""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from tadp.captions.records import shown
from tadp.errors import CaptionError


def loads(content: bytes, where: str, *, is_line: bool = False, find: Callable[[str], int | None] | None = None) -> Any:
    """JSON, strictly: UTF-8, no NaN, no name twice in one object.

    Args:
        content: Of a file, or a line.
        where: What it is, for messages.
        is_line: Whether positions are columns alone.
        find: Where in a text that is JSON, but not strictly, the flaw is.

    Raises:
        CaptionError: If it is broken; the message says where, after `where`.
    """

    def position(text: str, offset: int) -> str:
        line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
        return f"{where}, column {column}" if is_line else f"{where}, line {line}, column {column}"

    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8")
        raise CaptionError(f"{position(before, len(before))}: this is not UTF-8. Save the file as UTF-8.") from error
    try:
        return _decoder().decode(text)
    except json.JSONDecodeError as error:
        raise CaptionError(f"{position(text, error.pos)}: this is not JSON ({error.msg}).") from error
    except (CaptionError, ValueError, RecursionError) as error:
        offset = find(text) if find is not None and isinstance(error, CaptionError) else None
        raise CaptionError(f"{where if offset is None else position(text, offset)}: {error}") from error


def is_cut_off(line: bytes) -> bool:
    """Whether a last line only lacks its end; what is wrong before the end is no doing of a writer that was killed."""
    if line.endswith(b"\n") or not line.startswith(b"{"):
        return False
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end == len(line) and error.reason == "unexpected end of data"
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        rest = text[error.pos :].rstrip()
        # an unterminated string is told by where it begins, and so is a word or an escape that lacks letters
        is_begun = any(word.startswith(rest) for word in ("true", "false", "null", "-", ".", "e+", "e-"))
        return is_begun or error.msg.startswith("Unterminated string") or (len(rest) < 6 and "escape" in error.msg)
    return False


def entry_place(path: Path, image_id: str) -> str:
    """The file with the line and column of an entry, looked for when there is something to say of it."""
    text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8")
    offset = next((start for key, start, _ in _entries(text) if key == image_id), 0)
    return f"{path}, line {text.count(chr(10), 0, offset) + 1}, column {offset - text.rfind(chr(10), 0, offset)}"


def flawed_entry(text: str) -> int | None:
    """Where the first entry begins whose id stands twice, or that is JSON but not strictly; None if none does."""
    seen = set()
    for key, start, value in _entries(text):
        try:
            _decoder().raw_decode(text, value)
        except CaptionError:
            return start
        if key in seen:
            return start
        seen.add(key)
    return None


def _entries(text: str) -> Iterator[tuple[str, int, int]]:
    """The entries of an object that is known to be JSON: name, where it begins, and where its value does."""
    decoder = json.JSONDecoder()
    start = _after(re.compile(r"\s*{\s*"), text, 0)
    while text[start : start + 1] == '"':
        key, end = decoder.raw_decode(text, start)
        value = _after(re.compile(r"[\s:]*"), text, end)
        yield key, start, value
        _, end = decoder.raw_decode(text, value)
        start = _after(re.compile(r"[\s,]*"), text, end)


def _after(skipped: re.Pattern[str], text: str, start: int) -> int:
    found = skipped.match(text, start)
    return start if found is None else found.end()


@lru_cache(maxsize=1)
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_without_doubles, parse_constant=_refuse_constant)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))
        what = "the id" if isinstance(content[name], dict) else "the name"
        raise CaptionError(f"{what} {shown(name)} stands twice in one object. Leave one out.")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise CaptionError(f"{name} is not JSON. Write null, or leave it out.")
