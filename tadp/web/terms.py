"""What the page offers as buttons: the words of a text, names to pool by, or the tokens if no words are known."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from tadp.language.name_spans import Word, occurrences

_SPECIAL = re.compile(r"<\|.*\|>|</?s>|<pad>")  # start, end and padding of CLIP's and T5's tokens
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]{1,3}")  # in ASCII


class Term(NamedTuple):
    """A word, name or token, and its tokens as ranges: one per occurrence, up to but not including the second number.

    The map of a term is the mean over its occurrences, each of which is the mean over its tokens.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


class Group(NamedTuple):
    """Terms that are shown together, in their order and with the punctuation between them as plain strings."""

    title: str
    parts: tuple[Term | str, ...]


def find_groups(tokens: Sequence[str], words: Sequence[Word] | None, names: Sequence[str]) -> list[Group]:
    """Find the terms of one text.

    Args:
        tokens: The L tokens of the text; empty strings if they are not known.
        words: The words of the text; None if they are not known.
        names: Names to pool by.

    Returns:
        One group per text encoder: Stable Diffusion 3 reads each word as CLIP's and as T5's tokens. Then follows a
        group with the names, if there are any. A name that is not in the text has no spans.

    Raises:
        ValueError: If there are names, but the words are not known.
    """
    groups = _groups_of_words(tokens, words) if words else []
    if names:
        if words is None:
            raise ValueError("the words of this text are not known, so it has no names; leave out names=.")
        places = occurrences(words, tokens, names, None)
        spans = [tuple((start, stop) for index, start, stop in places if index == k) for k in range(len(names))]
        groups.append(Group("Names", tuple(map(Term, names, spans))))
    return groups or [_group_of_tokens(tokens)]


def _groups_of_words(tokens: Sequence[str], words: Sequence[Word]) -> list[Group]:
    parts: list[list[Term | str]] = []
    encoders: list[str] = []
    end = 0
    for word in words:
        between = tokens[end : word.start]
        if not parts or (not word.stands_apart and any(map(_SPECIAL.fullmatch, between[1:]))):
            parts.append([])
            encoders.append(_encoder(tokens[word.stop :]))
        elif not word.stands_apart:
            parts[-1] += [token for token in between if _PUNCTUATION.fullmatch(token)]
        parts[-1].append(Term(word.text, ((word.start, word.stop),)))
        end = word.stop
    if len(parts) == 1:
        return [Group("Class names" if words[0].stands_apart else "Caption", tuple(parts[0]))]
    return [Group(f"Read by {encoder}", tuple(group)) for encoder, group in zip(encoders, parts, strict=True)]


def _encoder(following: Sequence[str]) -> str:
    """The kind of text encoder, by the special token that ends a text."""
    special = next(filter(_SPECIAL.fullmatch, following), "")
    return "CLIP" if special.startswith("<|") else "T5"


def _group_of_tokens(tokens: Sequence[str]) -> Group:
    """All tokens, without those that only fill up the text."""
    ends = [position for position, token in enumerate(tokens) if position and _SPECIAL.fullmatch(token)]
    count = ends[0] + 1 if ends else len(tokens)
    names = [token or f"token {position}" for position, token in enumerate(tokens[:count])]
    return Group("Tokens", tuple(Term(name, ((position, position + 1),)) for position, name in enumerate(names)))
