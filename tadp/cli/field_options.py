"""Options of a command that are generated from the fields of a dataclass."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import Field
from typing import Annotated, Any

import typer


def field_texts(options: type) -> dict[str, str]:
    """Return the description of each field of a dataclass, from the `Attributes` section of its docstring.

    Example:
        >>> from tadp.personalize.run_options import RunOptions
        >>> field_texts(RunOptions)["lr"]
        'Learning rate, constant over all steps; None is 1e-4 for a token or a LoRA and 5e-6 for a whole U-Net.'
    """
    attributes = (inspect.getdoc(options) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    descriptions = re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in descriptions}


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
