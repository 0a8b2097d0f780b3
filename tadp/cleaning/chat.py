"""One request to a chat endpoint, and every way it can go wrong, as one kind of error that never has the key in it."""

import http.client
import json
import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from tadp.cleaning.answers import AnswerError
from tadp.cleaning.exchange import exchange
from tadp.cleaning.secrecy import holds, without
from tadp.errors import TADPError

_ENDING = "/chat/completions"
_MAY_PASS = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_FOR_ALL = {401, 403, 404, 405}  # what one request is told, all are
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class ServerError(TADPError):
    """A request that failed. It stays inside this package, but for its text.

    Args:
        message: What happened; without the key.
        may_pass: Whether to try again may help.
        for_all: Whether no other request can go better.
        wait_s: How long the server asks to wait.
    """

    def __init__(self, message: str, *, may_pass: bool = True, for_all: bool = False, wait_s: float | None = None):
        super().__init__(message)
        self.may_pass, self.for_all, self.wait_s = may_pass, for_all, wait_s


def chat_url(url: str) -> str:
    """The full address of a chat endpoint, from the API's base or itself.

    Raises:
        ValueError: If it is no http address, or carries a name, password or query.

    Example:
        >>> chat_url("http://localhost:8000/v1/")
        'http://localhost:8000/v1/chat/completions'
    """
    if not isinstance(url, str):
        raise TypeError(f"the endpoint's url is a string; got a {type(url).__name__}.")
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "the endpoint's url has a name, password or query in it, which would show in messages; put the key into an "
            "environment variable and name that with key_variable=."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"the endpoint's url must begin with http:// or https:// and a host; got {url!r}.")
    base = url.rstrip("/")
    return base if base.endswith(_ENDING) else base + _ENDING


def check_key(key: str | None, variable: str) -> None:
    """Refuse a key that no header can carry, without showing it.

    Raises:
        ValueError: If it has white space around or in it, or letters outside ASCII.
    """
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError(f"the key in {variable} has white space or letters that no key has; set it again.")


def check_variable(name: str) -> None:
    """Refuse what is no name of an environment variable, without showing it: it may be the key.

    Raises:
        ValueError: If it is not written as such names are, and no variable of that name is set.
    """
    if not (isinstance(name, str) and (_VARIABLE.fullmatch(name) or name in os.environ)):
        raise ValueError(
            "key_variable= takes the name of an environment variable, such as OPENAI_API_KEY; what it got is no such "
            "name, and is not shown, for it may be the key itself. Put the key into the variable."
        )


def post(url: str, request: dict[str, object], *, key_variable: str, timeout_s: float) -> str:
    """Ask once, and return the text of the answer.

    Raises:
        AnswerError: If the server answered, but with no chat completion, or with the key in it.
        ServerError: If it did not.
    """
    call = urllib.request.Request(
        url,
        data=json.dumps(request).encode(),
        headers={"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "tadp"},
    )
    if os.environ.get(key_variable):
        # Not in a variable, where a traceback that shows variables would show it.
        call.add_unredirected_header("Authorization", f"Bearer {os.environ[key_variable]}")
    try:
        body = exchange(call, timeout_s=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            failure = _refused(error, key_variable)
    except (OSError, http.client.HTTPException, ValueError) as error:
        failure = _unreached(error, timeout_s)
    else:
        return _text_of(body, os.environ.get(key_variable))
    raise failure from None  # the other's frames hold the headers


def _unreached(error: Exception, timeout_s: float) -> ServerError:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return ServerError(f"no whole answer within the time-out of {timeout_s:g} s")
    if isinstance(cause, ConnectionRefusedError):
        return ServerError("the connection was refused (is the server running?)", for_all=True)
    if isinstance(cause, socket.gaierror):
        return ServerError("there is no such host, or no network", for_all=True)
    if isinstance(cause, ssl.SSLError):
        return ServerError(f"no secure connection: {cause.reason}", may_pass=False, for_all=True)
    # By its kind alone: a message about headers could hold one.
    return ServerError(f"the connection broke ({type(cause).__name__})")


def _refused(error: urllib.error.HTTPError, key_variable: str) -> ServerError:
    status = error.code
    says = f"the server answers {status} {http.client.responses.get(status, '')}".rstrip()
    if status in (401, 403):
        says += (
            f": it wants another key than the one in {key_variable}"
            if os.environ.get(key_variable)
            else (f": it wants a key, and {key_variable} is not set")
        )
    return ServerError(
        says,
        may_pass=status in _MAY_PASS,
        for_all=status in _FOR_ALL or 300 <= status < 400,
        wait_s=_retry_after(error.headers.get("Retry-After")),
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number of them or a date; None if there is neither."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(when.tzinfo or UTC)).total_seconds()) if when.tzinfo else None


def _text_of(body: bytes, key: str | None) -> str:
    """The text of a completion. A server may send back what it got, and answers are quoted in messages."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        # All of the body goes through the filter, for half a key would pass it.
        shown = without(body.decode("utf-8", "backslashreplace"), key)[:60]
        raise AnswerError(f"the answer is no chat completion: {shown!r}") from None
    if not isinstance(content, str):
        raise AnswerError(f"the answer has no text, but a {type(content).__name__}")
    if holds(content, key):
        raise AnswerError(f"the answer has the key in it: {without(content, key)[:60]!r}")
    return content
