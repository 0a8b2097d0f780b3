"""Chat endpoints that answer wrongly, late, without end or not at all. Whatever they do, no caption is lost."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from endpoint_server import Server, cleaned, completion, reply, serving

from .cases import Kind, RefusedError, family, tadp
from .fixtures import copy

Behaviour = Callable[[Server, Any, list[str]], tuple[int, Any] | None]
BEFORE = [f"a watercolor painting of a red dog {number}" for number in range(4)]
AFTER = [f"a red dog {number}" for number in range(4)]
KEY = "sk-0123456789abcdef"


def content(text: Any) -> Behaviour:
    return lambda server, handler, captions: (200, completion(text))


def body(value: Any, status: int = 200) -> Behaviour:
    return lambda server, handler, captions: (status, value)


def headers(status: int, **values: str) -> Behaviour:
    def behave(server: Server, handler: Any, captions: list[str]) -> None:
        reply(handler, status, {}, **values)

    return behave


def raw(data: bytes, *, repeat: int = 1, pause_s: float = 0) -> Behaviour:
    """Sends bytes in place of an HTTP response, again and again."""

    def behave(server: Server, handler: Any, captions: list[str]) -> None:
        for _ in range(repeat):
            handler.wfile.write(data)
            if server.stop.wait(pause_s):
                break
        handler.connection.shutdown(socket.SHUT_RDWR)

    return behave


def lines(edit: Callable[[list[str]], list[str]]) -> Behaviour:
    """A correct answer with its lines edited."""

    def behave(server: Server, handler: Any, captions: list[str]) -> tuple[int, Any]:
        answer = cleaned(captions)[1]["choices"][0]["message"]["content"].split("\n")
        return 200, completion("\n".join(edit(answer)))

    return behave


def after_first(behaviour: Behaviour) -> Behaviour:
    """Answers the first request correctly, and the others in this way."""

    def behave(server: Server, handler: Any, captions: list[str]) -> Any:
        return cleaned(captions) if len(server.requests) == 1 else behaviour(server, handler, captions)

    return behave


def hang(server: Server, handler: Any, captions: list[str]) -> None:
    server.stop.wait(30)


STATUS = b"HTTP/1.1 200 OK\r\n"
BEHAVIOURS: dict[str, Behaviour] = {
    "empty answer": content(""),
    "null answer": content(None),
    "number": content(5),
    "list of parts": content([{"type": "text", "text": "1. a dog"}]),
    "no choices": body({"choices": []}),
    "choices are null": body({"choices": None}),
    "a list": body([1, 2]),
    "not JSON": body(b"<html>busy</html>"),
    "broken UTF-8": body(b'{"choices": [{"message": {"content": "1. \xff\xfe"}}]}'),
    "100,000 brackets": body(b"[" * 100_000),
    "5,000 digits": body(b'{"choices": ' + b"9" * 5000 + b"}"),
    "5,000 digits in front of a line": lines(lambda answer: ["9" * 5000 + ". a dog", *answer]),
    "negative number": lines(lambda answer: ["-1. a dog", *answer]),
    "other digits": lines(lambda answer: ["١٢٣٤"[k] + line[1:] for k, line in enumerate(answer[:4])]),
    "superscripts": lines(lambda answer: ["². a dog", *answer[1:]]),
    "5 MB": content("1. " + "a" * 5_000_000),
    "200,000 spaces": lines(lambda answer: [line.replace(" dog", " " * 200_000 + "dog") for line in answer]),
    "200,000 lines": content("1. a dog\n" * 200_000),
    "one line too few": lines(lambda answer: answer[:-1]),
    "one line too many": lines(lambda answer: [*answer, f"{len(answer) + 1}. a cat"]),
    "lines in another order": lines(lambda answer: answer[::-1]),
    "numbers twice": lines(lambda answer: answer + answer),
    "another caption": lines(lambda answer: [f"{k}. a rocket on the moon" for k, _ in enumerate(answer, 1)]),
    "captions changed places": lines(
        lambda answer: [f"{k}. {line[3:]}" for k, line in enumerate(answer[1:] + answer[:1], 1)]
    ),
    "domain left in": lambda server, handler, captions: (
        200, completion("\n".join(f"{k}. {text}" for k, text in enumerate(captions, 1)))),
    "control characters": lines(lambda answer: [line.replace("red", "\x1b[31mred\x07\x00") for line in answer]),
    "half a surrogate pair": lines(lambda answer: [line + " \ud800" for line in answer]),
    "right to left": lines(lambda answer: [line + "\u202e" for line in answer]),
    "the key": lines(lambda answer: [*answer[:-1], f"{len(answer)}. a red dog {KEY}"]),
    "redirect": headers(302, Location="http://127.0.0.1:1/"),
    "redirect to a file": headers(301, Location="file:///etc/passwd"),
    "401": body({}, 401),
    "404": body({}, 404),
    "413": body({}, 413),
    "429": body({}, 429),
    "500": body(b"x" * 100_000, 500),
    "599": body({}, 599),
    "retry after 10**30 s": headers(429, Retry_After="1" + "0" * 30),
    "retry after 5,000 digits": headers(503, Retry_After="9" * 5000),
    "retry after a date in the year 9999": headers(503, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"),
    "retry after a broken date": headers(503, Retry_After="Fri, 99 Dec 99999 23:59:59 GMT"),
    "retry after other digits": headers(503, Retry_After="²"),
    "longer than it says": headers(200, Content_Length="1"),
    "shorter than it says": headers(200, Content_Length="100000"),
    "negative length": headers(200, Content_Length="-5"),
    "hangs": hang,
    "closes at once": raw(b""),
    "no HTTP": raw(b"\0\1\2\3" * 100),
    "header without end": raw(STATUS + b"X: " + b"a" * 100_000, repeat=200),
    "100,000 headers": raw(STATUS + b"X: 1\r\n" * 100_000),
    "chunk of 10**15 bytes": raw(STATUS + b"Transfer-Encoding: chunked\r\n\r\n38D7EA4C68000\r\n" + b"a" * 1000),
    "chunks without end": raw(STATUS + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 10_000, repeat=500),
    "one byte per 50 ms": raw(b"H", repeat=1000, pause_s=0.05),
    "100 Continue without end": raw(b"HTTP/1.1 100 Continue\r\n\r\n", repeat=1000, pause_s=0.05),
    "not the encoding it says": headers(200, Content_Encoding="gzip"),
}  # fmt: skip


def clean(behaviour: Behaviour, folder: Path, rng: Random) -> tuple[list[str], int]:
    """The captions after cleaning by a server, and how many of them are reported as failed."""
    from tadp.cleaning import EndpointCleaner

    os.environ["HOSTILE_KEY"] = KEY
    with serving(behaviour) as server:
        limits = {"timeout_s": 0.3, "retries": 1, "backoff_s": 0.01, "max_wait_s": 0.05}
        cleaner = EndpointCleaner(server.url, "model", key_variable="HOSTILE_KEY", batch_size=2, **limits)
        report = cleaner.clean(BEFORE)
    return list(report.after), len(report.failures)


def nothing_lost(result: tuple[list[str], int]) -> bool:
    """Each caption is cleaned, or unchanged and reported."""
    after, failures = [text.removesuffix("\u202e") for text in result[0]], result[1]
    unchanged = [text == before for text, before in zip(after, BEFORE, strict=True)]
    right = all(text in (before, clean) for text, before, clean in zip(after, BEFORE, AFTER, strict=True))
    return right and sum(unchanged) == failures


@family("endpoint: answers")
def answers() -> Iterator[Kind]:
    for name, behaviour in BEHAVIOURS.items():
        right = nothing_lost if name != "domain left in" else lambda result: result[0] == BEFORE
        yield Kind(name, partial(clean, behaviour), "127.0.0.1", right, loopback=True)


def cleaned_file(behaviour: Behaviour, folder: Path, rng: Random) -> Any:
    """The captions that `tadp clean --endpoint` writes, or those of the input if it writes none."""
    source, output = copy("captions/captions.jsonl", folder), folder / "out.jsonl"
    before = source.read_text()
    os.environ["HOSTILE_KEY"] = KEY
    start = time.monotonic()
    with serving(behaviour) as server:
        connection = ("--endpoint", server.url, "--language-model", "m", "--key-variable", "HOSTILE_KEY")
        try:
            printed = tadp("clean", source, "-o", output, *connection)
        except RefusedError as refusal:
            code, printed = refusal.args
            if not output.exists() and "is not written yet" not in printed:
                raise
            assert code == 1, refusal  # noqa: PT017
    if not output.exists():  # the cleaned captions are kept, and the same command continues when the server works again
        with serving(lambda server, handler, captions: cleaned(captions), port=server.http.server_address[1]):
            tadp("clean", source, "-o", output, *connection)
    assert KEY not in printed, "the key is shown"
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert source.read_text() == before
    assert KEY not in output.read_text(), "the key is stored"
    return [text for row in rows for text in row["captions"]], time.monotonic() - start


def all_there(result: tuple[list[str], float]) -> bool:
    texts = [text.removeprefix("a watercolor painting of ") for text in result[0]]
    return texts == [text for number in range(20) for text in (f"a red dog {number}", "a dog")]


BY_COMMAND = ("empty answer", "not JSON", "5,000 digits in front of a line", "other digits", "control characters",
              "the key", "401", "413", "redirect", "5,000 digits", "one line too few", "200,000 spaces",
              "closes at once", "half a surrogate pair")  # fmt: skip


@family("endpoint: tadp clean")
def by_command() -> Iterator[Kind]:
    for name in BY_COMMAND:
        if name in ("401", "redirect"):
            yield Kind(name, partial(cleaned_file, BEHAVIOURS[name]), "127.0.0.1", all_there, loopback=True)
        behaviour = after_first(BEHAVIOURS[name])
        yield Kind(f"{name}, from the second request on", partial(cleaned_file, behaviour), "127.0.0.1", all_there,
                   loopback=True, seconds=20)  # fmt: skip
