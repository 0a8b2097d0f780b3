"""The little English grammar that captions need: articles, first letters, content words. No model is involved."""

import re
from collections.abc import Collection
from functools import lru_cache

from tadp.language.class_names import ADE20K_CLASSES, CITYSCAPES_CLASSES, VOC_SYNONYMS
from tadp.language.lexicon import (
    ABBREVIATIONS,
    ADJECTIVES,
    COMMON_NOUNS,
    DETERMINERS,
    FUNCTION_WORDS,
    KEPT_ARTICLES,
    MADE_IN_ING,
    MASS_NOUNS,
    PLACES,
    PRONOUNS,
    QUANTIFIERS,
    SPELLED,
    THINGS_IN_ING,
    VERBS,
)
from tadp.language.matching import IRREGULAR_PLURALS, forms, inflection, singular

_SPELLED_LENGTH = 4  # the most letters of a word in capitals that is spelled out
_SINGULAR = frozenset({"lens"})
_SINGULAR_VERBS = {"have": "has", "are": "is", "cannot": "cannot", "by": "by"}
_PEOPLE = ("ian", "can", "ean", "man", "ish", "ese", "dutch", "french", "greek")  # endings of words such as "italian"
# Birds, horses and cats that are also first names: with a capital letter they count as names.
_ALSO_NAMES = frozenset({"colt", "dove", "finch", "kitty", "raven", "robin", "tabby", "wren"})
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # noqa: RUF001  the typographic apostrophe
_EIGHT = re.compile(r"8|1[18](?:\d\d)?(?!\d)")  # eight, eleven, eighteen, eighteen hundred


def words_of(text: str) -> list[str]:
    """Split a text in any script into lower-case words, without punctuation and emoji.

    Example:
        >>> words_of("A man's dog, 2 cats")
        ['a', "man's", 'dog', '2', 'cats']
    """
    return [word.lower() for word in _WORD.findall(text)]


def content_words(text: str, *, ignored: Collection[str] = ()) -> list[str]:
    """Return the words of a text that say what is in the picture.

    Articles, prepositions, auxiliary verbs and the words in `ignored` are left out.

    Example:
        >>> content_words("a painting of two dogs on a sled", ignored={"painting"})
        ['dogs', 'sled']
    """
    skipped = DETERMINERS | FUNCTION_WORDS | set(ignored)
    return [word for word in words_of(text) if word not in skipped]


MAX_CHARACTERS = 100_000  # of a caption; a text encoder takes 77 or 512 tokens
_LONG, _LONG_WORD = 1000, 50  # characters; inflect takes seconds for longer words


def article_for(phrase: str) -> str:
    """Choose "a" or "an" for a phrase, by how its first word is pronounced.

    The package inflect makes the choice. Acronyms and single letters, which are pronounced letter by letter, are passed
    to it in capitals, and all other words in lower case, because captions use capitals carelessly.

    Example:
        >>> [article_for(word) for word in ("dog", "owl", "hour", "unicorn", "umbrella", "MRI scan", "x-ray", "8-bit")]
        ['a', 'an', 'an', 'a', 'an', 'an', 'an', 'an']
    """
    match = _WORD.search(phrase)
    if match is None:
        return "a"
    word = match[0].lower()
    if word in KEPT_ARTICLES:
        return KEPT_ARTICLES[word]
    if word[0].isdecimal():  # inflect reads "8" as "a 8"
        return "an" if _EIGHT.match(word) else "a"
    if len(word) == 1 and phrase[match.end() : match.end() + 1] not in ("", " ", "-"):  # "{x} style" is not spelled out
        return "an" if word in "aeiou" else "a"
    if _is_spelled(match[0], phrase):
        return "a" if word[0] == "u" else _article(word.upper())  # inflect would say "an UPS truck"
    return _article(word)


@lru_cache(maxsize=65536)
def _article(word: str) -> str:
    return inflection().a(word[:_LONG_WORD]).split()[0]


def _is_spelled(word: str, phrase: str) -> bool:
    """Whether a word is pronounced letter by letter.

    That is a short word in capitals, unless the whole phrase is in capitals, or a word without a vowel.
    """
    if word.isupper():
        is_shouted = phrase.isupper() and len(phrase.split()) > 1
        return len(word) <= _SPELLED_LENGTH and not is_shouted
    first = word.lower()
    has_vowel = bool(set("aeiouy") & set(first)) or not (first.isascii() and first.isalpha())
    return first in SPELLED or not (has_vowel or first in ABBREVIATIONS)


