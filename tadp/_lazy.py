"""Load the names of a package when they are first used, so that importing the package is fast."""

import sys

TYPE_CHECKING = False  # as in `typing`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def lazy(
    package: str, homes: "Mapping[str, str]", *, names: "Sequence[str]"
) -> "tuple[Callable[[str], object], Callable[[], list[str]]]":
    """Create a package's `__getattr__` and `__dir__`, so that its names are imported when they are first used.

    Args:
        package: The package's `__name__`.
        homes: For each public name, the name of the package's module that defines it. For a name that is itself a
            module, the same name.
        names: The package's `__all__`.

    Example:
        >>> getattribute, names = lazy("tadp", {"Features": "features"}, names=["Features"])
        >>> getattribute("Features").__name__, names()
        ('Features', ['Features'])
        >>> getattribute("Feature")
        Traceback (most recent call last):
        AttributeError: module 'tadp' has no attribute 'Feature'; it has Features.
    """

    def getattribute(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(names)}.")
        from importlib import import_module  # here, because it would take half of the time of `import tadp`

        home = import_module(f"{package}.{homes[name]}")
        value = home if homes[name] == name else getattr(home, name)
        setattr(sys.modules[package], name, value)
        return value

    return getattribute, lambda: list(names)
