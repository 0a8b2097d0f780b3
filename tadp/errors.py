"""The errors that tadp raises where it can explain more than a built-in error would.

Each class also inherits from the built-in error in the second column, so `except ValueError` also catches it:

    TADPError
    ├── OptionError         ValueError         an argument with an invalid value
    │   └── UnknownOptionError                 an option that the reader of a folder does not have
    ├── ImageError          ValueError         an image that cannot be read or used
    ├── CaptionError        ValueError         text that does not fit the text encoder or the images
    │   └── UnknownIdError  KeyError           an image that is missing from a caption table
    ├── ModifierError       ValueError         a caption modifier that cannot be created, or does not fit the backbone
    ├── EndpointError       ConnectionError    a language model's server that never gave a usable answer
    ├── ModelError          ValueError         a model that tadp cannot use as a backbone, captioner or task model
    │   ├── UnknownModelError                  no such name, folder or repository
    │   ├── MissingFileError  FileNotFoundError  a model that lacks a part
    │   └── CorruptFileError                   a weight file that is broken, or not safetensors
    ├── DatasetError        ValueError         invalid labels in a data set
    │   └── MissingDataError  FileNotFoundError  a missing data set; the message says what to get, and where to put it
    ├── TrainingError       ValueError         a training run that cannot continue; the message says what is kept
    ├── OutputError         OSError            a result that cannot be written (disk, permission)
    └── MissingExtraError   ImportError        a missing optional dependency; the message has the pip command

A message can contain the name of an argument, as an `Argument`. By default it is written as in Python; the command
line, where the argument is an option, writes it as an option.

    >>> error = CaptionError("the caption is too long. Shorten it or pass ", Argument("truncate", True), ".")
    >>> str(error), error.option
    ('the caption is too long. Shorten it or pass truncate=True.', 'truncate')
    >>> error.spelled(lambda argument: f"--{argument.name}")
    'the caption is too long. Shorten it or pass --truncate.'
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_CONTROL = {
    number: ascii(chr(number))[1:-1]
    for number in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
    if chr(number) not in "\n\t"
}


def escaped(text: str) -> str:
    r"""A text in which control characters are written as in Python, because they could change a terminal.

    Ends of lines and tabs stay. File names may have any of the others.

    Example:
        >>> escaped("\x1b[31mred\u202e.png")
        '\\x1b[31mred\\u202e.png'
    """
    return text.translate(_CONTROL)


class _NoValue:
    """Stands for "no value". It is a class so that it is still the same object after pickling."""


@dataclass(frozen=True)
class Argument:
    """An argument of the library in a message.

    Attributes:
        name: The argument's name.
        value: The value to pass; `...` is a value that the reader knows. By default the message shows only the name.
    """

    name: str
    value: Any = _NoValue

    @property
    def has_value(self) -> bool:
        """Whether the message shows a value."""
        return self.value is not _NoValue

    def __str__(self) -> str:
        value = "…" if self.value is ... else repr(self.value)
        return f"{self.name}={value}" if self.has_value else self.name


class TADPError(Exception):
    """Base class of all errors that tadp raises on purpose.

    Args:
        *message: The message, split into parts wherever it contains an `Argument`.
    """

    def __init__(self, *message: str | Argument):
        super().__init__("".join(map(str, message)))
        self.args = message

    def __str__(self) -> str:
        return self.spelled(str)

    @property
    def option(self) -> str | None:
        """The name of the first argument in the message; None if it contains no argument."""
        return next((part.name for part in self.args if isinstance(part, Argument)), None)

    def spelled(self, spell: Callable[[Argument], str]) -> str:
        """The message, with each argument spelled by a function, and without control characters."""
        return escaped("".join(spell(part) if isinstance(part, Argument) else str(part) for part in self.args))


class OptionError(TADPError, ValueError):
    """An argument has an invalid value."""


class UnknownOptionError(OptionError):
    """The reader of a folder does not have an option."""


class ImageError(TADPError, ValueError):
    """An image cannot be read, or has invalid values."""


class CaptionError(TADPError, ValueError):
    """Text does not fit the text encoder or the images it came with, or a caption file cannot be used."""


class UnknownIdError(CaptionError, KeyError):
    """An image id is missing from a caption table."""


class ModifierError(TADPError, ValueError):
    """A caption modifier, its learned token or its U-Net cannot be created, or does not fit the backbone."""


class EndpointError(TADPError, ConnectionError):
    """A language model's server cannot be reached, refuses requests, or never gave a usable answer."""


class ModelError(TADPError, ValueError):
    """tadp cannot use a model; the message says why."""


class UnknownModelError(ModelError):
    """A name is neither a folder, nor a model on the hub, nor a model that ships with tadp."""


class MissingFileError(ModelError, FileNotFoundError):
    """A model folder or repository lacks a required file."""


class CorruptFileError(ModelError):
    """A weight file cannot be read because it is truncated, damaged, or a pickle."""


class DatasetError(TADPError, ValueError):
    """Labels of a data set are invalid, such as a mask of the wrong size or an unknown class."""


class MissingDataError(DatasetError, FileNotFoundError):
    """A folder, list or file of a data set is missing; the message says what to get and where to put it."""


class TrainingError(TADPError, ValueError):
    """A training run cannot start or continue. The message says why, and what is kept."""


class OutputError(TADPError, OSError):
    """A result could not be written; a file that was there before is unchanged."""


class MissingExtraError(TADPError, ImportError):
    """An optional dependency is not installed; the message says how to install it."""
