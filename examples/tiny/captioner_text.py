"""Captions as numbers: their words, their facts, and the captions of mirrored scenes."""

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from transformers import BertTokenizer

from tadp.datasets.scenes import BACKGROUNDS, CLASSES, COLORS

OPENINGS = ("a photo of ", "a picture of ")
LONGEST = 76  # number of words that a text encoder of 77 tokens can take
MAX_WORDS = 128
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SWAPPED = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class Facts:
    """The facts in a caption, as numbers."""

    present: np.ndarray
    color_of: np.ndarray
    """The colour of each class, (13,); -100 for classes that are not in the caption."""
    place: int

    @classmethod
    def parse(cls, record: dict) -> "Facts":
        """Read the plain caption of a record."""
        words = split(record["caption"])
        color_of = np.full(len(CLASSES) + 1, -100, np.int64)
        for before, word in pairwise(words):
            if word in CLASSES:
                color_of[CLASSES.index(word) + 1] = list(COLORS).index(before)
        present = np.array([name in record["names"] for name in CLASSES], np.float32)
        phrases = [phrase for phrase, *_ in BACKGROUNDS.values()]
        return cls(present, color_of, next(k for k, phrase in enumerate(phrases) if record["caption"].endswith(phrase)))


def build_tokenizer(records: list[dict]) -> BertTokenizer:
    """Build a tokenizer whose vocabulary contains every word that captions can have."""
    words = {word for record in records for text in (record["caption"], record["long"]) for word in split(text)}
    words |= {word for opening in OPENINGS for word in split(opening)} | set(CLASSES) | set(COLORS)
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *sorted(words)))}
    return BertTokenizer(vocab=vocabulary, model_max_length=MAX_WORDS)


def split(text: str) -> list[str]:
    """The words and punctuation marks of a text."""
    return re.findall(r"[a-z]+|[.,]", text)


def mirror(text: str) -> str:
    """The caption of the mirrored scene: objects in reverse order, with left and right swapped."""
    first, *details = text.split(". ")
    opening = re.match(r"(a watercolor painting of |a comic style painting of |a dark night photo of )?", first).group()
    listed, place = re.match(r"(.*?) ((?:on|in) .*)", first[len(opening) :]).groups()
    phrases = re.split(r", | and ", listed)[::-1]
    listed = ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]
    tail = [line for line in details if line.startswith("there ")]
    starts = [number for number, line in enumerate(details) if line.startswith("the ")]
    ends = [*starts[1:], len(details) - len(tail)]
    mirrored = [line for a, b in reversed(list(zip(starts, ends, strict=False))) for line in details[a:b]]
    mirrored = [" ".join(_SWAPPED.get(word, word) for word in line.split(" ")) for line in mirrored]
    return ". ".join([f"{opening}{listed} {place}", *mirrored, *tail])


def twice(text: str) -> str:
    """The long caption with its details repeated, if that is short enough."""
    details = text[text.index(". ") :]
    return text + details if len(split(text + details)) <= LONGEST else text
