"""Options of a command that are generated from the fields of a dataclass."""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args, get_origin

import typer


def with_fields(
    options: type, *, leave_out: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace `**options` of a command by one option per field of a dataclass.

    Args:
        options: The dataclass.
        leave_out: Names of fields that get no option.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function)
        own = [parameter.replace(kind=_KEYWORD) for parameter in [*signature.parameters.values()][:-1]]
        texts = field_texts(options)
        for option in fields(options):
            if option.name not in leave_out:
                annotation, default = field_option(option, texts[option.name], option.default, kind=_kind(option.type))
                own.append(inspect.Parameter(option.name, _KEYWORD, default=default, annotation=annotation))
        function.__signature__ = signature.replace(parameters=own)  # pyright: ignore[reportFunctionMemberAccess]
        return function

    return decorate


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def field_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options from `with_fields` as the dataclass takes them.

    Raises:
        typer.BadParameter: If a text cannot be read.
    """
    return {name: _value(name, value) for name, value in options.items()}


def field_texts(options: type) -> dict[str, str]:
    """Return the description of each field, from the `Attributes` of the docstrings of a dataclass and its bases.

    Example:
        >>> from tadp.personalize.run_options import RunOptions
        >>> field_texts(RunOptions)["lr"]
        'Learning rate, constant over all steps; None is 1e-4 for a token or a LoRA and 5e-6 for a whole U-Net.'
    """
    texts: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        attributes = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        descriptions = re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", attributes, re.MULTILINE)
        texts |= {name: " ".join(text.split()) for name, text in descriptions}
    return texts


def field_option(option: Field[Any], text: str, default: Any, *, kind: Any) -> tuple[Any, Any]:
    """Return the annotation and the default of a field's option, for typer.

    Args:
        option: The field.
        text: The description of the field. "…; None is X." at its end describes the default.
        default: The default of the option.
        kind: The type of the option's value.
    """
    meaning, _, default_text = text.removesuffix(".").partition("; None is ")
    name = option.name.replace("_", "-")
    if kind == Sequence[str] | None:
        name, kind = name.removesuffix("s"), list[str] | None
        meaning += ". Repeatable"
    info = typer.Option(
        f"--{name}/--no-{name}" if default is True else f"--{name}",
        min=option.metadata.get("least"),
        help=f"{meaning}.",
        show_default=(default_text or False) if default is None else True,
    )
    return Annotated[kind, info], default


def _kind(annotation: Any) -> Any:
    """The type of an option on the command line: choices are names, and mappings and lists are text."""
    members = get_args(annotation)
    literal = next((part for part in (annotation, *members) if get_origin(part) is Literal), None)
    if literal is not None:
        names: Any = StrEnum("Choice", {name: name for name in get_args(literal)})
        return names | None if type(None) in members else names
    return str | None if any(get_origin(part) in (Mapping, Sequence) for part in members) else annotation


def _value(name: str, value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if value is None or name not in _READ:
        return value
    try:
        return _READ[name](value)
    except ValueError as error:
        option = f"--{name.replace('_', '-')}"
        raise typer.BadParameter(f"{error}; got {value!r}.", param_hint=option) from error


def _class_names(text: str) -> Any:
    names = [name.strip() for name in text.split(",")]
    pairs = [name.partition("=") for name in names]
    if not any(equals for _, equals, _ in pairs):
        return names
    if not all(equals for _, equals, _ in pairs):
        raise ValueError("class names are written as car,bus, or as Car=car,dirt= to rename them")
    return {old.strip(): new.strip() or None for old, _, new in pairs}


def _labels(text: str) -> dict[int, int | str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(old.strip().isdecimal() and new.strip() for old, _, new in pairs):
        raise ValueError("labels are written as 11=255,12=0")
    return {int(old): _class(new) for old, _, new in pairs}


def _palette(text: str) -> Any:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not any(equals for _, equals, _ in pairs):
        return [color.strip() for color, _, _ in pairs]
    if not all(equals and new.strip() for _, equals, new in pairs):
        raise ValueError("a palette is written as #804080=road,#000000=255, or as #000000,#804080")
    return {color.strip(): _class(new) for color, _, new in pairs}


def _class(text: str) -> int | str:
    """A class by its index or its name."""
    return int(text) if text.strip().isdecimal() else text.strip()


def _parts(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(name.strip() and place.strip() for name, _, place in pairs):
        raise ValueError("parts are written as train=train.txt,val=val.txt")
    return {name.strip(): place.strip() for name, _, place in pairs}


def _head_options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise ValueError(f"this is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise ValueError('options are written as {"channels": 64}')
    return options


_READ: Mapping[str, Callable[[str], Any]] = {
    "class_names": _class_names,
    "labels": _labels,
    "palette": _palette,
    "lists": _parts,
    "folders": _parts,
    "head_options": _head_options,
}
