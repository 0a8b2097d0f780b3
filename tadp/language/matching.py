"""Find names in text: plurals, names of several words, synonyms. Only strings, no model.

"car" is not in "a carpet", "people" names a person, and where "hot dog" is among the names, a hot dog is no dog.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tadp.language.lexicon import PRONOUN_FORMS

if TYPE_CHECKING:
    import inflect

Synonyms = Mapping[str, Sequence[str]]

_BREAK = re.compile(r"[.,;:!?()\"\n]")  # a name does not run on over these: "it was hot. Dogs ran"
# Plurals that inflect does not give, for all data sets; add to it as to any dictionary. A word that is its own plural
# takes none.
IRREGULAR_PLURALS: dict[str, tuple[str, ...]] = {
    "person": ("people", "persons"),
    "people": ("persons", "peoples"),
    "bus": ("buses", "busses"),
    "cactus": ("cacti", "cactuses"),
    "fungus": ("fungi", "funguses"),
    "axis": ("axes",),  # and not of "axe" alone
    "thief": ("thieves",),
    "german": ("germans",),
    "roman": ("romans",),
    "grandchild": ("grandchildren",),
    "schoolchild": ("schoolchildren",),
    "stepchild": ("stepchildren",),
    "craft": ("craft", "crafts"),
    "hoof": ("hooves", "hoofs"),
    "fish": ("fish", "fishes"),
    "money": ("moneys", "monies"),
    "dwarf": ("dwarves", "dwarfs"),
    "scarf": ("scarves", "scarfs"),
    "wharf": ("wharves", "wharfs"),
    **dict.fromkeys(("bison", "clothes", "grass", "salmon", "shrimp", "trout"), ()),
}
# Plurals of words that end in these, besides inflect's: "gentlemen" for its "gentlemans", "mangos" for its "mangoes".
_ENDINGS = {"man": "men", "o": "os"}


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
    """Forms that an English word may have in the plural, as inflect and `IRREGULAR_PLURALS` have them.

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
    if word in PRONOUN_FORMS:
        return {word + "s"}
    many = _plural(word)
    if many == word or (many == word + "s" and word.endswith("s")):  # inflect makes "dogss" of a plural
        return set()
    return {many} | {word.removesuffix(one) + end for one, end in _ENDINGS.items() if word.endswith(one)}


def forms(word: str) -> set[str]:
    """A word with its plurals, and with its singular if it is a plural itself ("stairs").

    Example:
        >>> sorted(forms("stairs") - plurals("stairs")), sorted(forms("children") - plurals("children"))
        (['stair', 'stairs'], ['child', 'children'])
    """
    ones = {one for one, many in IRREGULAR_PLURALS.items() if word in many and one != "people"}
    one = singular(word)
    if one is not None and len(one) > 1 and word in plurals(one):
        ones.add(one)
    return {word} | plurals(word) | ones


def singular(word: str) -> str | None:
    """The singular of a word in the plural, or in a form that is both; None of another word.

    Example:
        >>> singular("women"), singular("sheep"), singular("dog")
        ('woman', 'sheep', None)
    """
    if word in PRONOUN_FORMS or not IRREGULAR_PLURALS.get(word, True):
        return None
    return next((one for one, many in IRREGULAR_PLURALS.items() if word in many), _singular(word))


@lru_cache(maxsize=65536)
def _singular(word: str) -> str | None:
    return inflection().singular_noun(word) or None


@lru_cache(maxsize=65536)
def _plural(word: str) -> str:
    return inflection().plural_noun(word)


@lru_cache(maxsize=1)
def inflection() -> "inflect.engine":
    """The rules of English of inflect, whose import takes a second: typeguard reads its source again."""
    import inflect

    return inflect.engine()


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
