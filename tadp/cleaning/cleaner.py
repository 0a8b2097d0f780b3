"""What every cleaner is: captions in, as many out, and a report of what became of each."""

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tadp.cleaning.domains import Domain
from tadp.language.grammar import content_words, without_bullet


class Cleaner(ABC):
    """Drops what captions say of a domain."""

    domain: Domain

    def __call__(self, captions: str | Sequence[str], *, progress: bool = False) -> list[str]:
        """The captions, cleaned, one for each. Warns of those that stayed as they were; raises as `clean`."""
        report = self.clean(captions, progress=progress)
        warn_of_failures(report)
        return list(report.after)

    @abstractmethod
    def clean(self, captions: str | Sequence[str], *, progress: bool = False) -> "CleaningReport":
        """The captions before and after, and what could not be cleaned.

        Args:
            captions: One or several; the same caption is cleaned once.
            progress: Show a progress bar.

        Raises:
            TypeError: If a caption is not a string.
            CleaningInterrupted: On Ctrl-C; its `report` has what was cleaned until then.
        """


@dataclass(frozen=True)
class CleaningReport:
    """Captions before and after cleaning, in the same order; every one is there.

    Attributes:
        domain: What was to be dropped.
        before: The captions that came.
        after: The captions to go on with. None is empty that was not.
        failures: Why a caption that was to be cleaned is not, or not wholly, by its number, counted from 0.
    """

    domain: Domain
    before: tuple[str, ...]
    after: tuple[str, ...]
    failures: Mapping[int, str]

    def __post_init__(self) -> None:
        if len(self.before) != len(self.after):
            raise ValueError(f"one caption after for each before; got {len(self.after)} for {len(self.before)}.")

    @classmethod
    def of_unique(
        cls, domain: Domain, before: Sequence[str], cleaned: Mapping[str, str], failures: Mapping[str, str]
    ) -> "CleaningReport":
        """The report where each caption was cleaned once, however often it stands there; others stay as they were."""
        return cls(
            domain,
            tuple(before),
            tuple(cleaned.get(text, text) for text in before),
            {number: failures[text] for number, text in enumerate(before) if text in failures},
        )

    def __len__(self) -> int:
        return len(self.before)

    @property
    def changed(self) -> tuple[int, ...]:
        """Numbers of the captions that are not as they were."""
        return tuple(k for k, (old, new) in enumerate(zip(self.before, self.after, strict=True)) if old != new)

    @property
    def naming_before(self) -> tuple[int, ...]:
        """Numbers of the captions that named the domain."""
        return tuple(k for k, text in enumerate(self.before) if self.domain.named_in(text))

    @property
    def naming_after(self) -> tuple[int, ...]:
        """Numbers of the captions that name the domain still."""
        return tuple(k for k, text in enumerate(self.after) if self.domain.named_in(text))

    @property
    def words_lost(self) -> Counter[str]:
        """Words of content that captions lost besides the domain's own, and how often."""
        return sum((self._lost(number) for number in self.changed), Counter())

    @property
    def content_changed(self) -> tuple[int, ...]:
        """Numbers of the captions that lost or gained a word of content other than the domain's own."""
        return tuple(number for number in self.changed if self._lost(number) or self._gained(number))

    def summary(self) -> str:
        """The figures in a few lines."""
        count = len(self)
        lines = [
            f"{count} captions, domain {self.domain.name!r}: {len(self.changed)} changed, {len(self.failures)} failed",
            f"name the domain: {_share(self.naming_before, count)} before, {_share(self.naming_after, count)} after",
            f"content words changed: {_share(self.content_changed, count)}",
        ]
        if lost := self.words_lost:
            shown = ", ".join(f"{word} {times}" for word, times in lost.most_common(10))
            lines.append(f"words lost besides the domain's own: {shown}{', …' if len(lost) > 10 else ''}")
        lines += [f"  caption {number}: {reason}" for number, reason in list(self.failures.items())[:5]]
        if len(self.failures) > 5:
            lines.append(f"  and {len(self.failures) - 5} more")
        return "\n".join(lines)

    def _lost(self, number: int) -> Counter[str]:
        # By phrase: of a "comic book" the book is the comic's, of "a comic and a book" it is not.
        own = self.domain.without(without_bullet(self.before[number]))
        return Counter(content_words(own)) - Counter(content_words(self.after[number]))

    def _gained(self, number: int) -> Counter[str]:
        return Counter(content_words(self.after[number])) - Counter(content_words(without_bullet(self.before[number])))


class CleaningInterrupted(KeyboardInterrupt):
    """Ctrl-C while captions are cleaned.

    Attributes:
        report: What was cleaned until then; the other captions are in it as they were.
    """

    def __init__(self, report: CleaningReport):
        super().__init__(f"interrupted; {len(report) - len(report.failures)} of {len(report)} captions are cleaned")
        self.report = report


@contextmanager
def keeping(
    domain: Domain, before: Sequence[str], cleaned: Mapping[str, str], failures: Mapping[str, str]
) -> Iterator[None]:
    """On Ctrl-C, hand over what was cleaned rather than drop it.

    Raises:
        CleaningInterrupted: On Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        left = {text: "interrupted" for text in before if text.strip() and text not in cleaned and text not in failures}
        raise CleaningInterrupted(CleaningReport.of_unique(domain, before, cleaned, {**failures, **left})) from None


def _share(numbers: tuple[int, ...], count: int) -> str:
    return f"{len(numbers)} ({len(numbers) / count:.1%})" if count else "0"


def listed(captions: str | Sequence[str]) -> list[str]:
    """Captions as a list: one, several or none.

    Raises:
        TypeError: If something is no string.
    """
    if not isinstance(captions, Iterable):
        raise TypeError(f"captions are strings, one or a list of them; got {type(captions).__name__}.")
    if isinstance(captions, Mapping):  # which would give its ids
        raise TypeError(f"captions are a list; got {type(captions).__name__}. Pass list(captions.values()).")
    texts = [captions] if isinstance(captions, str) else list(captions)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"caption {number} is of type {type(text).__name__}; captions are strings.")
    return texts


def warn_of_failures(report: CleaningReport) -> None:
    """One warning for all captions that stayed as they were."""
    if report.failures:
        number, reason = next(iter(report.failures.items()))
        warnings.warn(
            f"{len(report.failures)} of {len(report)} captions could not be cleaned and stay as they were; the first "
            f"is caption {number} ({report.before[number][:40]!r}): {reason}. clean() returns them all.",
            stacklevel=3,
        )
