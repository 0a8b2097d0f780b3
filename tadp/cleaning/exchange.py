"""One HTTP exchange that ends by a deadline, whatever the server does."""

import contextlib
import http.client
import ipaddress
import socket
import threading
import urllib.request
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

from tadp.cleaning.answers import AnswerError

_MOST_BYTES = 4 * 2**20  # of an answer: far more than any list of captions


def exchange(call: urllib.request.Request, *, timeout_s: float) -> bytes:
    """Send a request and return the body of the answer.

    A socket's own time-out starts anew with every byte, so a server that drips could hold on to it for ever: in the
    status line, in headers, in one "100 Continue" after the other. So a thread does the exchange, this one waits no
    longer than `timeout_s` for it, and then shuts the connection, at which the thread ends.

    Raises:
        TimeoutError: If the exchange is not over after `timeout_s` seconds.
        AnswerError: If the body is too long.
        OSError: As urllib.request raises it, HTTPError for statuses that are no success.
        HTTPException: If what comes is no HTTP.
    """
    connections: list[http.client.HTTPConnection] = []
    outcome: Future[bytes] = Future()
    over = threading.Event()

    def run() -> None:
        try:
            with _opener(call.full_url, connections).open(call, timeout=timeout_s) as response:
                outcome.set_result(_read(response, over))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="tadp-endpoint", daemon=True).start()
    try:
        return outcome.result(timeout_s)
    finally:  # Ctrl-C included
        over.set()
        for connection in connections:
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    # Not the TLS socket's own, which would take its state away from under the other thread.
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


def _read(response: Any, over: threading.Event) -> bytes:
    """The body, piece by piece, for as long as somebody waits for it."""
    pieces, size = [], 0
    while not over.is_set() and (piece := response.read1(65536)):
        pieces.append(piece)
        size += len(piece)
        if size > _MOST_BYTES:
            raise AnswerError(f"the answer is longer than {_MOST_BYTES} bytes")
    return b"".join(pieces)


def _opener(url: str, connections: list[http.client.HTTPConnection]) -> urllib.request.OpenerDirector:
    """Follows no redirect, which could take captions elsewhere, and takes no proxy to this machine."""

    class Listed:
        """Puts each connection on the list before it is made."""

        def do_open(self, http_class: Any, request: urllib.request.Request, **options: Any) -> Any:
            def connect(host: str, **more: Any) -> http.client.HTTPConnection:
                connections.append(http_class(host, **more))
                return connections[-1]

            return super().do_open(connect, request, **options)  # pyright: ignore[reportAttributeAccessIssue]

    class Http(Listed, urllib.request.HTTPHandler):
        pass

    class Https(Listed, urllib.request.HTTPSHandler):
        pass

    handlers: list[Any] = [_NoRedirect(), Http(), Https()]
    host = urlsplit(url).hostname or ""
    if host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
