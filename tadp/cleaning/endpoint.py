"""Clean captions by asking a server that speaks OpenAI's chat protocol."""

import os
import random
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tqdm import tqdm

from tadp.cleaning.answers import AnswerError, check_answer, instruction, numbered, read_numbered
from tadp.cleaning.chat import ServerError, chat_url, check_key, check_variable, post
from tadp.cleaning.cleaner import Cleaner, CleaningReport, keeping, listed
from tadp.cleaning.domains import Domain, domain_of
from tadp.errors import EndpointError
from tadp.files.checks import check_whole

_FORM = " You get a numbered list of captions; answer with the edited captions under the same numbers, nothing else."
_HARMLESS = "a dog on grass"  # a server that cannot take this caption takes none


class EndpointCleaner(Cleaner):
    """Asks a language model behind an OpenAI-compatible chat endpoint to drop mentions of a domain.

    Captions go in numbered batches. An answer counts if as many captions come back as went, and each can be an edited
    caption, of this one rather than of another of its batch. A request that fails is repeated a few times, later and
    later; a batch that keeps failing is halved, each half with one repetition; a caption that fails alone stays as it
    was. So one failure costs its own caption and no other. Where several requests in a row fail, a caption that no
    server minds is asked for, "a dog on grass"; if that fails too, the server is down, and the rest is left as it was
    rather than asked for. The report says which captions stayed, and why.

    The key is read from the environment at each call, sent to that server alone, and written nowhere.

    Args:
        url: The API's base, e.g. "http://localhost:8000/v1", or its full address ending in /chat/completions.
        model: The model's name there.
        domain: "watercolor", "comic", "night", "foggy", "dashcam"; a list of words; or a `Domain`.
        key_variable: The environment variable with the key; a server that asks for none works without.
        batch_size: Captions a request.
        timeout_s: Seconds for a whole request, from the connection to the last byte of the answer.
        retries: How often a failed request is repeated.
        backoff_s: Seconds before the first repetition, doubled for each further one; half to all of it, at random.
        max_wait_s: The most seconds between two attempts, also where the server asks for more (Retry-After).
        temperature: Sent with each request; None sends none, for models that take no other than their own.
        seed: Of the random waits.

    Raises:
        ValueError: If a number is out of range, the URL is none, or carries a key, or `key_variable` is no such name.
        CaptionError: If the domain is unknown.

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
        temperature: float | None = 0.0,
        seed: int = 0,
    ):
        self.url = chat_url(url)
        self.model = model
        self.domain = domain_of(domain)
        check_variable(key_variable)
        self.key_variable = key_variable
        check_whole(batch_size, name="batch_size")
        check_whole(retries, name="retries", minimum=0)
        if timeout_s <= 0 or backoff_s < 0 or max_wait_s < 0:
            raise ValueError(
                "timeout_s must be above 0, backoff_s and max_wait_s 0 or more; got "
                f"{timeout_s}, {backoff_s} and {max_wait_s}."
            )
        self.batch_size, self.retries = batch_size, retries
        self.timeout_s, self.backoff_s, self.max_wait_s = timeout_s, backoff_s, max_wait_s
        self.temperature, self.seed = temperature, seed

    def __repr__(self) -> str:
        return f"EndpointCleaner({self.url!r}, {self.model!r}, domain={self.domain.name!r})"

    def clean(self, captions: str | Sequence[str], *, progress: bool = False) -> CleaningReport:
        """The captions before and after, and what could not be cleaned.

        Args:
            captions: One or several; the same caption is asked for once, an empty one never.
            progress: Show a progress bar.

        Raises:
            TypeError: If a caption is not a string.
            EndpointError: If the server cannot be reached, refuses, or fails, and has cleaned no caption before. If it
                fails later, what it has cleaned is returned.
            CleaningInterrupted: On Ctrl-C; its `report` has what was cleaned until then.
        """
        texts = listed(captions)
        check_key(os.environ.get(self.key_variable), self.key_variable)
        unique = [text for text in dict.fromkeys(texts) if text.strip()]
        starts = range(0, len(unique), self.batch_size)
        # Halving one batch down to one caption may fail at each size and then at the next caption.
        work = _Work(
            deque(_Batch(unique[start : start + self.batch_size], self.retries) for start in starts),
            most_failures=self.batch_size.bit_length() + 2,
        )
        rng = random.Random(self.seed)
        with (
            keeping(self.domain, texts, work.cleaned, work.failures),
            tqdm(total=len(unique), desc="cleaning", unit="caption", disable=not progress) as bar,
        ):
            while work.batches:
                self._step(work, rng)
                bar.update(len(work.cleaned) + len(work.failures) - bar.n)
        if work.server_failure and not work.cleaned:
            raise EndpointError(
                f"{self.url} gave no usable answer: {work.server_failure}. Check the address, the model's name "
                f"({self.model!r}) and the key in {self.key_variable}; the captions are as they were."
            )
        return CleaningReport.of_unique(self.domain, texts, work.cleaned, work.failures)

    def _step(self, work: "_Work", rng: random.Random) -> None:
        """One batch: cleaned, halved, or given up."""
        batch = work.batches.popleft()
        try:
            answers = self._ask(batch, rng)
        except (AnswerError, ServerError) as error:
            work.fail(batch, error)
            if work.is_in_doubt:
                self._probe(work, rng)
            return
        work.failed_in_row, work.server_failure = 0, None
        for caption, answer in zip(batch.captions, answers, strict=True):
            try:
                work.cleaned[caption] = check_answer(caption, answer, self.domain, batch=batch.captions)
            except AnswerError as error:
                if len(batch.captions) > 1:
                    work.batches.appendleft(_Batch([caption], batch.retries))
                else:
                    work.failures[caption] = str(error)

    def _probe(self, work: "_Work", rng: random.Random) -> None:
        """Tell a server that is down from neighbouring captions that it cannot take."""
        try:
            with suppress(AnswerError):  # not well, but it answers
                self._ask(_Batch([_HARMLESS], self.retries), rng)
            work.failed_in_row = 0
        except ServerError as error:
            work.give_up(error)

    def _ask(self, batch: "_Batch", rng: random.Random) -> list[str]:
        """As many answers as captions; repeated after failures that may pass.

        Raises:
            AnswerError: If the last answer was no such list.
            ServerError: If the last attempt failed.
        """
        content = instruction(self.domain) + _FORM
        request: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": "system", "content": content}, {"role": "user", "content": numbered(batch.captions)}],
        }
        if self.temperature is not None:
            request["temperature"] = self.temperature

        def ask() -> list[str]:
            answer = post(self.url, request, key_variable=self.key_variable, timeout_s=self.timeout_s)
            return read_numbered(answer, len(batch.captions))

        def wait_s(state: RetryCallState) -> float:
            asked, own = _error_of(state).wait_s, self.backoff_s * 2 ** (state.attempt_number - 1) * rng.uniform(0.5, 1)
            return min(own if asked is None else asked, self.max_wait_s)

        return Retrying(
            retry=retry_if_exception_type((AnswerError, ServerError)),
            stop=lambda state: state.attempt_number > min(batch.retries, _error_of(state).most_repeats),
            wait=wait_s,
            reraise=True,
        )(ask)


def _error_of(state: RetryCallState) -> Any:
    """What went wrong at the last attempt."""
    return state.outcome and state.outcome.exception()


@dataclass(frozen=True)
class _Batch:
    """Captions to ask for together, and how often."""

    captions: list[str]
    retries: int

    def halves(self) -> list["_Batch"]:
        half, retries = len(self.captions) // 2, min(self.retries, 1)
        return [_Batch(self.captions[:half], retries), _Batch(self.captions[half:], retries)]


@dataclass
class _Work:
    """Batches still to ask for, and what became of the others."""

    batches: deque[_Batch]
    most_failures: int
    cleaned: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    failed_in_row: int = 0
    server_failure: str | None = None  # the last one, if nothing came after it

    @property
    def is_in_doubt(self) -> bool:
        """Whether so much failed that the server may be down."""
        return bool(self.batches) and self.failed_in_row >= self.most_failures

    def fail(self, batch: _Batch, error: AnswerError | ServerError) -> None:
        """Halve a batch, or keep its captions as they were; and all others, if none can go better."""
        if isinstance(error, ServerError):
            self.failed_in_row += 1
            self.server_failure = str(error)
        else:
            self.failed_in_row, self.server_failure = 0, None
        if isinstance(error, ServerError) and error.for_all:
            self.batches.appendleft(batch)
            self.give_up(error)
        elif len(batch.captions) > 1:
            self.batches.extendleft(reversed(batch.halves()))
        else:
            self.failures[batch.captions[0]] = str(error)

    def give_up(self, error: ServerError) -> None:
        """Keep all captions that are left as they were."""
        for one in self.batches:
            self.failures.update(dict.fromkeys(one.captions, f"given up, as the server fails: {error}"))
        self.batches.clear()
