"""The endpoint cleaner, against a server on loopback that misbehaves."""

import asyncio
import json
import logging
import signal
import socket
import threading
import time
import traceback
from email.utils import formatdate
from typing import Any

import pytest
from endpoint_server import cleaned, completion, reply, serving

from tadp.cleaning import CleaningInterrupted, EndpointCleaner
from tadp.errors import CaptionError, EndpointError

KEY = "sk-secret/0123456789"
CAPTIONS = [f"a watercolor painting of {number} dogs" for number in range(8)]
CLEANED = [f"{number} dogs" for number in range(8)]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def cleaner(url: str, **options: Any) -> EndpointCleaner:
    return EndpointCleaner(url, "gpt", **({"batch_size": 4, "backoff_s": 0.001, "timeout_s": 30.0} | options))


def test_captions_are_cleaned_in_batches_and_in_order():
    with serving(lambda server, handler, captions: cleaned(captions)) as server:
        report = cleaner(server.url, batch_size=3).clean([*CAPTIONS, CAPTIONS[2], "", "  "])
    assert report.after == (*CLEANED, "2 dogs", "", "  ")
    assert not report.failures
    assert server.batches == [3, 3, 2]  # repeated captions are sent once, empty ones never
    assert server.keys == [f"Bearer {KEY}"] * 3
    assert server.requests[0]["model"] == "gpt"
    assert server.requests[0]["temperature"] == 0
    assert "watercolor" in server.requests[0]["messages"][0]["content"]


def test_options_reach_the_server(monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    with serving(lambda server, handler, captions: cleaned(captions)) as server:
        assert cleaner(server.url, key_variable="OTHER_KEY", temperature=None)(CAPTIONS[:1]) == CLEANED[:1]
        monkeypatch.delenv("OTHER_KEY")
        assert cleaner(server.url + "/chat/completions/", key_variable="OTHER_KEY")(CAPTIONS[:1]) == CLEANED[:1]
        assert cleaner(server.url)([]) == []
    assert server.keys == ["Bearer sk-other", None]
    assert "temperature" not in server.requests[0]


def test_errors_that_pass_are_waited_out():
    def behave(server, handler, captions):
        return (500, {}) if len(server.batches) % 3 else cleaned(captions)

    with serving(behave) as server:
        report = cleaner(server.url).clean(CAPTIONS)
    assert report.after == tuple(CLEANED)
    assert server.batches == [4] * 6


def test_waits_grow_and_reproduce(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with serving(lambda server, handler, captions: (503, {})) as server:
        for seed in (0, 0, 1):
            with pytest.raises(EndpointError, match=r"503 Service Unavailable"):
                cleaner(server.url, batch_size=1, backoff_s=1.0, retries=4, max_wait_s=6.0, seed=seed).clean("a dog")
    first, second, third = waits[:4], waits[4:8], waits[8:]
    assert first == second != third
    for wait, most in zip(first, (1, 2, 4, 8), strict=True):
        assert min(most / 2, 6) <= wait <= min(most, 6)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (lambda: "3", 3, 3),
        (lambda: formatdate(time.time() + 30, usegmt=True), 20, 30),
        (lambda: formatdate(time.time() - 30, usegmt=True), 0, 0),
        (lambda: "3600", 60, 60),  # limited by max_wait_s
        (lambda: "soon", 0.0005, 0.001),  # the wait of backoff_s
        (lambda: "-5", 0.0005, 0.001),
    ],
)
def test_the_server_says_how_long_to_wait(monkeypatch, value, least, most):
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)

    def behave(server, handler, captions):
        if len(server.batches) > 1:
            return cleaned(captions)
        reply(handler, 429, {}, Retry_After=value())
        return None

    with serving(behave) as server:
        assert cleaner(server.url)(CAPTIONS[:1]) == CLEANED[:1]
    assert len(waits) == 1
    assert least <= waits[0] <= most


