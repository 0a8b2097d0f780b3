"""Find names in text: plurals, names of several words, synonyms. Strings alone, no model.

"car" is not in "a carpet", "people" names a person, and where "hot dog" is among the names, a hot dog is no dog.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

Synonyms = Mapping[str, Sequence[str]]

_BREAK = re.compile(r"[.,;:!?()\"\n]")  # a name does not run on over these: "it was hot. Dogs ran"
# Plurals that no rule below gives, for all data sets; add to it as to any dictionary. A word that is its own plural
# takes none.
IRREGULAR_PLURALS: dict[str, tuple[str, ...]] = {
    "person": ("people", "persons"),
    "people": ("persons", "peoples"),
    "child": ("children",),
    "ox": ("oxen",),
    "foot": ("feet",),
    "tooth": ("teeth",),
    "goose": ("geese",),
    "mouse": ("mice",),
    "die": ("dice",),
    "bus": ("buses", "busses"),
    "quiz": ("quizzes",),
    "cactus": ("cacti", "cactuses"),
    "fungus": ("fungi", "funguses"),
    "axis": ("axes",),
    "fish": ("fish", "fishes"),
    **dict.fromkeys(
        (
            "aircraft", "bison", "clothes", "deer", "furniture", "grass", "luggage", "moose", "news", "salmon",
            "scissors", "series", "sheep", "shrimp", "species", "spacecraft", "trout", "watercraft",
        ),
        (),
    ),
}  # fmt: skip
# Plurals of words that end in these: "fireman", "salesperson", "bookshelf". Other words in -f and -fe take an s, or
# "cafe" would be in "caves".
COMPOUND_PLURALS = {
    "man": "men", "person": "people", "child": "children", "foot": "feet", "mouse": "mice", "tooth": "teeth",
    "leaf": "leaves", "loaf": "loaves", "thief": "thieves", "hoof": "hooves", "sheaf": "sheaves", "wharf": "wharves",
    "dwarf": "dwarves", "scarf": "scarves", "calf": "calves", "half": "halves", "wolf": "wolves", "elf": "elves",
    "knife": "knives", "wife": "wives", "life": "lives",
}  # fmt: skip


class Mention(NamedTuple):
    """A name found in a text, at characters `start` up to, not including, `stop`."""

    name: str
    start: int
    stop: int


def mentions(caption: str, names: Sequence[str], *, synonyms: Synonyms | None = None) -> list[Mention]:
    """Where a caption mentions names, in its order.

    Case does not matter, the plural counts as the singular and the other way round, "dining-table" and "dining_table"
    are "dining table". Names match whole words; of names that overlap, the longest counts ("hot dog", not "dog"), and
    names that match the same words all count.

    Args:
        caption: Any text.
        names: Words, nouns or classes, of one word or several.
        synonyms: Further words for a name, `{"person": ["man", "woman"]}`; those of names not asked for are unused.

    Raises:
        TypeError: If the caption or a name is not a string, or `names` is one.
        ValueError: If a name or synonym has neither a letter nor a digit.

    Example:
        >>> found = mentions("Two people at a dining table", ["person", "table", "dining table", "dog"])
        >>> [(one.name, one.start, one.stop) for one in found]
        [('person', 4, 10), ('dining table', 16, 28)]
        >>> {one.name for one in mentions("three women", ["person"], synonyms={"person": ["man", "woman"]})}
        {'person'}
    """
    if not isinstance(caption, str):
        raise TypeError(f"a caption is a string; got a {type(caption).__name__}.")
    pieces = list(_piece().finditer(caption))
    gaps = enumerate(pairwise(pieces), 1)
    breaks = {k for k, (left, right) in gaps if _BREAK.search(caption, left.end(), right.start())}
    return [
        Mention(names[index], pieces[start].start(), pieces[stop - 1].end())
        for index, start, stop in find_names([piece[0] for piece in pieces], names, synonyms=synonyms, breaks=breaks)
    ]


def find_names(
    pieces: Sequence[str], names: Sequence[str], *, synonyms: Synonyms | None = None, breaks: Collection[int] = ()
) -> list[tuple[int, int, int]]:
    """Names in a list of single words, as `mentions` finds them: (index of the name, first piece, one past the last).

    Args:
        pieces: From `split_words`; a piece without a letter matches nothing.
        names: As `mentions` takes them.
        synonyms: As `mentions` takes them.
        breaks: Pieces before which a sentence or clause ends; a name runs over one only if it has punctuation itself.
    """
    keys = [_key(piece) for piece in pieces]
    table, longest = _table(_checked(names), _frozen(synonyms), _frozen(IRREGULAR_PLURALS))
    found: list[tuple[int, int, int]] = []
    start = 0
    while start < len(keys):
        step = 1
        for stop in range(min(start + longest, len(keys)), start, -1):
            broken = any(start < one < stop for one in breaks)
            matches = table.get(tuple(keys[start:stop]), ())
            kept = [(index, start, stop) for index, crosses in matches if crosses or not broken]
            if kept:
                found += kept
                step = stop - start
                break
        start += step
    return found


def checked_names(
    names: Sequence[str], synonyms: Synonyms | None = None
) -> tuple[tuple[str, ...], dict[str, list[str]] | None]:
    """Names and their synonyms as plain tuples, lists and dicts.

    Raises:
        TypeError: If a name or synonym is not a string, or a list of them is one.
        ValueError: If a name or synonym has neither a letter nor a digit.
    """
    _table(_checked(names), _frozen(synonyms), _frozen(IRREGULAR_PLURALS))
    return tuple(names), None if synonyms is None else {name: list(others) for name, others in synonyms.items()}


def split_words(text: str) -> list[str]:
    """The words of a text, without punctuation, each digit by itself.

    Example:
        >>> split_words("a man's T-shirt, size 42")
        ['a', 'man', 's', 'T', 'shirt', 'size', '4', '2']
    """
    return _piece().findall(text)


def readable(name: str) -> str:
    """A class name as text: "dining_table" is "dining table"."""
    return " ".join(name.replace("_", " ").split())


def splits_inside(text: str, position: int) -> bool:
    """Whether a place in a text is inside a word, before or after an accent or vowel sign.

    Example:
        >>> [splits_inside("कु त", place) for place in (1, 2, 3)]
        [True, False, False]
    """
    around = text[max(position - 1, 0) : position + 1]
    return len(around) == 2 and _piece().fullmatch("x" + around) is not None and not around.isalpha()


def ends_clause(text: str) -> bool:
    """Whether punctuation is such that no name runs on over it: a comma is, a hyphen is not."""
    return _BREAK.search(text) is not None


def plurals(word: str) -> set[str]:
    """Forms that an English word may have in the plural; too many rather than too few, but no other word's.

    Example:
        >>> sorted(plurals("person")), sorted(plurals("bus")), plurals("sheep")
        (['people', 'persons'], ['buses', 'busses'], set())
        >>> "policewomen" in plurals("policewoman"), "shelves" in plurals("shelf")
        (True, True)
    """
    if word in IRREGULAR_PLURALS:
        return set(IRREGULAR_PLURALS[word])
    if len(word) == 1:
        return set()  # "as" is no plural
    forms = {word + "s"}
    if word.endswith(("s", "x", "z", "ch", "sh")):
        forms = {word + "es"}
    elif word.endswith("o"):
        forms.add(word + "es")
    elif word.endswith("y") and word[-2:-1] not in "aeiou":
        forms = {word[:-1] + "ies"}
    forms |= {word.removesuffix(one) + many for one, many in COMPOUND_PLURALS.items() if word.endswith(one)}
    return forms


def forms(word: str) -> set[str]:
    """A word with its plurals, and with its singular if it is a plural itself ("stairs").

    Example:
        >>> sorted(forms("stairs") - plurals("stairs")), sorted(forms("children") - plurals("children"))
        (['stair', 'stairs'], ['child', 'children'])
    """
    return {word} | plurals(word) | _singulars(word)


def _singulars(word: str) -> set[str]:
    if word in IRREGULAR_PLURALS and not IRREGULAR_PLURALS[word]:
        return set()
    guesses = {word[:-1], word[:-2], word[:-3] + "y"}
    guesses |= {one for one, many in IRREGULAR_PLURALS.items() if word in many and one != "people"}
    guesses |= {word.removesuffix(many) + one for one, many in COMPOUND_PLURALS.items() if word.endswith(many)}
    return {guess for guess in guesses if len(guess) > 1 and word in plurals(guess)}


@lru_cache(maxsize=1)
def _piece() -> re.Pattern[str]:
    """Letters with their accents and vowel signs, or one digit."""
    marks = "".join(letter for letter in map(chr, range(0x300, 0x3000)) if unicodedata.category(letter).startswith("M"))
    joiners = "\u200c\u200d"
    return re.compile(rf"[^\W\d_]+(?:[{marks}{joiners}]+[^\W\d_]*)*|\d")


def _key(piece: str) -> str:
    return unicodedata.normalize("NFKC", piece).casefold()


def _checked(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"names are a list of strings; got the string {names!r}. Pass [{names!r}].")
    if not isinstance(names, Iterable):
        raise TypeError(f"names are a list of strings, () for none; got {type(names).__name__}.")
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a name is a string; got a {type(name).__name__}.")
    return names


def _phrase(name: str) -> tuple[str, ...]:
    return tuple(_key(piece) for piece in split_words(name))


def _frozen(synonyms: Synonyms | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((name, _checked(others)) for name, others in (synonyms or {}).items())


@lru_cache(maxsize=64)
def _table(
    names: tuple[str, ...],
    synonyms: tuple[tuple[str, tuple[str, ...]], ...],
    _plurals: tuple[tuple[str, tuple[str, ...]], ...],  # those it was made with
) -> tuple[dict[tuple[str, ...], tuple[tuple[int, bool], ...]], int]:
    """For each sequence of words: which names it stands for, and whether these may run over punctuation."""
    others: dict[tuple[str, ...], list[str]] = {}
    for name, more in synonyms:
        others.setdefault(_phrase(name), []).extend(more)
    table: dict[tuple[str, ...], dict[int, bool]] = {}
    for index, name in enumerate(names):
        for phrase in (name, *others.get(_phrase(name), ())):
            words = _phrase(phrase)
            if not words:
                raise ValueError(f"a name has a letter or digit; got {phrase!r}.")
            for last in forms(words[-1]):
                table.setdefault((*words[:-1], last), {})[index] = ends_clause(phrase)
    return {words: tuple(found.items()) for words, found in table.items()}, max(map(len, table), default=0)
