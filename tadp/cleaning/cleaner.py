"""The base class of cleaners, and their report: as many captions out as in, and the result for each."""

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tadp.cleaning.domains import Domain
from tadp.errors import CaptionError
from tadp.files.checks import check_ordered
from tadp.language.grammar import MAX_CHARACTERS, content_words, without_bullet


class Cleaner(ABC):
    """Removes mentions of a domain from captions."""

    domain: Domain

    def __call__(self, captions: str | Sequence[str], *, progress: bool = False) -> list[str]:
        """Return the cleaned captions, one per caption. Warns about captions that stayed; see `clean` for errors."""
        report = self.clean(captions, progress=progress)
        warn_about_failures(report)
        return list(report.after)

    @abstractmethod
    def clean(
        self, captions: str | Sequence[str], *, progress: bool = False, kept: "Kept | None" = None
    ) -> "CleaningReport":
        """Clean captions, and report all captions before and after, and which could not be cleaned.

        Args:
            captions: One caption or several. Repeated captions are cleaned once.
            progress: Whether to show a progress bar.
            kept: Captions that were cleaned before, by the caption before cleaning: a dictionary, or a `CaptionTable`
                on disk. They are not cleaned again, and new ones are added as soon as they are cleaned, so that nothing
                is lost when the call is stopped. None keeps nothing.

        Raises:
            TypeError: If a caption is not a string.
            CleaningInterrupted: If the user presses Ctrl-C. The error's `report` has the captions cleaned until then.
        """


@runtime_checkable
class Kept(Protocol):
    """Cleaned captions by the caption before cleaning."""

    def __contains__(self, key: object, /) -> bool: ...

    def __getitem__(self, key: str, /) -> str: ...

    def update(self, pairs: Mapping[str, str], /) -> object: ...


@dataclass(frozen=True)
class CleaningReport:
    """All captions before and after cleaning, and the reasons why some could not be cleaned.

    Attributes:
        domain: The domain whose mentions were to be removed.
        before: The captions before cleaning.
        after: The captions after cleaning, in the same order. A caption is empty only if it was empty before.
        failures: For each caption that was not cleaned, or not completely, its number counted from 0 and the reason.
        untried: The numbers of the failed captions that were not even tried, because the server failed, the time was
            over, or the user pressed Ctrl-C.
    """

    domain: Domain
    before: tuple[str, ...]
    after: tuple[str, ...]
    failures: Mapping[int, str]
    untried: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.before) != len(self.after):
            raise ValueError(
                f"there must be one caption after cleaning for each before; got {len(self.after)} for "
                f"{len(self.before)}."
            )

    @classmethod
    def of_unique(
        cls,
        domain: Domain,
        before: Sequence[str],
        cleaned: Mapping[str, str],
        failures: Mapping[str, str],
        *,
        untried: Iterable[str] = (),
    ) -> "CleaningReport":
        """Make the report from results by caption, each of which may occur several times; the rest is unchanged."""
        left = set(untried)
        return cls(
            domain,
            tuple(before),
            tuple(cleaned.get(text, text) for text in before),
            {number: failures[text] for number, text in enumerate(before) if text in failures},
            tuple(number for number, text in enumerate(before) if text in left),
        )

    def __len__(self) -> int:
        return len(self.before)

    @property
    def changed(self) -> tuple[int, ...]:
        """Numbers of the captions that changed."""
        return tuple(k for k, (old, new) in enumerate(zip(self.before, self.after, strict=True)) if old != new)

    @property
    def naming_before(self) -> tuple[int, ...]:
        """Numbers of the captions that named the domain."""
        return tuple(k for k, text in enumerate(self.before) if self.domain.named_in(text))

    @property
    def naming_after(self) -> tuple[int, ...]:
        """Numbers of the captions that still name the domain."""
        return tuple(k for k, text in enumerate(self.after) if self.domain.named_in(text))

    @property
    def words_lost(self) -> Counter[str]:
        """Content words other than the domain's own that captions lost, with their counts."""
        return sum((self._lost(number) for number in self.changed), Counter())

    @property
    def content_changed(self) -> tuple[int, ...]:
        """Numbers of the captions that lost or gained a content word other than the domain's own."""
        return tuple(number for number in self.changed if self._lost(number) or self._gained(number))

    def summary(self) -> str:
        """Summarise the figures in a few lines."""
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
        # Whole phrases count: in "a comic book" the book is a domain word, in "a comic and a book" it is not.
        own = self.domain.without(without_bullet(self.before[number]))
        return Counter(content_words(own)) - Counter(content_words(self.after[number]))

    def _gained(self, number: int) -> Counter[str]:
        return Counter(content_words(self.after[number])) - Counter(content_words(without_bullet(self.before[number])))


class CleaningInterrupted(KeyboardInterrupt):
    """Ctrl-C during cleaning.

    Attributes:
        report: The captions cleaned until then; the others are in it as they were.
    """

    def __init__(self, report: CleaningReport):
        super().__init__(f"interrupted; {len(report) - len(report.failures)} of {len(report)} captions are cleaned")
        self.report = report


@contextmanager
def keeping(
    domain: Domain, before: Sequence[str], cleaned: Mapping[str, str], failures: Mapping[str, str]
) -> Iterator[None]:
    """On Ctrl-C, pass on the captions that were cleaned so far.

    Raises:
        CleaningInterrupted: On Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        rest = {text: "interrupted" for text in before if text.strip() and text not in cleaned and text not in failures}
        report = CleaningReport.of_unique(domain, before, cleaned, {**failures, **rest}, untried=rest)
        raise CleaningInterrupted(report) from None


def recall(texts: Sequence[str], kept: Kept | None) -> dict[str, str]:
    """Return the captions that were cleaned before, by the caption before cleaning."""
    return {} if kept is None else {text: kept[text] for text in dict.fromkeys(texts) if text.strip() and text in kept}


def _share(numbers: tuple[int, ...], count: int) -> str:
    return f"{len(numbers)} ({len(numbers) / count:.1%})" if count else "0"


def listed(captions: str | Sequence[str]) -> list[str]:
    """Return captions as a list, given one, several or none.

    Raises:
        TypeError: If a caption is not a string.
        CaptionError: If a caption is far too long.
    """
    if not isinstance(captions, Iterable):
        raise TypeError(f"captions must be a string or a list of strings; got {type(captions).__name__}.")
    check_ordered(captions=captions)
    if isinstance(captions, Mapping):  # its ids would count as captions
        raise TypeError(f"captions must be a list; got {type(captions).__name__}. Pass list(captions.values()).")
    texts = [captions] if isinstance(captions, str) else list(captions)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"captions must be strings; got {type(text).__name__} as caption {number}.")
        if len(text) > MAX_CHARACTERS:
            raise CaptionError(
                f"caption {number} ({text[:24]!r} …) has {len(text)} characters; at most {MAX_CHARACTERS} are allowed. "
                "Shorten it, or leave it out."
            )
    return texts


def warn_about_failures(report: CleaningReport) -> None:
    """Give one warning about all captions that could not be cleaned."""
    if report.failures:
        number, reason = next(iter(report.failures.items()))
        warnings.warn(
            f"{len(report.failures)} of {len(report)} captions could not be cleaned and stay as they were. The first "
            f"is caption {number} ({report.before[number][:40]!r}): {reason}. clean() reports all of them.",
            stacklevel=3,
        )