def test_one_caption_that_the_server_cannot_take_costs_no_other():
    def behave(server, handler, captions):
        return (500, {}) if CAPTIONS[5] in captions else cleaned(captions)

    with serving(behave) as server:
        report = cleaner(server.url, batch_size=8).clean(CAPTIONS)
    assert report.after == (*CLEANED[:5], CAPTIONS[5], *CLEANED[6:])
    assert report.failures == {5: "the server answers 500 Internal Server Error"}


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize(("first", "batch_size"), [(0, 20), (40, 20), (10, 1), (40, 3)])
def test_neighbours_that_the_server_cannot_take_cost_no_other(status, first, batch_size):
    captions = [f"a watercolor painting of {number} dogs" for number in range(60)]
    bad = captions[first : first + 3]

    def behave(server, handler, batch):
        return (status, {}) if set(bad) & set(batch) else cleaned(batch)

    with serving(behave) as server:
        report = cleaner(server.url, batch_size=batch_size, retries=0).clean(captions)
    assert list(report.failures) == [first, first + 1, first + 2]
    assert report.after == tuple(
        text if text in bad else text.removeprefix("a watercolor painting of ") for text in captions
    )


def test_a_server_that_refuses_every_caption_is_not_asked_for_all():
    with (
        serving(lambda server, handler, captions: (400, {})) as server,
        pytest.raises(EndpointError, match=r"gave no usable answer: the server answers 400 Bad Request"),
    ):
        cleaner(server.url, batch_size=8).clean([f"caption {number}" for number in range(1000)])
    assert len(server.batches) <= 8


def test_an_interrupt_hands_over_what_was_cleaned():
    with serving(lambda server, handler, captions: cleaned(captions)) as server:
        stopped_cleaner = cleaner(server.url, batch_size=2)
        ask = stopped_cleaner._ask

        def stopping(batch, rng):
            if CAPTIONS[4] in batch.captions:
                raise KeyboardInterrupt
            return ask(batch, rng)

        stopped_cleaner._ask = stopping
        with pytest.raises(CleaningInterrupted) as stopped:
            stopped_cleaner.clean(CAPTIONS)
    assert stopped.value.report.after == (*CLEANED[:4], *CAPTIONS[4:])
    assert set(stopped.value.report.failures.values()) == {"interrupted"}


def test_a_batch_that_is_too_large_is_halved_at_once():
    with serving(lambda server, handler, captions: (413, {}) if len(captions) > 2 else cleaned(captions)) as server:
        report = cleaner(server.url, batch_size=8).clean(CAPTIONS)
    assert report.after == tuple(CLEANED)
    assert server.batches == [8, 4, 2, 2, 4, 2, 2]


def test_a_wrong_count_is_noticed():
    def behave(server, handler, captions):
        return cleaned(captions[1:]) if len(captions) > 2 else cleaned(captions)

    with serving(behave) as server:
        report = cleaner(server.url).clean(CAPTIONS)
    assert report.after == tuple(CLEANED)
    assert not report.failures


def test_captions_that_change_places_are_asked_for_alone():
    def behave(server, handler, captions):
        texts = [text.replace("a watercolor of ", "") for text in reversed(captions)]
        return 200, completion("\n".join(f"{k}. {text}" for k, text in enumerate(texts, 1)))

    with serving(behave) as server:
        report = cleaner(server.url).clean(
            ["a watercolor of a black dog on grass", "a watercolor of a black cat on sand"]
        )
    assert report.after == ("a black dog on grass", "a black cat on sand")
    assert server.batches == [2, 1, 1]


