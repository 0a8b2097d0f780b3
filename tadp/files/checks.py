"""Checks of arguments that many functions share, and packages that come with an extra."""

import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from tadp.errors import Argument, MissingExtraError, OptionError, TADPError
from tadp.language.matching import readable


def check_whole(value: Any, *, name: str, minimum: int | None = 1, unit: str = "", note: str = "") -> int:
    """A whole number as a plain int.

    Args:
        value: What was passed: an int, or what Python takes for one, such as NumPy's integers; no bool.
        name: The argument's name.
        minimum: The least it may be; None for any.
        unit: What it counts, in the singular, for the message.
        note: What else the message says of the argument: ", or None for any".

    Raises:
        TypeError: If it is not a whole number.
        OptionError: If it is under the minimum.

    Example:
        >>> check_whole(512, name="window_px", unit="pixel")
        512
        >>> check_whole(0, name="window_px", unit="pixel")
        Traceback (most recent call last):
        tadp.errors.OptionError: window_px is 1 pixel or more; got 0.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:  # also of an array or a tensor of several numbers
        number = None
    if number is None:
        unit = unit and f" of {unit}s"
        raise TypeError(f"{name} is a whole number{unit}{note}; got {value!r} ({type(value).__name__}).")
    if minimum is not None and number < minimum:
        raise OptionError(Argument(name), f" is {minimum}{unit and f' {unit}'} or more{note}; got {number}.")
    return number


def check_counts(**counts: Any) -> None:
    """Refuse arguments that are not whole numbers of 1 or more."""
    for name, count in counts.items():
        check_whole(count, name=name)


def check_choice(
    value: Any, choices: Collection[str | None], *, name: str, error: type[TADPError] = OptionError
) -> None:
    """Refuse a name that is not among the choices.

    Raises:
        OptionError: If it is not, or the given kind of error.

    Example:
        >>> check_choice("layer", ("batch", "group"), name="norm")
        Traceback (most recent call last):
        tadp.errors.OptionError: norm is one of batch, group; got 'layer'.
    """
    if value not in choices:
        raise error(Argument(name), f" is one of {', '.join(map(str, choices))}; got {value!r}.")


def check_classes(classes: Sequence[str], *, name: str = "classes") -> list[str]:
    """Class names as a list.

    Raises:
        TypeError: If they are not strings in an order.
        ValueError: If there are none, one is empty, or two read the same, as "red_cat" and "red cat" do.
    """
    if isinstance(classes, str):
        raise TypeError(f"{name} are a list of strings; got the string {classes!r}. Pass [{classes!r}].")
    if not isinstance(classes, Iterable):
        raise TypeError(f"{name} are a list of strings; got {type(classes).__name__}.")
    if isinstance(classes, Set):  # whose order changes from run to run
        raise TypeError(f"{name} have an order; got a {type(classes).__name__}, which has none. Pass sorted({name}).")
    names = list(classes)
    if not names:
        raise ValueError(f"no {name}; give at least one name.")
    seen: dict[str, int] = {}
    for number, one in enumerate(names):
        if not isinstance(one, str):
            raise TypeError(f"a class is a string; class {number} is of type {type(one).__name__}.")
        text = readable(one)
        if not text:
            raise ValueError(f"a class has a name; class {number} is {one!r}.")
        if text in seen:
            raise ValueError(f"each class stands once; {one!r} is class {seen[text]} and {number}.")
        seen[text] = number
    return names


def check_present(present: Iterable[Iterable[str]], classes: Collection[str] | None) -> list[list[str]]:
    """The classes in each image, as lists.

    Args:
        present: For each image the names of its classes.
        classes: All that there are; None for any.

    Raises:
        TypeError: If it is not a list of lists or sets of names.
        ValueError: If an image has a class that is not among all.
    """
    if isinstance(present, str | Mapping) or not isinstance(present, Iterable):
        raise TypeError(f"present has a list of classes for each image; got {type(present).__name__}.")
    images = []
    for number, names in enumerate(present):
        if isinstance(names, str):
            raise TypeError(f"present has a list of classes for each image; image {number} has the string {names!r}.")
        if not isinstance(names, Iterable):
            raise TypeError(f"present has a list of classes for each image, [] for none; image {number} has {names!r}.")
        images.append(list(names))
        unknown = [name for name in images[-1] if classes is not None and name not in classes]
        if unknown:
            raise ValueError(
                f"image {number} has {unknown[0]!r}, which is none of the {len(classes or ())} classes. Add it to "
                "`classes`, or leave it out of `present`."
            )
    return images


@contextmanager
def needs(what: str, *, install: str) -> Iterator[None]:
    """Around the import of an optional package: if it fails, the error says how to install the package.

    Args:
        what: Who needs what, for the message: "a LoRA needs peft".
        install: What to do about it: "pip install 'tadp[train]'".

    Raises:
        MissingExtraError: If the package is not installed, or does not load.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(f"{what}, which does not load ({error}): {install}") from error


def need(module: str, *, install: str) -> Any:
    """A module of an optional package, imported when it is used.

    Args:
        module: The module's name, "timm.models".
        install: What to do if the package is missing: "pip install 'tadp[timm]'".

    Raises:
        MissingExtraError: If the package is not installed, or does not load.
    """
    with needs(f"this needs {module.partition('.')[0]}", install=install):
        return import_module(module)
