"""One request to a chat endpoint. All its failures become one kind of error, which never contains the key."""

import asyncio
import html
import ipaddress
import json
import math
import os
import re
import socket
import ssl
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import responses
from logging import LogRecord, getLogger
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tadp.cleaning.answers import AnswerError, without_control
from tadp.errors import Argument, OptionError, TADPError

if TYPE_CHECKING:
    import httpx2

_ENDING = "/chat/completions"
_MOST_BYTES = 4 * 2**20  # largest answer; far more than any list of captions
_MAY_PASS = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_FOR_ALL = {401, 403, 404, 405}  # every other request would get the same response
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "tadp"}
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_NAMES_KEY = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|AUTH)\d*(?:_|$)")  # in the name of a variable
_SHORT = 8  # characters; shorter keys, such as "ollama" or "EMPTY", are not secret and may be part of a longer word
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\(.)", re.DOTALL)


class ServerError(TADPError):
    """A request that failed. The error itself never leaves this package; its message is used in reports and warnings.

    Args:
        message: Description of the failure. It must not contain the API key.
        may_pass: Whether the same request may succeed if it is repeated.
        for_all: Whether all other requests would fail for the same reason.
        is_timeout: Whether no answer came in time. Such a request is repeated only once, because it takes long.
        wait_s: Time in seconds that the server asks to wait before the next request; None if it does not ask.
    """

    def __init__(
        self,
        message: str,
        *,
        may_pass: bool = True,
        for_all: bool = False,
        is_timeout: bool = False,
        wait_s: float | None = None,
    ):
        super().__init__(message)
        self.most_repeats = 0 if not may_pass else 1 if is_timeout else math.inf
        self.for_all, self.is_timeout, self.wait_s = for_all, is_timeout, wait_s


def chat_url(url: str) -> str:
    """Return the full address of a chat endpoint, given either that address or the base address of the API.

    Raises:
        ValueError: If `url` is not an http or https address, or contains a user name, password, query or fragment.

    Example:
        >>> chat_url("http://localhost:8000/v1/")
        'http://localhost:8000/v1/chat/completions'
    """
    if not isinstance(url, str):
        raise TypeError(f"the endpoint's url must be a string; got {type(url).__name__}.")
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise OptionError(
            "the endpoint's url must not contain a user name, password or query, because messages show it; put the key "
            "into an environment variable and pass that variable's name as ",
            Argument("key_variable"),
            ".",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"the endpoint's url must begin with http:// or https:// and a host; got {url!r}.")
    base = url.rstrip("/")
    return base if base.endswith(_ENDING) else base + _ENDING


class Key:
    """The API key of an endpoint. It is read from the environment each time it is used, and neither stored nor shown.

    Args:
        variable: Name of the environment variable that holds the key. The variable may be unset.
    """

    def __init__(self, variable: str):
        self.variable = variable

    def __repr__(self) -> str:
        return f"Key({self.shown!r})"

    @property
    def shown(self) -> str:
        """The variable's name for messages; shortened if it may be a key that was passed in place of the name."""
        is_name = self.variable in os.environ or _NAMES_KEY.search(self.variable)
        return self.variable if is_name else f"{self.variable[:4]}…"

    def __bool__(self) -> bool:
        return bool(os.environ.get(self.variable))

    def check(self) -> None:
        """Refuse a key that no header can hold, without showing it.

        Raises:
            ValueError: If it has white space, or letters outside ASCII.
        """
        if self and not re.fullmatch(r"[!-~]+", os.environ[self.variable]):
            raise ValueError(f"the key in {self.variable} has white space or letters outside ASCII; set it again.")

    def sign(self, headers: MutableMapping[str, str]) -> None:
        """Add the key to the headers of a request."""
        if self:
            headers["Authorization"] = f"Bearer {os.environ[self.variable]}"

    def is_in(self, text: str) -> bool:
        """Whether a text contains the key; see `holds`."""
        return holds(text, os.environ.get(self.variable))

    def hidden_in(self, text: str) -> str:
        """Replace the key in a text; see `without`."""
        return without(text, os.environ.get(self.variable))


def check_variable(name: str) -> None:
    """Refuse a value that is not the name of an environment variable. The message does not show it: it may be the key.

    Raises:
        ValueError: If `name` is not written in capitals like the name of a variable, and no variable of that name is
            set.
    """
    if not (isinstance(name, str) and (_VARIABLE.fullmatch(name) or name in os.environ)):
        raise OptionError(
            Argument("key_variable"),
            " must be the name of an environment variable, such as OPENAI_API_KEY. The value is not shown, because it "
            "may be the key itself; put the key into the variable.",
        )


def post(url: str, request: dict[str, object], *, key: Key, timeout_s: float) -> str:
    """Send one request, and return the text of the answer.

    This also works inside a running event loop, such as a notebook's, because the exchange has its own event loop in
    another thread.

    Args:
        url: Full address of the chat endpoint.
        request: Body of the request, as JSON values.
        key: The API key.
        timeout_s: Time in seconds for the whole exchange.

    Raises:
        AnswerError: If the response is not a chat completion, is too long, or contains the key.
        ServerError: If the server sends no complete response in time, or refuses the request.
    """
    import httpx2
    from anyio.from_thread import start_blocking_portal

    try:
        with _key_out_of_logs(key), start_blocking_portal() as portal:
            status, wait, body = portal.call(_exchange, url, json.dumps(request), key, timeout_s)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        failure = _unreached(error, timeout_s)
    else:
        if status < 300:
            return _text_of(body, key)
        failure = _refused(status, wait, key)
    raise failure from None  # the frames of the original error hold the headers


