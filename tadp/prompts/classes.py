"""Class names as prompts take and write them."""

from collections.abc import Iterable, Sequence, Set

from tadp.language.matching import readable


def check_classes(classes: Sequence[str]) -> list[str]:
    """A list of class names, or an error that says which is wrong."""
    if isinstance(classes, str):
        raise TypeError(f"classes are a list of strings; got the string {classes!r}. Pass [{classes!r}].")
    if not isinstance(classes, Iterable):
        raise TypeError(f"classes are a list of strings; got {type(classes).__name__}.")
    if isinstance(classes, Set):  # whose order changes from run to run
        raise TypeError(f"classes have an order; got a {type(classes).__name__}, which has none. Pass sorted(classes).")
    names = list(classes)
    if not names:
        raise ValueError("no classes; give at least one name.")
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(f"a class is a string; class {number} is of type {type(name).__name__}.")
        text = readable(name)
        if not text:
            raise ValueError(f"a class has a name; class {number} is {name!r}.")
        if text in seen:
            raise ValueError(f"each class stands once; {name!r} is class {seen[text]} and {number}.")
        seen[text] = number
    return names
