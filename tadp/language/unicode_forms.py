"""One text in its Unicode forms: "é" is one character, or "e" and an accent, as macOS writes file names."""

import unicodedata
from collections.abc import Mapping


def composed(text: str) -> str:
    """The text in Unicode's form NFC. Texts that only differ in their form become equal.

    Example:
        >>> composed("cafe\u0301") == composed("caf\u00e9") == "caf\u00e9"
        True
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def forms(text: str) -> tuple[str, ...]:
    """The text as it is, and in the forms NFC and NFD where they differ from it."""
    if text.isascii():
        return (text,)
    return tuple(dict.fromkeys((text, composed(text), unicodedata.normalize("NFD", text))))


def key_of(text: str, mapping: Mapping[str, object]) -> str | None:
    """The key of a mapping that is the text, or the text in another form; None if there is no such key."""
    return next((form for form in forms(text) if form in mapping), None)