def test_an_answer_that_is_no_edited_caption_is_asked_for_again_alone_and_then_left():
    def behave(server, handler, captions):
        status, body = cleaned(captions)
        text = body["choices"][0]["message"]["content"].replace("3 dogs", "I cannot help with that")
        return status, completion(text)

    with serving(behave) as server:
        report = cleaner(server.url).clean(CAPTIONS[:4])
    assert report.after == (*CLEANED[:3], CAPTIONS[3])
    assert report.failures == {3: "the answer has none of the caption's words: 'I cannot help with that'"}
    assert server.batches == [4, 1]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>gateway</html>", r"not a chat completion: '<html>gateway"),
        (b"", r"not a chat completion"),
        (b"\xff\xfe\x00", r"not a chat completion"),
        ([], r"not a chat completion"),
        ({"choices": []}, r"not a chat completion"),
        ({"choices": [{"message": {"content": None}}]}, r"a NoneType in place of text"),
        (completion("I am sorry, Dave."), r"the answer has 0 captions for 1"),
        (b"[" * 200_000, r"not a chat completion: '[[["),
        (completion("1. 7 dogs \ud83d"), r"cannot be written as UTF-8"),
    ],
)
def test_junk_leaves_the_captions_and_is_reported(body, reason):
    with serving(lambda server, handler, captions: (200, body)) as server:
        report = cleaner(server.url).clean(CAPTIONS)
    assert report.after == tuple(CAPTIONS)
    assert len(report.failures) == 8
    assert all(reason.replace("\\", "") in why for why in report.failures.values())


def test_a_call_warns_of_what_stayed():
    with (
        serving(lambda server, handler, captions: (200, b"junk")) as server,
        pytest.warns(UserWarning, match=r"1 of 1 captions could not be cleaned.*not a chat completion: 'junk'"),
    ):
        assert cleaner(server.url)("a watercolor of a dog") == ["a watercolor of a dog"]


def test_an_answer_without_end_is_cut_short():
    def behave(server, handler, captions):
        handler.send_response(200)
        handler.end_headers()
        while not server.stop.is_set():
            handler.wfile.write(b" " * 65536)

    with serving(behave) as server:
        report = cleaner(server.url, retries=0).clean(CAPTIONS[:1])
    assert report.failures == {0: "the answer is longer than 4194304 bytes"}


def test_a_server_that_hangs_is_left_after_the_time_out():
    def behave(server, handler, captions):
        server.stop.wait(30)

    with serving(behave) as server:
        start = time.monotonic()
        with pytest.raises(EndpointError, match=r"no complete answer within the time-out of 0\.2 s"):
            cleaner(server.url, timeout_s=0.2, retries=1).clean("a dog")
        assert time.monotonic() - start < 20
    assert len(server.batches) == 2


def test_a_server_that_drips_is_left_too():
    def behave(server, handler, captions):
        handler.send_response(200)
        handler.end_headers()
        while not server.stop.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    with serving(behave) as server, pytest.raises(EndpointError, match=r"time-out of 0\.5 s"):
        cleaner(server.url, timeout_s=0.5, retries=0).clean("a dog")


