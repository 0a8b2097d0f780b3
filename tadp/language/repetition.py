"""Tell a caption that goes round in circles from one that lists things: strings alone, no model.

A language model that finds no end repeats itself until its tokens run out: "a dog and a dog and a dog and a dog".
"""

import re
from collections import Counter
from itertools import pairwise

# A word with its hyphens and apostrophes; punctuation neither makes nor hides a loop.
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
# Three letters or more, three times with nothing between: "dogdogdog", and scripts without spaces.
_STUTTER = re.compile(r"([^\W_]{3,}?)\1{2}")
_SENTENCE_END = re.compile(r"[.!?。!?\n]+")

ROUNDS = 3  # two of a kind are a picture of two: "a man and a man on a bench"; a third says nothing new
WORD_ROUNDS = 4  # "very very very big" is emphasis
PHRASE = 5  # words; "a man in a" red, a blue and a green shirt is a list
SHARE = 0.5  # of the caption; long ones may say of each thing that "it is plain and faces left"


def is_looping(text: str) -> bool:
    """Whether a caption repeats itself as only a stuck model does.

    It does if one of these holds, in words without case and punctuation:

    - the same words come three times without a break, the last time perhaps short of its closing word: "a dog and a dog
      and a dog". A single word must come four times; two words ("side by side by side") thrice in full.
    - the same five words come three times and make up half of the caption: "a dog on the grass, a dog on the grass and
      a cat next to a dog on the grass".
    - a sentence of three words or more is said again at once.
    - three letters or more come three times with nothing between: "dogdogdog".

    Of the 3,449 BLIP-2 captions that came with the paper's code it calls three loops ("golden eagle, golden eagle,
    golden eagle …"), and they are.

    Example:
        >>> is_looping("a dog and a dog and a dog and a dog"), is_looping("a cat and a dog and a bird")
        (True, False)
        >>> is_looping("a man in a red shirt, a man in a blue shirt and a man in a green shirt")
        False
    """
    words = [word.casefold() for word in _WORD.findall(text)]
    return (
        any(_longest_run(words, period) >= _needed(period) for period in range(1, len(words) // 2 + 1))
        or _dwells_on_a_phrase(words)
        or _says_a_sentence_again(text)
        or _STUTTER.search(text.casefold()) is not None
    )


def _needed(period: int) -> int:
    """Words of a loop of that period."""
    if period == 1:
        return WORD_ROUNDS
    return period * ROUNDS - (period > 2)


def _longest_run(words: list[str], period: int) -> int:
    """Length of the longest stretch in which every word is the one `period` places before."""
    longest = run = 0
    for left, right in zip(words, words[period:], strict=False):
        run = run + 1 if left == right else 0
        longest = max(longest, run)
    return longest + period if longest else 0


def _dwells_on_a_phrase(words: list[str]) -> bool:
    counts: Counter[tuple[str, ...]] = Counter()
    free: dict[tuple[str, ...], int] = {}  # where a phrase may begin again without overlapping itself
    for start in range(len(words) - PHRASE + 1):
        phrase = tuple(words[start : start + PHRASE])
        if start >= free.get(phrase, 0):
            counts[phrase] += 1
            free[phrase] = start + PHRASE
    most = max(counts.values(), default=0)
    return most >= ROUNDS and most * PHRASE >= SHARE * len(words)


def _says_a_sentence_again(text: str) -> bool:
    sentences = [_WORD.findall(sentence.casefold()) for sentence in _SENTENCE_END.split(text)]
    sentences = [sentence for sentence in sentences if sentence]
    return any(left == right and len(left) >= 3 for left, right in pairwise(sentences))
