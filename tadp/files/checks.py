"""Argument checks that many functions share, and imports of packages that come with an extra."""

import math
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from errno import ENOMEM
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any

from tadp.errors import Argument, CorruptFileError, MissingExtraError, OptionError, TADPError
from tadp.files.schema import shown
from tadp.language.matching import readable
from tadp.language.unicode_forms import composed

LARGEST_JSON = 2**26  # bytes; the index of a large model has less than a million
_LONGEST_LINE = 10_000  # characters
_POINTER = b"version https://git-lfs.github.com/spec/"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, the system or torch means that there is too little memory."""
    if isinstance(error, RuntimeError):  # torch's message depends on the device and the system
        words = ("out of memory", "allocate memory", "not enough memory")
        return any(part in str(error) for part in words) or str(error) == "could not create a primitive"  # by oneDNN
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == ENOMEM)


def check_whole(value: Any, *, name: str, minimum: int | None = 1, unit: str = "", note: str = "") -> int:
    """Check that a value is a whole number, and return it as an int.

    Args:
        value: The value to check: an int, or anything that Python accepts as an index, such as a NumPy integer. A bool
            is refused.
        name: Name of the argument that was passed, for the error message.
        minimum: Smallest value allowed, 1 by default; None allows any value.
        unit: Unit of the number in the singular, such as "pixel", for the error message; "" for a number without unit.
        note: Words to add to the rule in the error message, such as ", or None for any".

    Raises:
        TypeError: If `value` is not a whole number.
        OptionError: If `value` is below `minimum`.

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
        unit = unit and f" {unit}"
        raise OptionError(Argument(name), f" must be {minimum}{unit} or more{note}; got {shown(number)}.")
    return number


def check_counts(**counts: Any) -> None:
    """Refuse arguments that are not whole numbers of 1 or more."""
    for name, count in counts.items():
        check_whole(count, name=name)


def check_numbers(*, allow_nonfinite: bool = False, **numbers: Any) -> None:
    """Refuse arguments that are not finite numbers; a bool is refused too.

    Args:
        allow_nonfinite: Whether infinity and NaN are allowed, for arguments whose range is checked later.
        **numbers: The arguments by name.

    Raises:
        TypeError: If a value is not a number.
        OptionError: If a number is infinite or NaN.

    Example:
        >>> check_numbers(lr=float("nan"))
        Traceback (most recent call last):
        tadp.errors.OptionError: lr must be a finite number; got nan.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Real):
            raise TypeError(f"{name} must be a number; got {number!r} ({type(number).__name__}).")
        if not allow_nonfinite and not is_finite_number(number):
            raise OptionError(Argument(name), f" must be a finite number; got {shown(number)}.")


def is_finite_number(number: Any) -> bool:
    """Whether a number is not NaN, infinite, or a whole number that is too large for a float."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def check_choice(
    value: Any, choices: Collection[str | None], *, name: str, error: type[TADPError] = OptionError
) -> None:
    """Check that a value is one of the allowed choices.

    Args:
        value: The value to check.
        choices: The values that are allowed.
        name: Name of the argument that was passed, for the error message.
        error: Class of the error to raise; `OptionError` by default.

    Raises:
        OptionError: If `value` is not among the choices. If `error` is passed, that class is raised instead.

    Example:
        >>> check_choice("layer", ("batch", "group"), name="norm")
        Traceback (most recent call last):
        tadp.errors.OptionError: norm must be one of batch, group; got 'layer'.
    """
    if value not in choices:
        raise error(Argument(name), f" must be one of {', '.join(map(str, choices))}; got {value!r}.")


def check_classes(classes: Sequence[str], *, name: str = "classes") -> list[str]:
    """Check class names, and return them as a list, in Unicode's form NFC.

    Args:
        classes: The class names in the order of the class indices.
        name: Name of the argument that was passed, for the error message.

    Raises:
        TypeError: If `classes` is not an ordered collection of strings.
        ValueError: If `classes` is empty, if a name is empty, or if two names only differ in how they are written, as
            "red_cat" and "red cat" do.
    """
    if isinstance(classes, str):
        raise TypeError(f"{name} must be a list of strings; got the string {classes!r}. Pass [{classes!r}].")
    if not isinstance(classes, Iterable):
        raise TypeError(f"{name} must be a list of strings; got {type(classes).__name__}.")
    if isinstance(classes, Set):  # the order of a set changes from run to run
        raise TypeError(
            f"{name} must have a fixed order; got a {type(classes).__name__}, which has none. Pass sorted({name})."
        )
    names = [composed(name) if isinstance(name, str) else name for name in classes]
    if not names:
        raise ValueError(f"no {name}; give at least one name.")
    seen: dict[str, int] = {}
    for number, class_name in enumerate(names):
        if not isinstance(class_name, str):
            raise TypeError(
                f"{name}: a class name must be a string; class {number} is of type {type(class_name).__name__}."
            )
        if any("\ud800" <= letter <= "\udfff" for letter in class_name):
            raise ValueError(
                f"{name}: class {number} ({class_name[:24]!a}) cannot be written as UTF-8, because it has half an "
                "emoji or a byte that is not text. Remove it."
            )
        text = readable(class_name)
        if not text:
            raise ValueError(f"a class name must not be empty; class {number} is {class_name!r}.")
        if text in seen:
            raise ValueError(f"class names must be unique; {class_name!r} is class {seen[text]} and {number}.")
        seen[text] = number
    return names