async def _exchange(url: str, content: str, key: Key, timeout_s: float) -> tuple[int, str | None, bytes]:
    """Return the status, the Retry-After header and the body of a response.

    One deadline covers the whole exchange. An HTTP client's own time-outs start again with every byte, so a server that
    sends single bytes (of the status line, of headers, or one "100 Continue" after another) could keep the connection
    open forever. Redirects are not followed, because they could send captions to another server. No proxy is used for
    addresses of this machine.

    Raises:
        TimeoutError: If the exchange is not over after `timeout_s` seconds.
        AnswerError: If the body is longer than 4 MiB.
        httpx2.HTTPError: If the server cannot be reached, or does not speak HTTP.
    """
    import httpx2

    def signed(call: "httpx2.Request") -> "httpx2.Request":
        key.sign(call.headers)
        return call

    try:
        async with (
            asyncio.timeout(timeout_s),
            httpx2.AsyncClient(timeout=None, trust_env=not _is_this_machine(url)) as client,
            client.stream("POST", url, content=content, headers=_HEADERS, auth=signed) as response,
        ):
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > _MOST_BYTES:
                    raise AnswerError(f"the answer is longer than {_MOST_BYTES} bytes")
            return response.status_code, response.headers.get("Retry-After"), bytes(body)
    finally:
        # With a new executor, closing the loop does not wait for a host lookup that hangs in the old one.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))


@contextmanager
def _key_out_of_logs(key: Key) -> Iterator[None]:
    """Drop debug messages of the client that contain the key, which a server may send back in a header."""

    def is_clean(record: LogRecord) -> bool:
        return not key.is_in(record.getMessage())

    loggers = [getLogger(name) for name in ("httpx2", "httpcore2.connection", "httpcore2.http11", "httpcore2.proxy")]
    for logger in loggers:
        logger.addFilter(is_clean)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_clean)


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _unreached(error: Exception, timeout_s: float) -> ServerError:
    causes = list(_causes(error))
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return ServerError(f"no complete answer within the time-out of {timeout_s:g} s", is_timeout=True)
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return ServerError("the connection was refused (is the server running?)", for_all=True)
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return ServerError("there is no such host, or no network", for_all=True)
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return ServerError(f"no secure connection: {cause.reason}", may_pass=False, for_all=True)
    # Only the type is given: a message about headers could contain the key.
    return ServerError(f"the connection broke ({type(error).__name__})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Iterate over an error and its causes."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions:
                yield from _causes(member)
        error = error.__cause__ or error.__context__


def _refused(status: int, wait: str | None, key: Key) -> ServerError:
    message = f"the server answers {status} {responses.get(status, '')}".rstrip()
    if status in (401, 403) and key:
        message += f": it does not accept the key in {key.shown}"
    elif status in (401, 403):
        message += f": it requires a key, but {key.shown} is not set"
    return ServerError(
        message, may_pass=status in _MAY_PASS, for_all=status in _FOR_ALL or status < 400, wait_s=_retry_after(wait)
    )


def _retry_after(value: str | None) -> float | None:
    """Return the seconds to wait from a Retry-After header, a number or a date; None if it is neither."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)  # infinite if it has hundreds of digits
    try:
        when = parsedate_to_datetime(value)
        return max(0.0, (when - datetime.now(when.tzinfo or UTC)).total_seconds()) if when.tzinfo else None
    except (ValueError, OverflowError, TypeError, LookupError):  # no date, or one that Python cannot hold
        return None


def _text_of(body: bytes, key: Key) -> str:
    """Return the text of a completion, without the key: a server may send it back, and messages quote answers."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        # The filter sees the whole body, because it would not recognise half a key.
        shown = key.hidden_in(body.decode("utf-8", "backslashreplace"))[:60]
        raise AnswerError(f"the answer is not a chat completion: {shown!r}") from None
    if not isinstance(content, str):
        raise AnswerError(f"the answer has a {type(content).__name__} in place of text")
    text = without_control(content)
    for spelling in (content, text):  # control characters may divide the key
        if key.is_in(spelling):
            raise AnswerError(f"the answer contains the key: {key.hidden_in(text)[:60]!r}")
    return text


def holds(text: str, key: str | None) -> bool:
    r"""Whether a text contains a key, either literally or escaped as in JSON, HTML or a URL.

    Example:
        >>> [holds(text, "sk-a/b+secret") for text in (r"it is sk-a\/b+secret", "sk-a%2Fb%2Bsecret", "sk-a")]
        [True, True, False]
    """
    return bool(key) and any(re.search(_pattern(key), spelling) for spelling in _spellings(text))


def without(text: str, key: str | None) -> str:
    """Replace the key in a text with asterisks, or the whole text if it contains the key in an escaped form.

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
