"""What tadp raises when it can say more than Python would.

Every class also inherits the built-in that fits, so `except ValueError` keeps working:

    TADPError
    ├── OptionError         ValueError         an argument's value that cannot be
    ├── ImageError          ValueError         an image that cannot be read or used
    ├── CaptionError        ValueError         text that does not fit the text encoder, or the images
    │   └── UnknownIdError  KeyError           an image that a caption table does not hold
    ├── ModifierError       ValueError         a caption modifier that cannot be made, or does not fit the backbone
    ├── EndpointError       ConnectionError    a language model's server that gave no usable answer at all
    ├── ModelError          ValueError         a model that tadp cannot use as a backbone or captioner
    │   ├── UnknownModelError                  no such name, folder or repository
    │   ├── MissingFileError  FileNotFoundError  a model that lacks a part
    │   └── CorruptFileError                   a weight file that is broken, or not safetensors
    ├── DatasetError        ValueError         labels of a data set that are not what they should be
    │   └── MissingDataError  FileNotFoundError  a data set that is not where it should be; what to get, and where to
    ├── OutputError         OSError            a result that cannot be written (disk, permission)
    └── MissingExtraError   ImportError        an optional dependency; the message has the pip command

A message may name an argument, as an `Argument`. In Python it reads as Python has it; the command line, where the same
thing is an option, spells it as that.

    >>> error = CaptionError("the caption is too long. Shorten it or pass ", Argument("truncate", True), ".")
    >>> str(error), error.option
    ('the caption is too long. Shorten it or pass truncate=True.', 'truncate')
    >>> error.spelled(lambda argument: f"--{argument.name}")
    'the caption is too long. Shorten it or pass --truncate.'
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class _NoValue:
    """Where no value is told; a class, so that a pickle has the same."""


@dataclass(frozen=True)
class Argument:
    """An argument of the library, in a message.

    Attributes:
        name: The argument's name.
        value: The value to pass; `...` is one that the reader knows. Without one only the name is told.
    """

    name: str
    value: Any = _NoValue

    @property
    def has_value(self) -> bool:
        """Whether a value is told."""
        return self.value is not _NoValue

    def __str__(self) -> str:
        value = "…" if self.value is ... else repr(self.value)
        return f"{self.name}={value}" if self.has_value else self.name


class TADPError(Exception):
    """Base of everything tadp raises on purpose.

    Args:
        *message: The message, in parts where it names arguments.
    """

    def __init__(self, *message: str | Argument):
        super().__init__("".join(map(str, message)))
        self.args = message

    def __str__(self) -> str:
        return self.spelled(str)

    @property
    def option(self) -> str | None:
        """Name of the first argument that the message names."""
        return next((part.name for part in self.args if isinstance(part, Argument)), None)

    def spelled(self, spell: Callable[[Argument], str]) -> str:
        """The message, with each argument as a function spells it."""
        return "".join(spell(part) if isinstance(part, Argument) else str(part) for part in self.args)


class OptionError(TADPError, ValueError):
    """An argument's value that cannot be what was meant."""


class ImageError(TADPError, ValueError):
    """An image that cannot be read, or whose values cannot be what was meant."""


class CaptionError(TADPError, ValueError):
    """Text that does not fit the text encoder or the images it came with; a caption file that cannot be used."""


class UnknownIdError(CaptionError, KeyError):
    """An image id that a caption table does not hold."""


class ModifierError(TADPError, ValueError):
    """A caption modifier, or its learned token or U-Net, that cannot be made, or does not fit the backbone."""


class EndpointError(TADPError, ConnectionError):
    """A language model's server that cannot be reached, refuses, or never gave a usable answer."""


class ModelError(TADPError, ValueError):
    """A model that tadp cannot use, and why."""


class UnknownModelError(ModelError):
    """A name that is neither a folder, nor a model on the hub, nor one that ships with tadp."""


class MissingFileError(ModelError, FileNotFoundError):
    """A model folder or repository without a file that is needed."""


class CorruptFileError(ModelError):
    """A weight file that cannot be read: truncated, damaged, or a pickle."""


class DatasetError(TADPError, ValueError):
    """Labels of a data set that cannot be what was meant: a mask of another size, a class that is none."""


class MissingDataError(DatasetError, FileNotFoundError):
    """A folder, list or file of a data set that is not there; the message says what to get and where it belongs."""


class OutputError(TADPError, OSError):
    """A result that could not be written; what was there before is untouched."""


class MissingExtraError(TADPError, ImportError):
    """An optional dependency is not installed; the message says how to install it."""
