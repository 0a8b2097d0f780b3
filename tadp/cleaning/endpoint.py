"""Clean captions with a server that uses OpenAI's chat protocol."""

import math
import random
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tqdm import tqdm

from tadp.cleaning.answers import AnswerError, check_answer, instruction, numbered, read_numbered
from tadp.cleaning.chat import Key, ServerError, chat_url, check_variable, post
from tadp.cleaning.cleaner import Cleaner, CleaningReport, Kept, keeping, listed, recall
from tadp.cleaning.domains import Domain, domain_of
from tadp.errors import EndpointError
from tadp.files.checks import check_numbers, check_whole

_FORM = " You get a numbered list of captions; answer with the edited captions under the same numbers, nothing else."
_DOUBTFUL_TIMEOUTS = 3  # requests in a row without an answer, each of which takes as long as the time-out
_HARMLESS = "a dog on grass"  # a server that fails with this caption fails with every caption


class EndpointCleaner(Cleaner):
    """Asks a language model behind an OpenAI-compatible chat endpoint to remove mentions of a domain.

    Each request contains a numbered list of captions, a batch. The answer is used if it has as many captions as the
    batch, and each of them can be an edited form of its own caption rather than of another one. A failed request is
    repeated a few times with growing waits. A batch that keeps failing is split in half, and each half may be repeated
    once; a single caption that fails stays as it was. So a caption that fails affects no other caption. After several
    failures in a row, the cleaner sends a harmless caption, "a dog on grass". If that fails too, the server is assumed
    to be down, and the remaining captions stay as they were without further requests. The report says which captions
    stayed as they were, and why. Requests that time out are repeated less often, and the cleaner stops after several of
    them in a row, or when its time budget is over.

    The API key is read from the environment at each call, sent only to that server, and never stored or shown.

    Args:
        url: Base address of the API, such as "http://localhost:8000/v1", or its full address ending in
            /chat/completions.
        model: Name of the model on the server.
        domain: The domain whose mentions are removed: "watercolor", "comic", "night", "foggy" or "dashcam"; a list of
            nouns that name another domain; or a `Domain`.
        key_variable: Name of the environment variable that holds the API key. The variable may be unset if the server
            needs no key.
        batch_size: Number of captions per request, 1 or more.
        timeout_s: Time limit in seconds for a whole request, from the connection to the last byte of the answer.
        retries: How often a failed request is repeated; 0 or more.
        backoff_s: Longest wait in seconds before the first repetition. It doubles with each further repetition. The
            actual wait is random, between half of the longest wait and all of it.
        max_wait_s: Longest wait in seconds between two attempts, even if the server asks for more (Retry-After).
        budget_s: Time limit in seconds for a call of `clean`, 24 hours by default; None is no limit. Captions that are
            left then stay as they were.
        temperature: Sampling temperature sent with each request; None sends none, for models that only allow their own.
        seed: Seed of the random waits.

    Raises:
        ValueError: If a number is out of range, `url` is not a valid address or contains a key, or `key_variable` is
            not the name of a variable.
        CaptionError: If `domain` is an unknown name.

    Source:
        TADP Sec. 4.3, which asks GPT-3.5.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        domain: str | Domain | Sequence[str] = "watercolor",
        key_variable: str = "OPENAI_API_KEY",
        batch_size: int = 20,
        timeout_s: float = 60.0,
        retries: int = 3,
        backoff_s: float = 1.0,
        max_wait_s: float = 60.0,
        budget_s: float | None = 24 * 3600.0,
        temperature: float | None = 0.0,
        seed: int = 0,
    ):
        self.url = chat_url(url)
        self.model = model
        self.domain = domain_of(domain)
        check_variable(key_variable)
        self.key_variable = key_variable
        self._key = Key(key_variable)
        check_whole(batch_size, name="batch_size")
        check_whole(retries, name="retries", minimum=0)
        check_numbers(timeout_s=timeout_s, backoff_s=backoff_s, max_wait_s=max_wait_s)
        if budget_s is not None:
            check_numbers(budget_s=budget_s)
        if timeout_s <= 0 or backoff_s < 0 or max_wait_s < 0:
            raise ValueError(
                "timeout_s must be above 0, backoff_s and max_wait_s 0 or more; got "
                f"{timeout_s}, {backoff_s} and {max_wait_s}."
            )
        if budget_s is not None and budget_s <= 0:
            raise ValueError(f"budget_s must be above 0, or None for no limit; got {budget_s}.")
        self.budget_s = budget_s
        self.batch_size, self.retries = batch_size, retries
        self.timeout_s, self.backoff_s, self.max_wait_s = timeout_s, backoff_s, max_wait_s
        self.temperature, self.seed = temperature, seed

    def __repr__(self) -> str:
        return f"EndpointCleaner({self.url!r}, {self.model!r}, domain={self.domain.name!r})"

    def clean(
        self, captions: str | Sequence[str], *, progress: bool = False, kept: Kept | None = None
    ) -> CleaningReport:
        """Clean captions, and report all captions before and after, and which could not be cleaned.

        Args:
            captions: One caption or several. Repeated captions are sent once, and empty captions are not sent.
            progress: Whether to show a progress bar.
            kept: Captions that were cleaned before; see `Cleaner.clean`.

        Raises:
            TypeError: If a caption is not a string.
            EndpointError: If the server cannot be reached, refuses the request, or fails before any caption is cleaned.
                If it fails later, no error is raised, and the report has the captions cleaned until then.
            CleaningInterrupted: If the user presses Ctrl-C. The error's `report` has the captions cleaned until then.
        """
        texts = listed(captions)
        self._key.check()
        cleaned = recall(texts, kept)
        unique = [text for text in dict.fromkeys(texts) if text.strip() and text not in cleaned]
        ends = math.inf if self.budget_s is None else time.monotonic() + self.budget_s
        starts = range(0, len(unique), self.batch_size)
        # Splitting one batch down to a single caption may fail at each size, and then at the next caption.
        work = _Work(
            deque(_Batch(unique[start : start + self.batch_size], self.retries, ends) for start in starts),
            most_failures=self.batch_size.bit_length() + 2,
            cleaned=cleaned,
            ends=ends,
        )
        before = len(cleaned)
        rng = random.Random(self.seed)
        with (
            keeping(self.domain, texts, work.cleaned, work.failures),
            tqdm(total=len(unique), desc="cleaning", unit="caption", disable=not progress) as bar,
        ):
            while work.batches:
                if time.monotonic() >= ends:
                    work.give_up(f"the time budget of {self.budget_s:g} s is over")
                    break
                answers = self._step(work, rng)
                if kept is not None and answers:
                    kept.update(answers)
                bar.update(len(work.cleaned) - before + len(work.failures) - bar.n)
        if work.server_failure and not work.cleaned:
            raise EndpointError(
                f"{self.url} gave no usable answer: {work.server_failure}. Check the address, the model's name "
                f"({self.model!r}) and the key in {self._key.shown}; the captions are unchanged."
            )
        return CleaningReport.of_unique(self.domain, texts, work.cleaned, work.failures, untried=work.untried)

    def _step(self, work: "_Work", rng: random.Random) -> dict[str, str]:
        """Process one batch: clean it, split it in half, or give up. Returns the captions that were cleaned."""
        batch = work.batches.popleft()
        try:
            answers = self._ask(batch, rng)
        except (AnswerError, ServerError) as error:
            work.fail(batch, error)
            if work.timeouts >= work.most_failures + 2:
                work.give_up(f"the server fails: {error}")
            elif work.is_in_doubt:
                self._probe(work, rng)
            return {}
        work.failed_in_row, work.timeouts, work.server_failure = 0, 0, None
        cleaned: dict[str, str] = {}
        for caption, answer in zip(batch.captions, answers, strict=True):
            try:
                cleaned[caption] = check_answer(caption, answer, self.domain, batch=batch.captions)
            except AnswerError as error:
                if len(batch.captions) > 1:
                    work.batches.appendleft(_Batch([caption], batch.retries, batch.ends))
                else:
                    work.failures[caption] = str(error)
        work.cleaned.update(cleaned)
        return cleaned

    def _probe(self, work: "_Work", rng: random.Random) -> None:
        """Find out whether the server is down, or only fails with a few neighbouring captions."""
        try:
            with suppress(AnswerError):  # a bad answer shows that the server works
                self._ask(_Batch([_HARMLESS], self.retries, work.ends), rng)
            work.failed_in_row = 0
        except ServerError as error:
            work.give_up(f"the server fails: {error}")

    def _ask(self, batch: "_Batch", rng: random.Random) -> list[str]:
        """Request one answer per caption of a batch. The request is repeated after failures that may be temporary.

        Raises:
            AnswerError: If the last answer was not a list with one answer per caption.
            ServerError: If the last attempt got no answer.
        """
        content = instruction(self.domain) + _FORM
        request: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "system", "content": content}, {"role": "user", "content": numbered(batch.captions)}],
        }
        if self.temperature is not None:
            request["temperature"] = self.temperature

        def ask() -> list[str]:
            left_s = max(batch.ends - time.monotonic(), 0.01)
            answer = post(self.url, request, key=self._key, timeout_s=min(self.timeout_s, left_s))
            return read_numbered(answer, len(batch.captions))

        def wait_s(state: RetryCallState) -> float:
            requested_s = _error_of(state).wait_s
            own_s = self.backoff_s * 2 ** (state.attempt_number - 1) * rng.uniform(0.5, 1)
            left_s = max(batch.ends - time.monotonic(), 0.0)
            return min(own_s if requested_s is None else requested_s, self.max_wait_s, left_s)

        return Retrying(
            retry=retry_if_exception_type((AnswerError, ServerError)),
            stop=lambda state: (
                state.attempt_number > min(batch.retries, _error_of(state).most_repeats)
                or time.monotonic() >= batch.ends
            ),
            wait=wait_s,
            reraise=True,
        )(ask)


def _error_of(state: RetryCallState) -> Any:
    """Return the error of the last attempt."""
    return state.outcome and state.outcome.exception()


@dataclass(frozen=True)
class _Batch:
    """Captions to send together, how often to repeat the request, and when the time for it is over."""

    captions: list[str]
    retries: int
    ends: float  # by time.monotonic()

    def halves(self, *, most_retries: int) -> list["_Batch"]:
        half, retries = len(self.captions) // 2, min(self.retries, most_retries)
        return [_Batch(part, retries, self.ends) for part in (self.captions[:half], self.captions[half:])]


@dataclass
class _Work:
    """The batches still to send, and the results of the others."""

    batches: deque[_Batch]
    most_failures: int
    cleaned: dict[str, str]
    ends: float
    failures: dict[str, str] = field(default_factory=dict)
    untried: list[str] = field(default_factory=list)
    failed_in_row: int = 0  # since an answer, or since the harmless caption was answered
    timeouts: int = 0  # since an answer
    server_failure: str | None = None  # the server's failure at the last request, if it failed

    @property
    def is_in_doubt(self) -> bool:
        """Whether enough requests failed in a row that the server may be down."""
        most = min(self.most_failures, _DOUBTFUL_TIMEOUTS) if self.timeouts else self.most_failures
        return bool(self.batches) and self.failed_in_row >= most

    def fail(self, batch: _Batch, error: AnswerError | ServerError) -> None:
        """Split a batch in half, or leave its single caption as it was; give up if every request would fail."""
        is_timeout = isinstance(error, ServerError) and error.is_timeout
        if isinstance(error, ServerError):
            self.failed_in_row += 1
            self.timeouts = self.timeouts + 1 if is_timeout else 0
            self.server_failure = str(error)
        else:
            self.failed_in_row, self.timeouts, self.server_failure = 0, 0, None
        if isinstance(error, ServerError) and error.for_all:
            self.batches.appendleft(batch)
            self.give_up(f"the server fails: {error}")
        elif len(batch.captions) > 1:
            self.batches.extendleft(reversed(batch.halves(most_retries=0 if is_timeout else 1)))
        else:
            self.failures[batch.captions[0]] = str(error)

    def give_up(self, reason: str) -> None:
        """Leave all remaining captions as they were."""
        for batch in self.batches:
            self.untried += batch.captions
            self.failures.update(dict.fromkeys(batch.captions, f"not sent, because {reason}"))
            self.server_failure = self.server_failure or reason
        self.batches.clear()