def check_ignore_label(label: Any, classes: int) -> int:
    """Check that the label of pixels that do not count is not that of a class, and return it as an int.

    Args:
        label: The label.
        classes: The number of classes.

    Raises:
        TypeError: If `label` is not a whole number.
        OptionError: If `label` is the number of a class, which would be left out.
    """
    label = check_whole(label, name="ignore_label", minimum=None)
    if 0 <= label < classes:
        raise OptionError(
            Argument("ignore_label"),
            f" must not be a class; got {label} for {classes} classes. Use a negative label, e.g. -1.",
        )
    return label


def check_ordered(**values: Any) -> None:
    """Refuse arguments that are sets, whose order changes from run to run, where the order means something."""
    for name, value in values.items():
        if isinstance(value, Set):
            raise TypeError(
                f"{name} must have a fixed order; got a {type(value).__name__}, which has none. Pass a list."
            )


def check_present(present: Iterable[Iterable[str]], classes: Collection[str] | None) -> list[list[str]]:
    """Check the names of the classes in each image, and return one list of names per image.

    Args:
        present: For each image, the names of the classes that it shows.
        classes: The names that are allowed; None allows any name.

    Raises:
        TypeError: If `present` is not a list of lists or sets of names.
        ValueError: If a name in `present` is not in `classes`.
    """
    if isinstance(present, str | Mapping | Set) or not isinstance(present, Iterable):
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
        images.append([composed(name) if isinstance(name, str) else name for name in names])
        unknown = [name for name in images[-1] if classes is not None and name not in classes]
        if unknown:
            raise ValueError(
                f"image {number} has {unknown[0]!r}, which is not one of the {len(classes or ())} classes. Add it to "
                "`classes`, or leave it out of `present`."
            )
    return images


def check_regular(path: Path, *, most_bytes: int | None = None) -> None:
    """Refuse a pipe, a socket or a device, from which reading may never end, a git-LFS pointer, and a large file.

    Args:
        path: The path of the file.
        most_bytes: The largest allowed size in bytes; None allows any.

    Raises:
        CorruptFileError: If there is something at the path that is neither a file nor a folder, or the file is too
            large or a git-LFS pointer; see `refuse_pointer`.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise CorruptFileError(f"{path} is a pipe or a device, not a file. Replace it by a file.")
    if most_bytes is not None and path.stat().st_size > most_bytes:
        raise CorruptFileError(
            f"{path} has more than {most_bytes} bytes, too many for such a file. Get the file again."
        )
    refuse_pointer(path, CorruptFileError)


def check_utf8(path: Path, error: type[TADPError]) -> None:
    """Refuse a path that is not UTF-8, because safetensors, tokenizers and PyTorch cannot read files there.

    Args:
        path: The path of a model's file or folder.
        error: The class of the error to raise.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as reason:
        raise error(
            f"the name {path} is not UTF-8, and the libraries that read models cannot open files under such a name. "
            "Rename it, or choose another."
        ) from reason


def read_lines(path: Path, *, of: str, error: type[TADPError]) -> list[str]:
    """Read the lines of a text file that are not empty, without surrounding white space.

    A byte-order mark, with which Windows marks UTF-8, is left out.

    Args:
        path: The path of the file.
        of: The kind of text on each line, for error messages, such as "image".
        error: The class of the error to raise.

    Raises:
        TADPError: If the file cannot be read, is not a text file, is empty, or is too large, as the given class.
    """
    rule = f"{path} must be a list, a text file with one {of} per line"
    try:
        check_regular(path, most_bytes=LARGEST_JSON)
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as reason:
        raise error(f"{rule}; it is not UTF-8 text ({reason}).") from reason
    except (OSError, CorruptFileError) as reason:
        why = getattr(reason, "strerror", None) or str(reason).rstrip(".")
        raise error(f"{path} cannot be read: {why}. It must be a list with one {of} per line.") from reason
    if "\0" in "".join(lines) or max(map(len, lines), default=0) > _LONGEST_LINE:
        raise error(
            f"{rule}; it has null characters, or a line of over {_LONGEST_LINE} characters. Get the file again."
        )
    if not any(lines):
        raise error(f"{path} is empty; it must list one {of} per line. Get the file again.")
    return [line for line in lines if line]


def refuse_pointer(path: Path, error: type[TADPError]) -> None:
    """Refuse a git-LFS pointer, the small text file that git leaves in place of a large file it has not downloaded.

    Args:
        path: The file that is going to be read; a missing file is not an error here.
        error: The class of the error to raise.

    Raises:
        TADPError: If the file is a pointer, as the given class.
    """
    start = b""
    if path.is_file():  # reading a named pipe would wait
        with suppress(OSError), path.open("rb") as file:
            start = file.read(len(_POINTER))
    if start == _POINTER:
        raise error(f"{path} is a git-LFS pointer, not the file itself. Run 'git lfs pull' in its folder.")


@contextmanager
def needs(what: str, *, install: str) -> Iterator[None]:
    """A context for the import of an optional package. If the import fails, the error says how to install the package.

    Args:
        what: The purpose of the package, for the error message, such as "a LoRA needs peft".
        install: Command that installs the package, such as "pip install 'tadp[train]'".

    Raises:
        MissingExtraError: If the package is not installed or fails to load.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(f"{what}, which does not load ({error}): {install}") from error


def need(module: str, *, install: str) -> Any:
    """Import a module of an optional package, and return the module.

    Args:
        module: Full name of the module, such as "timm.models".
        install: Command that installs the package, such as "pip install 'tadp[timm]'".

    Raises:
        MissingExtraError: If the package is not installed or fails to load.
    """
    with needs(f"this needs {module.partition('.')[0]}", install=install):
        return import_module(module)
