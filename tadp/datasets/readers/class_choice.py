"""The classes of a data set: those in its label files, or the user's own choice and names."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tadp.captions.records import shown
from tadp.datasets.readers.label_problems import keep
from tadp.datasets.sample import IGNORE_LABEL
from tadp.errors import Argument, DatasetError
from tadp.files.checks import check_classes
from tadp.language.matching import readable
from tadp.language.unicode_forms import composed

ClassNames: TypeAlias = Sequence[str] | Mapping[str, str | None]
BACKGROUND = "background"
_FIXED = {BACKGROUND: 0, "_background_": 0, "__ignore__": IGNORE_LABEL}  # the last two are labelme's


class OrderedNames(tuple[str, ...]):
    """Names of classes in their order, and what the names in label files become before they are compared with these.

    A model is measured with these: its classes have an order, and a folder may call them otherwise.

    Args:
        names: The names in their order.
        renamed: New names for those in the label files; None leaves a class out.

    Example:
        >>> names = OrderedNames(["car", "road"], {"Car": "car"})
        >>> names, names.renamed
        (('car', 'road'), {'Car': 'car'})
    """

    renamed: Mapping[str, str | None]

    def __new__(cls, names: Sequence[str], renamed: Mapping[str, str | None]) -> "OrderedNames":
        ordered = super().__new__(cls, names)
        ordered.renamed = renamed
        return ordered


def new_names(found: Sequence[str], class_names: ClassNames | None) -> dict[str, str | None]:
    """The name of each class in label files after a user's new names; None if the class is left out."""
    renamed = class_names.renamed if isinstance(class_names, OrderedNames) else class_names
    renamed = renamed if isinstance(renamed, Mapping) else {}
    return {label: renamed.get(label, label) for label in found}


@dataclass(frozen=True)
class ClassChoice:
    """The classes of objects, and where each name in the label files belongs.

    Attributes:
        names: Names of the classes that labels index, without background.
        index_of: For each name that occurs in the label files, the index of its class in `names`; None if the class is
            left out.
    """

    names: tuple[str, ...]
    index_of: Mapping[str, int | None]


def fixed_value(name: str) -> int | None:
    """The value in masks of a name for background or unknown pixels; None for the name of a class."""
    return _FIXED.get(name.strip().lower())


def choose_classes(
    found: Sequence[str], class_names: ClassNames | None, *, name: str, places: Mapping[str, str]
) -> ClassChoice:
    """Choose the classes of objects.

    Args:
        found: The names in the label files, in the order of their indices. Background is left out.
        class_names: None takes all names as they are. A sequence has the classes in the order of their indices; objects
            of other classes are left out, with a warning, and a first name "background" is only for masks and not
            counted. A mapping renames the classes that it contains; several may get one name, and those with the name
            None are left out.
        name: The data set's name, for error messages.
        places: A place in the label files where each name occurs, for error messages.

    Raises:
        DatasetError: If two names only differ in case or blanks and a mapping does not rename one of them, or if the
            data set has none of the classes.
        TypeError: If `class_names` is not an ordered collection of strings.
        ValueError: If a name in `class_names` is empty or occurs twice.
    """
    found = [label for label in dict.fromkeys(map(composed, found)) if fixed_value(label) is None]
    if isinstance(class_names, Mapping):
        class_names = {composed(label): new if new is None else composed(new) for label, new in class_names.items()}
        unknown = [label for label in class_names if label not in found]
        if unknown:
            raise DatasetError(
                Argument("class_names"), f": {name} has no class {unknown[0]!r}; its classes are {_listed(found)}."
            )
    renamed = new_names(found, class_names)
    check_alike({label: new for label, new in renamed.items() if new is not None}, name, places)
    spelled: dict[str, str] = {}  # alike names are only left where problems are collected
    renamed = {label: new if new is None else spelled.setdefault(readable(new), new) for label, new in renamed.items()}
    if class_names is None or isinstance(class_names, Mapping):
        names = list(dict.fromkeys(new for new in renamed.values() if new is not None))
        return _choice(names, renamed, name, places)
    names = check_classes(class_names, name="class_names")
    names = names[1:] if names[0] == BACKGROUND else names
    by_text = {readable(new): new for new in names}
    kept = {label: new if new is None else by_text.get(readable(new)) for label, new in renamed.items()}
    _tell_of_left_out({label: kept[label] for label, new in renamed.items() if new is not None}, names, name, places)
    return _choice(names, kept, name, places)


