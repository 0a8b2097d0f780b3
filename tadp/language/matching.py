"""Find names in text by rules, including plurals, names of several words, and synonyms.

A name is a word, a noun or a class. The name "car" is not found in "a carpet", "person" is found in "people", and if
"hot dog" is among the names, "dog" is not found in "a hot dog".
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tadp.language.lexicon import PRONOUN_FORMS

if TYPE_CHECKING:
    import inflect

Synonyms = Mapping[str, Sequence[str]]

_LONG_WORD = 50  # characters; inflect takes seconds for longer words
_BREAK = re.compile(r"[.,;:!?()\"\n]")  # a name does not continue across these: "it was hot. Dogs ran"
# Plurals that inflect does not know, for all data sets; extend it like any dictionary. A word that is its own plural
# has an empty entry.
IRREGULAR_PLURALS: dict[str, tuple[str, ...]] = {
    "person": ("people", "persons"),
    "people": ("persons", "peoples"),
    "bus": ("buses", "busses"),
    "cactus": ("cacti", "cactuses"),
    "fungus": ("fungi", "funguses"),
    "axis": ("axes",),  # not only the plural of "axe"
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
# Plural endings in addition to inflect's: "gentlemen" besides its "gentlemans", "mangos" besides its "mangoes".
_ENDINGS = {"man": "men", "o": "os"}


class Mention(NamedTuple):
    """A name found in a text, from character `start` up to but not including `stop`."""

    name: str
    start: int
    stop: int


def mentions(caption: str, names: Sequence[str], *, synonyms: Synonyms | None = None) -> list[Mention]:
    """Find the places where a caption mentions names, in the order of the caption.

    Case does not matter, plural and singular match each other, and "dining-table" and "dining_table" are the same as
    "dining table". Names match whole words. If mentions overlap, the longest counts ("hot dog", not "dog"). If several
    names match the same words, all of them count.

    Args:
        caption: The text to search.
        names: The names to find: words, nouns or classes, of one word or several.
        synonyms: Further words for a name, such as `{"person": ["man", "woman"]}`; None adds no words. Entries for
            names that are not in `names` are ignored.

    Returns:
        One `Mention` per place, with the name and the place's range of characters in the caption.

    Raises:
        TypeError: If the caption or a name is not a string, or `names` is a single string.
        ValueError: If a name or synonym has neither a letter nor a digit.

    Example:
        >>> places = mentions("Two people at a dining table", ["person", "table", "dining table", "dog"])
        >>> [(mention.name, mention.start, mention.stop) for mention in places]
        [('person', 4, 10), ('dining table', 16, 28)]
        >>> [mention.name for mention in mentions("three women", ["person"], synonyms={"person": ["man", "woman"]})]
        ['person']
    """
    if not isinstance(caption, str):
        raise TypeError(f"a caption must be a string; got {type(caption).__name__}.")
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
    """Find names in a list of single words by the rules of `mentions`.

    Args:
        pieces: The words of a text, as `split_words` returns them. A piece without a letter or digit matches nothing.
        names: The names to find, as in `mentions`.
        synonyms: Further words for names, as in `mentions`; None adds no words.
        breaks: Indices of the pieces before which a sentence or clause ends. A name only spans such a place if the name
            itself contains punctuation.

    Returns:
        For each mention, the index of the name in `names`, the index of its first piece, and one more than the index of
        its last piece.
    """
    keys = [_key(piece) for piece in pieces]
    table, longest = _table(_checked(names), _frozen(synonyms), _frozen(IRREGULAR_PLURALS))
    results: list[tuple[int, int, int]] = []
    start = 0
    while start < len(keys):
        step = 1
        for stop in range(min(start + longest, len(keys)), start, -1):
            broken = any(start < position < stop for position in breaks)
            matches = table.get(tuple(keys[start:stop]), ())
            kept = [(index, start, stop) for index, crosses in matches if crosses or not broken]
            if kept:
                results += kept
                step = stop - start
                break
        start += step
    return results


def checked_names(
    names: Sequence[str], synonyms: Synonyms | None = None
) -> tuple[tuple[str, ...], dict[str, list[str]] | None]:
    """Check names and their synonyms, and return them as plain tuples, lists and dicts.

    Raises:
        TypeError: If a name or synonym is not a string, or a string or a set was passed instead of a list of
            strings.
        ValueError: If a name or synonym has neither a letter nor a digit.
    """
    _table(_checked(names), _frozen(synonyms), _frozen(IRREGULAR_PLURALS))
    return tuple(names), None if synonyms is None else {name: list(words) for name, words in synonyms.items()}


def split_words(text: str) -> list[str]:
    """Split a text into words without punctuation; each digit is a word of its own.

    Example:
        >>> split_words("a man's T-shirt, size 42")
        ['a', 'man', 's', 'T', 'shirt', 'size', '4', '2']
    """
    return _piece().findall(text)


def readable(name: str) -> str:
    """Write a class name as text: "dining_table" becomes "dining table"."""
    return " ".join(name.replace("_", " ").split())


def splits_inside(text: str, position: int) -> bool:
    """Whether a position in a text is inside a word, before or after an accent or vowel sign.

    Example:
        >>> [splits_inside("कु त", position) for position in (1, 2, 3)]
        [True, False, False]
    """
    around = text[max(position - 1, 0) : position + 1]
    return len(around) == 2 and _piece().fullmatch("x" + around) is not None and not around.isalpha()


def ends_clause(text: str) -> bool:
    """Whether a text has punctuation that no name continues across: a comma is, a hyphen is not."""
    return _BREAK.search(text) is not None


def plurals(word: str) -> set[str]:
    """Return the plurals of an English word, from the package inflect and from `IRREGULAR_PLURALS`.

    Example:
        >>> sorted(plurals("person")), sorted(plurals("bus")), plurals("sheep")
        (['people', 'persons'], ['buses', 'busses'], set())
        >>> "policewomen" in plurals("policewoman"), "shelves" in plurals("shelf")
        (True, True)
    """
    if word in IRREGULAR_PLURALS:
        return set(IRREGULAR_PLURALS[word])
    if len(word) == 1:
        return set()  # "as" is not the plural of "a"
    if word in PRONOUN_FORMS:
        return {word + "s"}
    plural = _plural(word)
    if plural == word or (plural == word + "s" and word.endswith("s")):  # inflect turns "dogs" into "dogss"
        return set()
    return {plural} | {word.removesuffix(old) + new for old, new in _ENDINGS.items() if word.endswith(old)}


def forms(word: str) -> set[str]:
    """Return a word together with its plurals, and with its singular if the word is itself a plural, such as "stairs".

    Example:
        >>> sorted(forms("stairs") - plurals("stairs")), sorted(forms("children") - plurals("children"))
        (['stair', 'stairs'], ['child', 'children'])
    """
    bases = {base for base, irregular in IRREGULAR_PLURALS.items() if word in irregular and base != "people"}
    base = singular(word)
    if base is not None and len(base) > 1 and word in plurals(base):
        bases.add(base)
    return {word} | plurals(word) | bases


def singular(word: str) -> str | None:
    """Return the singular of a plural, or of a word that is both; None for any other word.

    Example:
        >>> singular("women"), singular("sheep"), singular("dog")
        ('woman', 'sheep', None)
    """
    if word in PRONOUN_FORMS or not IRREGULAR_PLURALS.get(word, True):
        return None
    return next((base for base, irregular in IRREGULAR_PLURALS.items() if word in irregular), _singular(word))


@lru_cache(maxsize=65536)
def _singular(word: str) -> str | None:
    return (inflection().singular_noun(word) or None) if len(word) <= _LONG_WORD else None


@lru_cache(maxsize=65536)
def _plural(word: str) -> str:
    return inflection().plural_noun(word) if len(word) <= _LONG_WORD else f"{word}s"


@lru_cache(maxsize=1)
def inflection() -> "inflect.engine":
    """Return inflect's engine. Importing it takes a second, because typeguard parses its source again."""
    import inflect

    return inflect.engine()


