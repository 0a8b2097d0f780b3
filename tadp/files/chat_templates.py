"""Chat templates: small programs in Jinja that come with captioners and language models, run with limits."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from tadp.errors import ModelError

RENDERED = "{{ rendered }}"  # a template for transformers; its argument is a text that `render_chat` returned
_FILES = ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json")
_LONGEST_SOURCE = 50_000  # characters; the longest templates of known models have 20,000
_LONGEST_TEXT = 10_000  # characters of all values of a template at a time, besides the text of the chat
_LARGEST_NUMBER = 1000  # in the arguments of a function, such as the width of a text
_LARGEST_PRODUCT = 20_000_000  # of the lengths of two arguments, since `replace` and `join` may make texts as long
_STEPS = 50_000  # lines and calls; known templates take a few hundred
_OPERATORS = ("+", "*", "**", "%")


class _LimitError(BaseException):
    """A template is too long, takes too many steps or makes too much. Jinja catches every `Exception` in places."""


def render_chat(template: Any, chat: Sequence[Mapping[str, Any]], *, tokenizer: Any, source: str) -> str:
    """Return the text that a chat template makes of a chat, as transformers would, but with limits.

    A template from a stranger could run for hours or fill the memory, which Jinja's sandbox allows.

    Args:
        template: The template, or templates by name, of which "default" is used.
        chat: The messages. They consist of plain values, because a template may call the methods of other objects.
        tokenizer: The tokenizer, whose special tokens the template may use.
        source: The model that the template belongs to and its file, as messages name them; see `template_source`.

    Raises:
        ModelError: If the template has an error or exceeds a limit.
    """
    template = template.get("default") if isinstance(template, Mapping) else template
    values = {"messages": chat, "tools": None, "documents": None, "add_generation_prompt": True}
    try:
        if not isinstance(template, str):
            raise _LimitError("it must be a text, or texts by name with one named default")
        if len(template) > _LONGEST_SOURCE:
            raise _LimitError(f"it has {len(template)} characters, and at most {_LONGEST_SOURCE} are allowed")
        compiled = _compiled(template)
        with _watched(_LONGEST_TEXT + 8 * len(str(chat))):
            return compiled.render(**{**tokenizer.special_tokens_map, **values})
    except (_LimitError, Exception) as error:  # any, because the template is a program
        kind = "" if isinstance(error, _LimitError) else f"{type(error).__name__}: "
        why = f"{kind}{error}".splitlines()[0][:200].rstrip(".")
        raise ModelError(f"the chat template of {source} cannot be used: {why}. Put another one there.") from error


def template_source(name: str, folder: Path) -> str:
    """Name a model and the files that hold its chat template, for `render_chat`."""
    files = [str(folder / file) for file in _FILES if (folder / file).is_file()]
    return f"{name} ({' or '.join(files)})" if files else name


@lru_cache(maxsize=4)
def _compiled(template: str) -> Any:
    """Compile a template with the functions of transformers; its operators check what they return."""
    from jinja2 import pass_context
    from transformers.utils.chat_template_utils import _compile_jinja_template

    # Without the two arguments, Jinja would compute constant parts while it compiles, without limits.
    environment: Any = _compile_jinja_template("").environment.overlay(
        optimized=False, finalize=pass_context(lambda context, value: value)
    )
    environment.intercepted_binops = frozenset(_OPERATORS)
    environment.binop_table = {
        **environment.binop_table,
        "+": _add,
        "*": lambda left, right: _number(left) * _number(right),
        "**": lambda left, right: _number(left) ** min(_number(right), 8),
        "%": lambda left, right: _number(left) % _number(right),
    }
    return environment.from_string(template)


def _add(left: Any, right: Any) -> Any:
    _size([left, right], 100 * _LONGEST_TEXT)
    return left + right


def _number(value: Any) -> int | float:
    if not isinstance(value, int | float) or abs(value) > 1e9:
        raise _LimitError("*, ** and % are only allowed for numbers of at most 1e9")
    return value


@contextmanager
def _watched(most: int) -> Iterator[None]:
    """Count what this thread does, and look at a template's values and at the arguments of its calls.

    Jinja turns a template into Python code, so Python's trace function sees each of its lines.
    """
    count = written = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count, written
        count += 1
        if count > _STEPS:
            raise _LimitError(f"it takes more than {_STEPS} steps")
        if frame.f_code.co_filename == "<template>":
            _size(list(frame.f_locals.values()), most)
            if event == "return" and isinstance(argument, str):
                written += len(argument)
                if written > most:
                    raise _LimitError(f"it writes more than {most} characters")
            return trace
        if is_called_by_template(frame):
            count += _check_call(frame.f_locals, most) // 1000
        if frame.f_code.co_name in ("do_format", "vformat") and re.search(r"\d{4}", str(frame.f_locals)):
            raise _LimitError("it formats a text with a large number")
        return None

    def is_called_by_template(frame: FrameType) -> bool:
        caller = frame.f_back
        is_filter = frame.f_code.co_filename.endswith("filters.py")  # another filter may call it
        return is_filter or (caller is not None and caller.f_code.co_filename == "<template>")

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _check_call(arguments: Mapping[str, Any], most: int) -> int:
    """Check the arguments of a function or filter, and the text or list whose method it is; return their product."""
    values: list[Any] = []
    for name, value in arguments.items():
        if name == "args":
            values += value
        elif name == "kwargs":
            values += [argument for key, argument in value.items() if not key.startswith("_")]
        else:
            values.append(getattr(value, "__self__", None) if callable(value) else value)
    for value in values:
        if isinstance(value, int | float) and abs(value) > _LARGEST_NUMBER:
            raise _LimitError(f"the number {value:.4g} in a call is larger than {_LARGEST_NUMBER}")
    sizes = sorted((1, 1, *(_size(value, most) for value in values)))
    if sizes[-1] * sizes[-2] > _LARGEST_PRODUCT:
        raise _LimitError(f"a call with {sizes[-1]} and {sizes[-2]} characters could make too much")
    return sizes[-1] * sizes[-2]


def _size(values: Any, most: int) -> int:
    """Return the number of characters and elements in a value; raise an error if it is above `most`."""
    size, waiting = 0, [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str | bytes | dict | list | tuple | set | frozenset):
            size += len(value)
            if not isinstance(value, str | bytes):
                waiting += value.values() if isinstance(value, dict) else value
        if size > most:
            raise _LimitError(f"it makes values of more than {most} characters")
    return size