@pytest.mark.parametrize(
    ("first", "then"),
    [(b"HTTP", b"/"), (b"HTTP/1.1 200 OK\r\nX-A: ", b"a"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n")],
    ids=["status", "headers", "continue"],
)
def test_a_server_that_drips_before_its_answer_is_left_too(first, then):
    """Each byte resets a socket's own time-out, so endless headers would hold the connection."""
    shut = threading.Event()

    def behave(server, handler, captions):
        ends = time.monotonic() + 5
        try:
            handler.wfile.write(first)
            while time.monotonic() < ends:
                handler.wfile.write(then)
                server.stop.wait(0.05)
        except OSError:
            shut.set()

    with serving(behave) as server:
        start = time.monotonic()
        with pytest.raises(EndpointError, match=r"no complete answer within the time-out of 0\.3 s"):
            cleaner(server.url, timeout_s=0.3, retries=0).clean("a dog")
        assert time.monotonic() - start < 4
        assert shut.wait(4)  # the connection is closed, not abandoned


def test_a_look_up_of_the_host_that_hangs_is_left_too(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(20))
    start = time.monotonic()
    try:
        with pytest.raises(EndpointError, match=r"no complete answer within the time-out of 0\.2 s"):
            cleaner("http://slow.invalid/v1", timeout_s=0.2, retries=0).clean("a dog")
        assert time.monotonic() - start < 10
    finally:
        over.set()


def test_an_interrupt_ends_an_exchange_at_once():
    over = threading.Event()

    def behave(server, handler, captions):
        if server.batches[:-1]:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # another thread would not wake it
            server.stop.wait(120)
            over.set()
            return None
        return cleaned(captions)

    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores SIGINT
    try:
        with serving(behave) as server:
            with pytest.raises(CleaningInterrupted) as stopped:
                cleaner(server.url, timeout_s=100.0).clean(CAPTIONS)
            assert not over.is_set()  # the server was still holding its answer back
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert stopped.value.report.after == (*CLEANED[:4], *CAPTIONS[4:])


def test_captions_are_cleaned_inside_a_running_event_loop():
    """A notebook has such a loop."""

    async def cell(url: str) -> list[str]:
        return cleaner(url)(CAPTIONS)

    with serving(lambda server, handler, captions: cleaned(captions)) as server:
        assert asyncio.run(cell(server.url)) == CLEANED


def test_a_hang_costs_no_other_caption():
    def behave(server, handler, captions):
        if CAPTIONS[1] in captions:
            server.stop.wait(30)
            return None
        return cleaned(captions)

    with serving(behave) as server:
        report = cleaner(server.url, timeout_s=1.0, retries=0).clean(CAPTIONS[:4])
    assert report.after == (CLEANED[0], CAPTIONS[1], *CLEANED[2:4])


def test_a_connection_that_breaks_is_tried_again():
    def behave(server, handler, captions):
        if len(server.batches) == 1:
            handler.close_connection = True
            return None
        return cleaned(captions)

    with serving(behave) as server:
        assert cleaner(server.url)(CAPTIONS[:2]) == CLEANED[:2]


def test_a_server_that_is_down_is_an_error_and_nothing_is_lost():
    with serving(lambda server, handler, captions: cleaned(captions)) as server:
        pass
    with pytest.raises(
        EndpointError,
        match=r"usable answer: the connection was refused \(is the server running\?\)\. Check the",
    ):
        cleaner(server.url).clean(CAPTIONS)
    with pytest.raises(ConnectionError):
        cleaner(server.url)(CAPTIONS)


def test_a_host_that_is_none_is_an_error():
    with pytest.raises(EndpointError, match=r"there is no such host, or no network"):
        cleaner("http://no-such-host.invalid/v1").clean(CAPTIONS)


def test_a_server_that_always_fails_is_asked_a_bounded_number_of_times():
    with (
        serving(lambda server, handler, captions: (500, {})) as server,
        pytest.raises(EndpointError, match=r"gave no usable answer: the server answers 500"),
    ):
        cleaner(server.url, batch_size=8, retries=3).clean([f"caption {number}" for number in range(1000)])
    assert len(server.batches) <= 4 + 5 * 2 + 4


def test_a_server_that_dies_on_the_way_leaves_what_it_has_cleaned():
    def behave(server, handler, captions):
        return cleaned(captions) if len(server.batches) == 1 else (500, {})

    with serving(behave) as server:
        report = cleaner(server.url, retries=0).clean(CAPTIONS * 2)
    assert report.after == (*CLEANED[:4], *CAPTIONS[4:]) * 2
    assert set(report.failures) == {4, 5, 6, 7, 12, 13, 14, 15}
    assert all("500" in why for why in report.failures.values())


@pytest.mark.parametrize("status", [401, 403, 404, 307])
def test_a_refusal_is_not_repeated(status):
    with (
        serving(lambda server, handler, captions: (status, {})) as server,
        pytest.raises(EndpointError, match=rf"the server answers {status}"),
    ):
        cleaner(server.url).clean(CAPTIONS)
    assert len(server.batches) == 1


def test_a_redirect_is_not_followed():
    """A redirect could send captions and key elsewhere."""
    with serving(lambda server, handler, captions: cleaned(captions)) as other:

        def behave(server, handler, captions):
            reply(handler, 302, {}, Location=other.url + "/chat/completions")

        with serving(behave) as server, pytest.raises(EndpointError, match=r"302 Found"):
            cleaner(server.url).clean(CAPTIONS)
    assert other.batches == []


# The key


def test_a_missing_key_is_named(monkeypatch):
    with serving(lambda server, handler, captions: (401, {})) as server:
        with pytest.raises(EndpointError, match=r"it does not accept the key in OPENAI_API_KEY"):
            cleaner(server.url).clean("a dog")
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(EndpointError, match=r"it requires a key, but OPENAI_API_KEY is not set"):
            cleaner(server.url).clean("a dog")


def test_a_key_that_looks_like_the_name_of_a_variable_is_not_shown_whole():
    mistaken = "AKIA5SECRET7EXAMPLE"
    with serving(lambda server, handler, captions: (401, {})) as server:
        endpoint = cleaner(server.url, key_variable=mistaken)
        with pytest.raises(EndpointError, match=r"it requires a key, but AKIA… is not set") as raised:
            endpoint.clean("a dog")
        assert mistaken not in f"{raised.value} {endpoint!r} {endpoint._key!r}"
        with pytest.raises(EndpointError, match=r"but MY_TOKEN_2 is not set"):
            cleaner(server.url, key_variable="MY_TOKEN_2").clean("a dog")


def test_the_key_is_shown_nowhere(caplog, capfd):
    """The key is in no repr, log, message or chain of errors, even if the server sends it back."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def echo(server, handler, captions):
        sent_key = handler.headers["Authorization"].removeprefix("Bearer ")
        answers: list[Any] = [
            completion(f"1. a dog {sent_key}"),
            json.dumps(completion(f"1. a dog {sent_key}")).replace("/", "\\/").encode(),
            json.dumps(completion(f"1. a dog {sent_key}")).replace("sk", "\\u0073k").encode(),
            completion("1. a dog " + sent_key.replace("/", "%2F")),
            f"your key is {sent_key}".encode(),
            json.dumps({"key": sent_key}).replace("/", "\\/").encode(),
            json.dumps({"key": sent_key}).replace("sk", "\\u0073k").encode(),
            f"<p>{sent_key.replace('/', '&#47;')}".encode(),
        ]
        if len(server.batches) <= len(answers):
            return 200, answers[len(server.batches) - 1]
        reply(handler, 401, f"bad key {sent_key}".encode(), X_Key=sent_key)
        return None

    with serving(echo) as server:
        endpoint = cleaner(server.url, retries=0)
        shown += [repr(endpoint), str(vars(endpoint))]
        for _ in range(9):
            try:
                report = endpoint.clean("a dog")
            except EndpointError as error:
                shown += [str(error), repr(error), repr(error.__context__), repr(error.__cause__)]
            else:
                assert report.after == ("a dog",)
                assert report.failures
                shown.append(str(report))
    assert server.keys == [f"Bearer {KEY}"] * 9
    shown += [record.getMessage() for record in caplog.records] + list(capfd.readouterr())
    assert not [text for text in shown if "0123456789" in text]
    assert sum("***" in text for text in shown) == 8


@pytest.mark.parametrize("wrong", ["sk-SECRET123", "gsk_secret123", "sk secret123", "", "sk-SECRET=123"])
def test_a_key_in_the_place_of_its_variable_is_refused_unseen(wrong):
    with pytest.raises(ValueError, match=r"key_variable must be the name of an environment variable") as raised:
        cleaner("http://host/v1", key_variable=wrong)
    assert "123" not in str(raised.value)


def test_a_variable_that_is_set_may_have_any_name(monkeypatch):
    monkeypatch.setenv("my_key", KEY)
    assert cleaner("http://host/v1", key_variable="my_key").key_variable == "my_key"


@pytest.mark.parametrize("wrong", ["sk secret", "sk-secret\n", "sk-sécret"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(monkeypatch, wrong):
    monkeypatch.setenv("OPENAI_API_KEY", wrong)
    with pytest.raises(
        ValueError, match=r"the key in OPENAI_API_KEY has white space or letters outside ASCII"
    ) as raised:
        cleaner("http://127.0.0.1:9/v1").clean("a dog")
    assert "sk" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["http://user:sk-secret@host/v1", "http://host/v1?key=sk-secret", "http://host/#sk-secret"]
)
def test_a_key_in_the_url_is_refused_unseen(url):
    with pytest.raises(ValueError, match=r"put the key into an environment variable") as raised:
        cleaner(url)
    assert "sk-secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["host/v1", "file:///etc/passwd", "ftp://host", "", "http://"])
def test_other_urls_are_refused(url):
    with pytest.raises(ValueError, match=r"must begin with http:// or https:// and a host"):
        cleaner(url)


def test_numbers_out_of_range_are_refused():
    for options, message in (
        ({"batch_size": 0}, r"batch_size must be 1 or more; got 0"),
        ({"retries": -1}, r"retries must be 0 or more; got -1"),
        ({"timeout_s": 0.0}, r"timeout_s must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            cleaner("http://host", **options)
    with pytest.raises(CaptionError, match=r"unknown domain 'oil'"):
        cleaner("http://host", domain="oil")


def test_captions_that_are_none_are_refused(no_type_checker):
    with pytest.raises(TypeError, match=r"captions must be strings; got int as caption 0"):
        cleaner("http://127.0.0.1:9").clean([5])


@pytest.mark.parametrize("digits", [5_000, 100_000])
def test_a_number_of_thousands_of_digits_costs_only_its_batch(digits):
    number = "9" * digits

    def behave(server, handler, captions):
        if CAPTIONS[4] in captions:
            return 200, completion(f"{number}. 4 dogs\n{number}: 5 dogs")
        return cleaned(captions)

    with serving(behave) as server:
        report = cleaner(server.url, batch_size=2, retries=0).clean(CAPTIONS)
    assert report.after == (*CLEANED[:4], CAPTIONS[4], *CLEANED[5:])


@pytest.mark.parametrize(
    "value",
    ["9" * 5000, "1e999999", "٣" * 400, "Mon, 99 Jan 99999999999999999999 00:00:00 GMT",
     "Sun, 06 Nov 1994 08:49:37 +99999999999999999999", f"Sun, 06 Nov {'9' * 5000} 08:49:37 GMT",
     "Fri, 31 Dec 9999 23:59:59 -2359", "inf", "nan", "\x00"],
)  # fmt: skip
def test_no_wait_that_a_server_asks_for_loses_anything(monkeypatch, value):
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)

    def behave(server, handler, captions):
        if len(server.batches) == 2:
            reply(handler, 429, {}, Retry_After=value.encode().decode("latin-1"))
            return None
        return cleaned(captions)

    with serving(behave) as server:
        assert cleaner(server.url).clean(CAPTIONS).after == tuple(CLEANED)
    assert all(wait <= 60 for wait in waits)


def test_control_characters_are_removed_from_answers():
    def behave(server, handler, captions):
        return 200, completion("1. \x1b[31m0\x1b[0m \x00do\x07gs\x9b\u202e")

    with serving(behave) as server:
        assert cleaner(server.url).clean(CAPTIONS[:1]).after == ("0 dogs",)


def test_a_key_that_control_characters_divide_is_found():
    divided = f"{KEY[:5]}\x00{KEY[5:]}"
    with serving(lambda server, handler, captions: (200, completion(f"1. 0 dogs {divided}"))) as server:
        report = cleaner(server.url, retries=0).clean(CAPTIONS[:1])
    assert report.after == (CAPTIONS[0],)
    assert "the answer contains the key: '1. 0 dogs ***'" in report.failures[0]


def test_the_key_is_in_no_local_variable_of_a_traceback():
    def behave(server, handler, captions):
        sent_keys.append(handler.headers["Authorization"])
        return 401, {}

    sent_keys: list[str] = []
    with serving(behave) as server, pytest.raises(EndpointError) as raised:
        cleaner(server.url).clean(CAPTIONS)
    shown = "".join(traceback.TracebackException.from_exception(raised.value, capture_locals=True).format())
    assert sent_keys == [f"Bearer {KEY}"]
    assert KEY not in "".join(line for line in shown.splitlines() if "sent_keys" not in line)
    assert repr(cleaner(server.url)._key) == "Key('OPENAI_API_KEY')"


def test_the_time_of_a_run_is_limited():
    def behave(server, handler, captions):
        server.stop.wait(0.3)
        return cleaned(captions)

    with serving(behave) as server:
        report = cleaner(server.url, batch_size=1, budget_s=1.0).clean(CAPTIONS)
    done = len(CAPTIONS) - len(report.untried)
    assert 1 <= done <= 4
    assert report.after[: done - 1] == tuple(CLEANED[: done - 1])
    assert all(report.failures[k] == "not sent, because the time budget of 1 s is over" for k in report.untried)
    with pytest.raises(ValueError, match=r"budget_s must be above 0, or None for no limit; got 0"):
        cleaner(server.url, budget_s=0.0)


def test_a_request_ends_with_the_budget():
    with serving(lambda server, handler, captions: server.stop.wait(30) and None) as server:
        start = time.monotonic()
        with pytest.raises(EndpointError, match=r"no usable answer"):
            cleaner(server.url, budget_s=0.5).clean(CAPTIONS)
        assert time.monotonic() - start < 10


def test_a_server_that_stops_answering_is_left_after_a_few_requests():
    captions = [f"a watercolor painting of {number} dogs" for number in range(200)]

    def behave(server, handler, batch):
        if len(server.batches) > 2:
            server.stop.wait(30)
            return None
        return cleaned(batch)

    with serving(behave) as server:
        report = cleaner(server.url, batch_size=20, timeout_s=0.3).clean(captions)
    assert report.after[:40] == tuple(f"{number} dogs" for number in range(40))
    assert len(report.untried) >= 140
    assert len(server.batches) <= 8


def test_a_server_that_answers_only_the_harmless_caption_is_left_too():
    captions = [f"a watercolor painting of {number} dogs" for number in range(200)]

    def behave(server, handler, batch):
        if "on grass" not in batch[0]:
            server.stop.wait(30)
            return None
        return cleaned(batch)

    with serving(behave) as server, pytest.raises(EndpointError, match=r"no complete answer within the time-out"):
        cleaner(server.url, batch_size=20, timeout_s=0.2).clean(captions)
    assert len(server.batches) <= 16


def test_captions_that_were_cleaned_are_kept_whatever_happens():
    kept: dict[str, str] = {}

    with serving(lambda server, handler, captions: cleaned(captions)) as server:
        stopped = cleaner(server.url, batch_size=4)
        ask = stopped._ask

        def failing(batch, rng):
            if CAPTIONS[4] in batch.captions:
                raise RuntimeError("a bug")
            return ask(batch, rng)

        stopped._ask = failing
        with pytest.raises(RuntimeError, match="a bug"):
            stopped.clean(CAPTIONS, kept=kept)
        assert kept == dict(zip(CAPTIONS[:4], CLEANED[:4], strict=True))
        assert cleaner(server.url, batch_size=4).clean(CAPTIONS, kept=kept).after == tuple(CLEANED)
    assert server.batches == [4, 4]
    assert kept == dict(zip(CAPTIONS, CLEANED, strict=True))