@lru_cache(maxsize=1)
def _piece() -> re.Pattern[str]:
    """Compile the pattern of a piece: letters with their accents and vowel signs, or one digit."""
    marks = "".join(letter for letter in map(chr, range(0x300, 0x3000)) if unicodedata.category(letter).startswith("M"))
    joiners = "\u200c\u200d"
    return re.compile(rf"[^\W\d_]+(?:[{marks}{joiners}]+[^\W\d_]*)*|\d")


def _key(piece: str) -> str:
    return unicodedata.normalize("NFKC", piece).casefold()


def _checked(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"names must be a list of strings; got the string {names!r}. Pass [{names!r}].")
    if not isinstance(names, Iterable):
        raise TypeError(f"names must be a list of strings, () for none; got {type(names).__name__}.")
    if isinstance(names, Set):  # the order of a set changes from run to run
        raise TypeError(
            f"names must have a fixed order; got a {type(names).__name__}, which has none. Pass sorted(names)."
        )
    names = tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a name must be a string; got {type(name).__name__}.")
    return names


def _phrase(name: str) -> tuple[str, ...]:
    return tuple(_key(piece) for piece in split_words(name))


def _frozen(synonyms: Synonyms | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((name, _checked(words)) for name, words in (synonyms or {}).items())


@lru_cache(maxsize=64)
def _table(
    names: tuple[str, ...],
    synonyms: tuple[tuple[str, tuple[str, ...]], ...],
    _plurals: tuple[tuple[str, tuple[str, ...]], ...],  # a key of the cache: the table depends on them
) -> tuple[dict[tuple[str, ...], tuple[tuple[int, bool], ...]], int]:
    """Map each sequence of words to the names it stands for, and whether each may continue across punctuation."""
    synonyms_of: dict[tuple[str, ...], list[str]] = {}
    for name, more in synonyms:
        synonyms_of.setdefault(_phrase(name), []).extend(more)
    table: dict[tuple[str, ...], dict[int, bool]] = {}
    for index, name in enumerate(names):
        for phrase in (name, *synonyms_of.get(_phrase(name), ())):
            words = _phrase(phrase)
            if not words:
                raise ValueError(f"a name must have a letter or digit; got {phrase!r}.")
            for last in forms(words[-1]):
                table.setdefault((*words[:-1], last), {})[index] = ends_clause(phrase)
    return {words: tuple(matches.items()) for words, matches in table.items()}, max(map(len, table), default=0)
