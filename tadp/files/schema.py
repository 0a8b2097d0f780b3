"""Compare the entries of a JSON file with the annotations of the function that takes them as arguments."""

from collections.abc import Callable, Collection, Iterable, Mapping
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tadp.errors import ModelError

HINT = "Correct the value, or get the file again."
_SHOWN = 80  # characters of a value in a message


def shown(value: Any) -> str:
    """A value for a message, shortened.

    Example:
        >>> shown("a" * 100)[-4:]
        'aaa…'
    """
    if isinstance(value, str | list | tuple):
        value = value[:_SHOWN]  # repr of a huge value takes long
    elif isinstance(value, int) and value.bit_length() > 300:  # Python refuses to write very long numbers
        return "a number of more than 90 digits"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def check_types(config: Mapping[str, Any], reader: Callable[..., Any], path: Path, *, below: str = "") -> None:
    """Refuse an entry whose value does not fit the annotation of the argument that takes it.

    Entries that the function does not take are not read, and so not checked.

    Args:
        config: Entries by name.
        reader: The function, or the class whose constructor it is.
        path: The file, for error messages.
        below: The entry of the file that holds `config`, for error messages.

    Raises:
        ModelError: If a value does not fit; the message gives the key, the type it needs, and the value.
    """
    function = reader.__init__ if isinstance(reader, type) else reader
    try:
        hints = get_type_hints(function)
    except NameError:  # an annotation that only a type checker can read
        hints = {name: hint for name, hint in function.__annotations__.items() if not isinstance(hint, str)}
    for name, argument in signature(function).parameters.items():
        if name not in config or name not in hints or argument.kind is Parameter.VAR_KEYWORD:
            continue
        if not _fits(config[name], hints[name]):
            key = f"{below}.{name}" if below else name
            raise ModelError(f"{path}: {key} must be {_readable(hints[name])}; got {shown(config[name])}. {HINT}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a JSON file fits an annotation. An annotation of another kind fits everything."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is Literal:
        return isinstance(value, str | int | None) and value in inner
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if issubclass(kind, Collection) or kind is Iterable:
        options = [option for option in inner if option is not ...] or [Any]  # many write tuple[str] for any length
        if not isinstance(value, list | tuple) or (len(inner) > 1 and ... not in inner and len(inner) != len(value)):
            return False
        return all(any(_fits(part, option) for option in options) for part in value)
    return True


def _readable(hint: Any) -> str:
    """An annotation in words."""
    origin, inner = get_origin(hint), [option for option in get_args(hint) if option is not ...]
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_readable, inner)))
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin is not None or hint in (tuple, list, dict):
        if issubclass(origin or hint, Mapping):
            return "an object"
        parts = {int: "whole numbers", float: "numbers", bool: "true or false", str: "texts"}
        named = " or ".join(dict.fromkeys(parts.get(option, "lists") for option in inner))
        return f"a list of {named}" if named else "a list"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return "null" if hint is NoneType else names.get(hint, str(hint))