def has_determiner(phrase: str) -> bool:
    """Whether a phrase begins with an article, a number, a pronoun or a function word, so that it takes no article.

    Example:
        >>> [has_determiner(phrase) for phrase in ("the sea", "3 dogs", "it rains", "dogs", "two-story house")]
        [True, True, True, False, False]
    """
    parts = words_of(next(iter(phrase.split()), ""))
    closed = DETERMINERS | FUNCTION_WORDS | QUANTIFIERS | PRONOUNS
    return len(parts) == 1 and (parts[0].isdecimal() or parts[0] in closed)


def takes_article(phrase: str) -> bool:
    """Whether "a" or "an" can stand before a phrase.

    It cannot stand before a determiner, number, pronoun, preposition or verb, before a plural, before an uncountable
    noun without another noun after it ("water in a glass", but "a water bottle"), or before a name ("Bob on a bike").

    Example:
        >>> phrases = ("dog", "two dogs", "two-story house", "young people", "green grass", "grass field", "Bob's dog")
        >>> [takes_article(phrase) for phrase in phrases]
        [True, False, True, False, False, True, False]
    """
    if len(phrase) > _LONG:  # only its beginning matters
        phrase = " ".join(phrase[:_LONG].split())
    words = words_of(phrase)
    if has_determiner(phrase) or _is_name(phrase) or is_plural(phrase) or MASS_NOUNS & _single_noun(words):
        return False
    is_verb = bool(words) and words[0].endswith("ing") and not is_common_noun(words[0])  # "looking at a dog"
    return not (is_verb and words[1:2] and words[1] in (FUNCTION_WORDS | DETERMINERS) - {"of"})


def is_plural(phrase: str) -> bool:
    """Whether a phrase without an article is a plural: "people on grass" and "young dogs" are, "sports car" is not.

    Example:
        >>> [is_plural(text) for text in ("dogs running", "young men", "toy cars", "sports car", "a dog", "dress")]
        [True, True, True, False, False, False]
    """
    words = words_of(phrase)
    nouns = _nouns(words)
    if not nouns:
        return False
    first = nouns[0]
    if not first.endswith(("s", "a")) and singular(first) not in (first, None):  # "people"; not "opera"
        return True
    ends = first.endswith("s") and not first.endswith(("ss", "us", "is", "as", "os", "'s", "’s"))  # noqa: RUF001
    is_many = ends and len(first) > 3 and first not in (*IRREGULAR_PLURALS, *_SINGULAR) and singular(first) != first
    if is_many or len(nouns) == 1 or not is_common_noun(first):
        return is_many and first in _single_noun(words)
    second = nouns[1]  # "cartoon characters", but not "dog barks"
    return is_common_noun(second) and second.removesuffix("s") not in VERBS and is_plural(" ".join(nouns[1:]))


def _nouns(words: list[str]) -> list[str]:
    """Return the words from the first noun on, without the adjectives and possessives before it."""
    start = 2 if words[1:2] == ["and"] and words[0] in ADJECTIVES and set(words[2:3]) & ADJECTIVES else 0
    while start < len(words) - 1 and (words[start] in ADJECTIVES or words[start].endswith(("'s", "’s"))):  # noqa: RUF001
        if words[start + 1] in FUNCTION_WORDS:  # "a blonde with a dog"
            break
        start += 1
    return words[start:]


def _single_noun(words: list[str]) -> set[str]:
    """Return the first noun if a verb, a preposition or nothing follows it, rather than another noun."""
    nouns = _nouns(words)
    return set(nouns[:1]) if len(nouns) < 2 or _ends_noun(nouns[1]) else set()


def _ends_noun(word: str) -> bool:
    """Whether a word after a noun is something other than a further noun."""
    if word in FUNCTION_WORDS or word in DETERMINERS or word in VERBS:
        return True
    return (word.endswith("ing") and word not in THINGS_IN_ING | MADE_IN_ING) or (word.endswith("ed") and len(word) > 4)


def _is_name(phrase: str) -> bool:
    """Whether a phrase begins with a complete name ("Bob on a bike") or a name in the possessive ("Bob's dog")."""
    tokens = [words_of(token)[:1] for token in phrase.split()]
    plain = phrase.split()
    end = 0
    while end < len(plain) and _is_named(plain[end], first=end == 0):
        end += 1
    if not end:
        return False
    if re.search(r"['’]s\W*$", plain[end - 1]):  # noqa: RUF001
        return True
    if tokens[end - 1][0].endswith(_PEOPLE) and tokens[end - 1][0] in PLACES:
        return False
    following = tokens[end][:1] if end < len(tokens) else []
    return end == len(plain) or (bool(following) and _ends_noun(following[0].removesuffix("s")))


