"""Argument checks that many functions share, and imports of packages that come with an extra."""

import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from tadp.errors import Argument, MissingExtraError, OptionError, TADPError
from tadp.language.matching import readable


def check_whole(value: Any, *, name: str, minimum: int | None = 1, unit: str = "", note: str = "") -> int:
    """Return a whole number as a plain int.

    Args:
        value: The value that was passed: an int, or anything that Python accepts as one, such as a NumPy integer. A
            bool is refused.
        name: The argument's name, for the message.
        minimum: The smallest value allowed; None allows any.
        unit: The unit that is counted, in the singular, for the message.
        note: Words to add to the rule in the message, such as ", or None for any".

    Raises:
        TypeError: If `value` is not a whole number.
        OptionError: If `value` is below the minimum.

    Example:
        >>> check_whole(512, name="window_px", unit="pixel")
        512
        >>> check_whole(0, name="window_px", unit="pixel")
        Traceback (most recent call last):
        tadp.errors.OptionError: window_px must be 1 pixel or more; got 0.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:  # an array or a tensor of several numbers raises it too
        number = None
    if number is None:
        unit = unit and f" of {unit}s"
        raise TypeError(f"{name} must be a whole number{unit}{note}; got {value!r} ({type(value).__name__}).")
    if minimum is not None and number < minimum:
        raise OptionError(Argument(name), f" must be {minimum}{unit and f' {unit}'} or more{note}; got {number}.")
    return number


def check_counts(**counts: Any) -> None:
    """Refuse arguments that are not whole numbers of 1 or more."""
    for name, count in counts.items():
        check_whole(count, name=name)


def check_choice(
    value: Any, choices: Collection[str | None], *, name: str, error: type[TADPError] = OptionError
) -> None:
    """Refuse a value that is not among the choices.

    Args:
        value: The value that was passed.
        choices: The values that are allowed.
        name: The argument's name, for the message.
        error: The class of the error to raise.

    Raises:
        OptionError: If `value` is not among the choices. If you pass `error`, that class is raised instead.

    Example:
        >>> check_choice("layer", ("batch", "group"), name="norm")
        Traceback (most recent call last):
        tadp.errors.OptionError: norm must be one of batch, group; got 'layer'.
    """
    if value not in choices:
        raise error(Argument(name), f" must be one of {', '.join(map(str, choices))}; got {value!r}.")


def check_classes(classes: Sequence[str], *, name: str = "classes") -> list[str]:
    """Return class names as a list.

    Args:
        classes: The class names, in a fixed order.
        name: The argument's name, for the message.

    Raises:
        TypeError: If `classes` is not an ordered collection of strings.
        ValueError: If there are no names, a name is empty, or two names read the same, as "red_cat" and "red cat" do.
    """
    if isinstance(classes, str):
        raise TypeError(f"{name} must be a list of strings; got the string {classes!r}. Pass [{classes!r}].")
    if not isinstance(classes, Iterable):
        raise TypeError(f"{name} must be a list of strings; got {type(classes).__name__}.")
    if isinstance(classes, Set):  # the order of a set changes from run to run
        raise TypeError(
            f"{name} must have a fixed order; got a {type(classes).__name__}, which has none. Pass sorted({name})."
        )
    names = list(classes)
    if not names:
        raise ValueError(f"no {name}; give at least one name.")
    seen: dict[str, int] = {}
    for number, class_name in enumerate(names):
        if not isinstance(class_name, str):
            raise TypeError(f"a class name must be a string; class {number} is of type {type(class_name).__name__}.")
        text = readable(class_name)
        if not text:
            raise ValueError(f"a class name must not be empty; class {number} is {class_name!r}.")
        if text in seen:
            raise ValueError(f"class names must be unique; {class_name!r} is class {seen[text]} and {number}.")
        seen[text] = number
    return names


def check_present(present: Iterable[Iterable[str]], classes: Collection[str] | None) -> list[list[str]]:
    """Return the classes in each image as lists.

    Args:
        present: For each image, the names of its classes.
        classes: All class names; None allows any name.

    Raises:
        TypeError: If `present` is not a list of lists or sets of names.
        ValueError: If an image has a class that is not in `classes`.
    """
    if isinstance(present, str | Mapping) or not isinstance(present, Iterable):
        raise TypeError(f"present must hold a list of classes for each image; got {type(present).__name__}.")
    images = []
    for number, names in enumerate(present):
        if isinstance(names, str):
            raise TypeError(
                f"present must hold a list of classes for each image; image {number} has the string {names!r}."
            )
        if not isinstance(names, Iterable):
            raise TypeError(
                f"present must hold a list of classes for each image, [] for none; image {number} has {names!r}."
            )
        images.append(list(names))
        unknown = [name for name in images[-1] if classes is not None and name not in classes]
        if unknown:
            raise ValueError(
                f"image {number} has {unknown[0]!r}, which is not one of the {len(classes or ())} classes. Add it to "
                "`classes`, or leave it out of `present`."
            )
    return images


@contextmanager
def needs(what: str, *, install: str) -> Iterator[None]:
    """Wrap the import of an optional package; if it fails, the error says how to install the package.

    Args:
        what: The need, for the message: "a LoRA needs peft".
        install: The command that installs the package: "pip install 'tadp[train]'".

    Raises:
        MissingExtraError: If the package is not installed, or does not load.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(f"{what}, which does not load ({error}): {install}") from error


def need(module: str, *, install: str) -> Any:
    """Import a module of an optional package when it is first used.

    Args:
        module: The module's name, such as "timm.models".
        install: The command that installs the package: "pip install 'tadp[timm]'".

    Raises:
        MissingExtraError: If the package is not installed, or does not load.
    """
    with needs(f"this needs {module.partition('.')[0]}", install=install):
        return import_module(module)
