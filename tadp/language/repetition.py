"""Distinguish captions that repeat themselves endlessly from captions that list objects, by rules.

A language model that does not stop repeats itself until it reaches its largest number of tokens: "a dog and a dog and a
dog and a dog".
"""

import re
from collections import Counter
from itertools import pairwise

# A word with its hyphens and apostrophes. Other punctuation is ignored.
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
# Three letters or more, three times in direct succession: "dogdogdog", or in scripts without spaces.
_STUTTER = re.compile(r"([^\W_]{3,200}?)\1{2}")
_SENTENCE_END = re.compile(r"[.!?。!?\n]+")

ROUNDS = 3  # a phrase may occur twice in a picture of two: "a man and a man on a bench"; a third adds nothing
WORD_ROUNDS = 4  # "very very very big" is emphasis
PHRASE = 5  # words; shorter phrases are repeated in lists: "a man in a red shirt, a man in a blue shirt"
SHARE = 0.5  # of the caption; a long caption may say "it is plain and faces left" of several objects


def is_looping(text: str) -> bool:
    """Whether a caption repeats itself endlessly, as happens if a model cannot stop.

    That is the case if one of these holds, where case and punctuation do not matter:

    - The same words occur three times in a row, and the last time may lack the final word: "a dog and a dog and a dog".
      A single word must occur four times, and two words ("side by side by side") three times in full.
    - The same five words occur three times and make up half of the caption: "a dog on the grass, a dog on the grass and
      a cat next to a dog on the grass".
    - A sentence of three words or more is immediately repeated.
    - Three letters or more occur three times in direct succession: "dogdogdog".

    In the 3,449 BLIP-2 captions that came with the paper's code, the function finds three such captions ("golden eagle,
    golden eagle, golden eagle …"), and all three do repeat themselves endlessly.

    Example:
        >>> is_looping("a dog and a dog and a dog and a dog"), is_looping("a cat and a dog and a bird")
        (True, False)
        >>> is_looping("a man in a red shirt, a man in a blue shirt and a man in a green shirt")
        False
    """
    words = [word.casefold() for word in _WORD.findall(text)]
    return (
        any(_longest_run(words, period) >= _needed(period) for period in range(1, len(words) // 2 + 1))
        or _repeats_phrase(words)
        or _repeats_sentence(text)
        or _STUTTER.search(text.casefold()) is not None
    )


def _needed(period: int) -> int:
    """Return how many words a run needs to count as a loop of this period."""
    if period == 1:
        return WORD_ROUNDS
    return period * ROUNDS - (period > 2)


def _longest_run(words: list[str], period: int) -> int:
    """Return the length of the longest stretch in which every word equals the word `period` places before it."""
    longest = run = 0
    for left, right in zip(words, words[period:], strict=False):
        run = run + 1 if left == right else 0
        longest = max(longest, run)
    return longest + period if longest else 0


def _repeats_phrase(words: list[str]) -> bool:
    counts: Counter[tuple[str, ...]] = Counter()
    free: dict[tuple[str, ...], int] = {}  # from where on a phrase counts again without overlapping itself
    for start in range(len(words) - PHRASE + 1):
        phrase = tuple(words[start : start + PHRASE])
        if start >= free.get(phrase, 0):
            counts[phrase] += 1
            free[phrase] = start + PHRASE
    most = max(counts.values(), default=0)
    return most >= ROUNDS and most * PHRASE >= SHARE * len(words)


def _repeats_sentence(text: str) -> bool:
    sentences = [_WORD.findall(sentence.casefold()) for sentence in _SENTENCE_END.split(text)]
    sentences = [sentence for sentence in sentences if sentence]
    return any(left == right and len(left) >= 3 for left, right in pairwise(sentences))
