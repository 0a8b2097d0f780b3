"""Strict JSON for caption files (UTF-8, no NaN, no repeated name in an object), with the position of each error."""

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
    """Parse strict JSON: encoded as UTF-8, without NaN, and without repeated names in an object.

    Args:
        content: The content of a file or of one line.
        where: Name of the file or line, for error messages.
        is_line: Whether `content` is a single line. Messages then give the column of an error but no line number.
        find: Function that returns the position of the flaw in a text that is JSON but not strict JSON. Without it,
            the message about such a flaw has no position.

    Raises:
        CaptionError: If the content is not strict JSON. The message gives the position after `where`.
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
    """Whether a last line only lacks its end. A killed writer causes no error before the end."""
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
        # The position of an unterminated string, or of an incomplete word or escape, is where it begins.
        is_begun = any(word.startswith(rest) for word in ("true", "false", "null", "-", ".", "e+", "e-"))
        return is_begun or error.msg.startswith("Unterminated string") or (len(rest) < 6 and "escape" in error.msg)
    return False


def entry_place(path: Path, image_id: str) -> str:
    """Return the file with the line and column of an entry, searched only when a message needs them."""
    text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8")
    offset = next((start for key, start, _ in _entries(text) if key == image_id), 0)
    return f"{path}, line {text.count(chr(10), 0, offset) + 1}, column {offset - text.rfind(chr(10), 0, offset)}"


def flawed_entry(text: str) -> int | None:
    """Return where the first entry begins that repeats an id or is not strict JSON; None if every entry is good."""
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
    """Iterate over the entries of a valid JSON object: name, start of the entry, and start of its value."""
    decoder = json.JSONDecoder()
    start = _after(re.compile(r"\s*{\s*"), text, 0)
    while text[start : start + 1] == '"':
        key, end = decoder.raw_decode(text, start)
        value = _after(re.compile(r"[\s:]*"), text, end)
        yield key, start, value
        _, end = decoder.raw_decode(text, value)
        start = _after(re.compile(r"[\s,]*"), text, end)


def _after(skipped: re.Pattern[str], text: str, start: int) -> int:
    match = skipped.match(text, start)
    return start if match is None else match.end()


@lru_cache(maxsize=1)
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_without_doubles, parse_constant=_refuse_constant)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))
        what = "the id" if isinstance(content[name], dict) else "the name"
        raise CaptionError(f"{what} {shown(name)} occurs twice in one object. Leave one out.")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise CaptionError(f"{name} is not JSON. Write null, or leave it out.")