def _choice(
    names: Sequence[str], renamed: Mapping[str, str | None], name: str, places: Mapping[str, str]
) -> ClassChoice:
    if not names:
        raise DatasetError(f"{name} has no classes: its label files name no object. Check that labels were exported.")
    for label, new in renamed.items():
        if new is not None and not readable(new):
            raise DatasetError(
                f"{places.get(label, name)} has a class without a name. Name it in the labelling tool, or leave such "
                f"objects out: class_names={{{label!r}: None}} (--class-names '{label}=')."
            )
    names = check_classes(names, name="class_names")
    index = {new: number for number, new in enumerate(names)}
    return ClassChoice(tuple(names), {label: None if new is None else index[new] for label, new in renamed.items()})


def check_alike(renamed: Mapping[str, str], name: str, places: Mapping[str, str]) -> None:
    """Refuse two classes whose names only differ in case or blanks.

    Args:
        renamed: The name of each class, by its name in the files.
        name: The data set's name, for error messages.
        places: A place in the files where each name occurs, for error messages.

    Raises:
        DatasetError: If there are two such classes.
    """
    seen: dict[str, str] = {}
    for label, new in renamed.items():
        text = readable(new).casefold().replace(" ", "")
        first = seen.setdefault(text, label)
        if renamed[first] != new:
            where = [f"{label!r} ({places[label]})" if label in places else repr(label) for label in (first, label)]
            problem = (
                f"{name} has two classes whose names only differ in case or blanks: {where[0]} and {where[1]}. If they "
                f"are one class, pass class_names={{{label!r}: {first!r}}} "
                f"(--class-names '{label}={first}'); otherwise rename one in the labelling tool."
            )
            if not keep("similar names", [problem]):
                raise DatasetError(problem)


def warn_about_same(names: Sequence[str], where: Path) -> None:
    """Warn of two classes of a label file that have one name, because they become one class.

    Args:
        names: The names of the classes in the file.
        where: The file.
    """
    for name, count in Counter(map(composed, names)).items():
        if count > 1:
            warnings.warn(
                f"{where} has {count} classes named {shown(name)}; their objects become one class. If they differ, "
                "give one another name.",
                stacklevel=2,
            )


def _tell_of_left_out(
    renamed: Mapping[str, str | None], names: Sequence[str], name: str, places: Mapping[str, str]
) -> None:
    """Refuse a choice of classes that the data set does not have, and warn of classes that the choice leaves out."""
    left_out = [label for label, new in renamed.items() if new is None]
    chosen = {new.casefold().replace(" ", "") for new in map(readable, names)}
    for label in left_out:
        if readable(label).casefold().replace(" ", "") in chosen:
            raise DatasetError(
                f"{name}: the class {label!r} ({places.get(label, 'in its list of classes')}) differs from those in "
                "class_names only in case or blanks. Write it in the same way (--class-names)."
            )
    if left_out and len(left_out) == len(renamed):
        raise DatasetError(
            f"{name} has none of the classes in ",
            Argument("class_names"),
            f" ({_listed(names)}); its classes are {_listed(left_out)}.",
        )
    if left_out:
        warnings.warn(
            f"{name}: objects of the classes {_listed(left_out)} are left out, because class_names (--class-names) "
            "does not have them.",
            stacklevel=2,
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(shown(label) for label in names[:10]) + more
