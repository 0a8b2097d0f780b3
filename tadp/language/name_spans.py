"""Names among the words of a text, and the tokens that each of them has."""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from tadp.language.matching import Synonyms, ends_clause, find_names, readable, split_words


class Names(str):
    """A prompt that consists of names joined by spaces, and records where each name ends.

    The text encoder receives the string. When attention is averaged per name, a name never spans two names of the
    prompt, so "hot" next to "dog" does not count as "hot dog". The methods of `str` return plain strings, without this
    information, and so does reading a prompt from a file.

    Args:
        names: The names in the order of the prompt. Each "_" becomes a space.

    Example:
        >>> prompt = Names(["hot", "dog"])
        >>> prompt, prompt.names
        ('hot dog', ('hot', 'dog'))
    """

    names: tuple[str, ...]

    def __new__(cls, names: Sequence[str]) -> "Names":
        prompt = super().__new__(cls, " ".join(map(readable, names)))
        prompt.names = tuple(names)
        return prompt

    def __getnewargs__(self) -> tuple[tuple[str, ...]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (self.names,)


class Word(NamedTuple):
    """A word of a caption and its tokens, from position `start` up to but not including `stop`.

    A word that stands apart was encoded separately, as class names are. It forms no phrase with its neighbours.
    """

    text: str
    start: int
    stop: int
    stands_apart: bool = False


def occurrences(
    words: Sequence[Word], tokens: Sequence[str], names: Sequence[str], synonyms: Synonyms | None
) -> list[tuple[int, int, int]]:
    """Find names among a text's words: (index of the name, first token, one past the last token)."""
    spans: list[tuple[int, int, int]] = []
    for phrase in _phrases(words):
        # A `Word` may be a class of several words, as in `prompts.class_embeddings`.
        pieces = [(piece, word) for word in phrase for piece in split_words(word.text)]
        breaks = {
            number
            for number, ((_, left), (_, right)) in enumerate(pairwise(pieces), 1)
            if any(ends_clause(token) or _is_special(token) for token in tokens[left.stop : right.start])
        }
        matches = find_names([piece for piece, _ in pieces], names, synonyms=synonyms, breaks=breaks)
        if phrase[0].stands_apart:  # the class's own name goes before a plural or synonym of it
            matches = [match for match in matches if _same(names[match[0]], phrase[0].text)] or matches
        spans += [(index, pieces[start][1].start, pieces[stop - 1][1].stop) for index, start, stop in matches]
    return spans


def _is_special(token: str) -> bool:
    """Whether a token is not part of a text: start, end or padding, which separate texts that were joined."""
    return token.startswith("<|") and token.endswith("|>")


def _phrases(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Runs of words that belong together: a word that stands apart is a run, and so are all words in between."""
    for _, run in groupby(enumerate(words), lambda numbered: numbered[0] if numbered[1].stands_apart else -1):
        yield [word for _, word in run]


def _same(name: str, other: str) -> bool:
    left, right = ([piece.casefold() for piece in split_words(text)] for text in (name, other))
    return left == right
