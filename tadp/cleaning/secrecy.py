"""Keep a key out of what is shown, also where a server sends it back in another spelling."""

import html
import re
from collections.abc import Iterator
from urllib.parse import unquote

_SHORT = 8  # characters: "ollama", "EMPTY" and the like are no secrets, and may be part of a longer word
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\(.)", re.DOTALL)


def holds(text: str, key: str | None) -> bool:
    r"""Whether a text has a key in it: as it is, or as JSON, HTML or an address may spell it.

    Example:
        >>> [holds(text, "sk-a/b+secret") for text in (r"it is sk-a\/b+secret", "sk-a%2Fb%2Bsecret", "sk-a")]
        [True, True, False]
    """
    return bool(key) and any(re.search(_pattern(key), spelling) for spelling in _spellings(text))


def without(text: str, key: str | None) -> str:
    """A text with asterisks in the key's place; asterisks alone, where the key stands in another spelling.

    Example:
        >>> without("your key is sk-0123456789", "sk-0123456789")
        'your key is ***'
    """
    if not key:
        return text
    text = re.sub(_pattern(key), "***", text)
    return "***" if holds(text, key) else text


def _pattern(key: str) -> str:
    return re.escape(key) if len(key) >= _SHORT else rf"(?<!\w){re.escape(key)}(?!\w)"


def _spellings(text: str) -> Iterator[str]:
    yield text
    yield _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else match[2], text)
    yield html.unescape(text)
    yield unquote(text)
