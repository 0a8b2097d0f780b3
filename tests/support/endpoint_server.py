"""A chat endpoint on the loopback interface whose behaviour a test chooses."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """Answers each request with the status and body that `behave` returns, or not at all if it returns None."""

    def __init__(self, behave: Callable[["Server", Any, list[str]], tuple[int, Any] | None], *, port: int = 0):
        self.behave = behave
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.batches: list[int] = []
        self.times: list[float] = []
        self.stop = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        captions = [line.partition(". ")[2] for line in request["messages"][-1]["content"].splitlines()]
        self.times.append(time.monotonic())
        self.requests.append(request)
        self.keys.append(handler.headers.get("Authorization"))
        self.batches.append(len(captions))
        try:
            answer = self.behave(self, handler, captions)
            if answer is not None:
                reply(handler, *answer)
        except OSError:
            pass  # the client closed the connection


def reply(handler: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def completion(text: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def cleaned(captions: list[str]) -> tuple[int, Any]:
    """The status and body of a correct answer."""
    lines = [f"{k}. {text.replace('a watercolor painting of ', '')}" for k, text in enumerate(captions, 1)]
    return 200, completion("\n".join(lines))


@contextmanager
def serving(behave: Callable[[Server, Any, list[str]], tuple[int, Any] | None], *, port: int = 0) -> Iterator[Server]:
    server = Server(behave, port=port)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()