def _is_named(token: str, *, first: bool) -> bool:
    """Whether a word of a phrase is a name or, after the first word, the continuation of a name."""
    word = next(iter(words_of(token)), "").removesuffix("'s").removesuffix("’s")  # noqa: RUF001
    if word in PLACES:
        return True
    letters = token.lstrip("\"'“‘(")  # noqa: RUF001
    is_capital = letters[:1].isupper() and not any(letter.isupper() for letter in letters[1:]) and len(word) > 1
    return is_capital and not (first and is_common(word))


def is_common_noun(word: str) -> bool:
    """Whether a lower-case word is a noun of the tables or of a data set's class names."""
    return word in THINGS_IN_ING or word in _common_nouns()


def is_common(word: str) -> bool:
    """Whether a word in lower case is known to be an ordinary English word rather than a name.

    Known words are the words in the tables of `tadp.language.lexicon`, class names and their synonyms, the plurals of
    all these, and words that end in -ing.

    Example:
        >>> [is_common(word) for word in ("the", "dogs", "walking", "bob", "robin", "subaru")]
        [True, True, True, False, False, False]
    """
    if word in _ALSO_NAMES or word in PLACES:
        return False
    closed = DETERMINERS | FUNCTION_WORDS | QUANTIFIERS | PRONOUNS | ADJECTIVES
    return word in closed or is_common_noun(word) or (word.endswith("ing") and len(word) > 5)


@lru_cache(maxsize=1)
def _common_nouns() -> frozenset[str]:
    named = [
        *ADE20K_CLASSES,
        *CITYSCAPES_CLASSES,
        *VOC_SYNONYMS,
        *(synonym for synonyms in VOC_SYNONYMS.values() for synonym in synonyms),
    ]
    words = {word for name in named for word in words_of(name)} | COMMON_NOUNS | MASS_NOUNS
    return frozenset(form for word in words - FUNCTION_WORDS for form in forms(word)) - _ALSO_NAMES


def lower_first(text: str) -> str:
    """Lower-case the first letter of a text, unless its first word may be a name (see `is_common`).

    "I", "BMW", "iPhone", "New York" and words that `is_common` does not know are left as they are.

    Example:
        >>> [lower_first(text) for text in ("A dog", "Dogs", "TV on a desk", "Paris at night", "Bob on a bike")]
        ['a dog', 'dogs', 'TV on a desk', 'Paris at night', 'Bob on a bike']
    """
    words = text.split(maxsplit=2)
    first = words[0] if words else ""
    if any(letter.isupper() for letter in first[1:]) or re.fullmatch(r"I(?:['’]\w+)?|[A-Z]-.+", first):  # noqa: RUF001
        return text
    word = next(iter(words_of(first)), "").removesuffix("'s").removesuffix("’s")  # noqa: RUF001
    is_name = len(words) > 1 and words[1][:1].isupper() and word not in DETERMINERS | FUNCTION_WORDS | QUANTIFIERS
    return text[:1].lower() + text[1:] if is_common(word) and not is_name else text


def upper_first(text: str) -> str:
    """Upper-case a text's first letter and leave the rest as it is."""
    return text[:1].upper() + text[1:]


def without_bullet(text: str) -> str:
    """Remove a list marker such as "- " or "12. " from the start of a caption, and white space around the caption.

    Example:
        >>> [without_bullet(text) for text in ("- a dog", "20. Drawing of a cat", "2 dogs", "3.5 tons")]
        ['a dog', 'Drawing of a cat', '2 dogs', '3.5 tons']
    """
    return re.sub(r"^\s*(?:[-–—•*]|\d{1,3}[.)])\s+(?=\S)", "", text).strip()  # noqa: RUF001  dashes are meant


def counted(count: int, noun: str, verb: str = "", *, plural: str | None = None) -> str:
    """A number with its noun, and with a verb that agrees with it.

    Args:
        count: The number.
        noun: The noun in the singular, such as "label" or "pair of classes".
        verb: The words that follow. The first is plural: "have", "are", "differ", "share", "name" or "contradict".
        plural: The plural of the noun, if it is not formed with s.

    Example:
        >>> counted(1, "label", "have no area"), counted(2, "pair of classes", "differ")
        ('1 label has no area', '2 pairs of classes differ')
    """
    first, _, rest = noun.partition(" of ")
    several = plural or (f"{first}s of {rest}" if rest else f"{noun}s")
    if count == 1:
        word, _, more = verb.partition(" ")
        verb = " ".join(filter(None, (_SINGULAR_VERBS.get(word, f"{word}s" if word else ""), more)))
    return f"{count} {noun if count == 1 else several}{verb and f' {verb}'}"
