"""Packages that a framework's module needs, imported when it is used."""

from importlib import import_module
from typing import Any

from tadp.errors import MissingExtraError


def need(module: str, *, install: str) -> Any:
    """A module of an optional package.

    Args:
        module: Its name, "timm.models".
        install: What to do if it is not there: "pip install 'tadp[timm]'".

    Raises:
        MissingExtraError: If it is not installed, or does not load.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtraError(f"this needs {package}, which does not load ({error}): {install}") from error
