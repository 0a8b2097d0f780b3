"""The little English grammar that captions need: articles, first letters, content words. Only strings, no model."""

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

_SPELLED_LENGTH = 4  # letters of a word in capitals that is spelled
_SINGULAR = frozenset({"lens"})
_PEOPLE = ("ian", "can", "ean", "man", "ish", "ese", "dutch", "french", "greek")  # how words for what is of a place end
# Birds, horses and cats whose names are given to people too: with a capital they are names.
_ALSO_NAMES = frozenset({"colt", "dove", "finch", "kitty", "raven", "robin", "tabby", "wren"})
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # noqa: RUF001  the typographic apostrophe
_EIGHT = re.compile(r"8|1[18](?:\d\d)?(?!\d)")  # eight, eleven, eighteen, eighteen hundred


def words_of(text: str) -> list[str]:
    """The words of a text, lower-cased, in any script; punctuation and emoji are none.

    Example:
        >>> words_of("A man's dog, 2 cats")
        ['a', "man's", 'dog', '2', 'cats']
    """
    return [word.lower() for word in _WORD.findall(text)]


def content_words(text: str, *, ignored: Collection[str] = ()) -> list[str]:
    """The words that say what is in the picture: no articles, prepositions or auxiliaries, and none of `ignored`.

    Example:
        >>> content_words("a painting of two dogs on a sled", ignored={"painting"})
        ['dogs', 'sled']
    """
    left_out = DETERMINERS | FUNCTION_WORDS | set(ignored)
    return [word for word in words_of(text) if word not in left_out]


def article_for(phrase: str) -> str:
    """The article, "a" or "an", by how the phrase's first word is spoken; an acronym, or a letter, is spelled.

    inflect decides. It is given a word that is spelled in capitals and any other in small letters, for captions are not
    careful about them.

    Example:
        >>> [article_for(word) for word in ("dog", "owl", "hour", "unicorn", "umbrella", "MRI scan", "x-ray", "8-bit")]
        ['a', 'an', 'an', 'a', 'an', 'an', 'an', 'an']
    """
    found = _WORD.search(phrase)
    if found is None:
        return "a"
    word = found[0].lower()
    if word in KEPT_ARTICLES:
        return KEPT_ARTICLES[word]
    if word[0].isdecimal():  # inflect reads "8" as "a 8"
        return "an" if _EIGHT.match(word) else "a"
    if len(word) == 1 and phrase[found.end() : found.end() + 1] not in ("", " ", "-"):  # "{x} style" is not spelled
        return "an" if word in "aeiou" else "a"
    if _is_spelled(found[0], phrase):
        return "a" if word[0] == "u" else _article(word.upper())  # inflect: "an UPS truck"
    return _article(word)


@lru_cache(maxsize=65536)
def _article(word: str) -> str:
    return inflection().a(word).split()[0]


def _is_spelled(word: str, phrase: str) -> bool:
    """Whether a word is said letter by letter: in short capitals, unless all is in capitals, or without a vowel."""
    if word.isupper():
        is_shouted = phrase.isupper() and len(phrase.split()) > 1
        return len(word) <= _SPELLED_LENGTH and not is_shouted
    first = word.lower()
    has_vowel = bool(set("aeiouy") & set(first)) or not (first.isascii() and first.isalpha())
    return first in SPELLED or not (has_vowel or first in ABBREVIATIONS)


def has_determiner(phrase: str) -> bool:
    """Whether a phrase has its article already, or counts, or begins with no noun: "the sea", "3 dogs", "in snow".

    Example:
        >>> [has_determiner(phrase) for phrase in ("the sea", "3 dogs", "it rains", "dogs", "two-story house")]
        [True, True, True, False, False]
    """
    parts = words_of(next(iter(phrase.split()), ""))
    closed = DETERMINERS | FUNCTION_WORDS | QUANTIFIERS | PRONOUNS
    return len(parts) == 1 and (parts[0].isdecimal() or parts[0] in closed)


def takes_article(phrase: str) -> bool:
    """Whether "a" or "an" may go before a phrase.

    Not before a determiner, number, pronoun, preposition or verb; not where the noun is a plural, or one that is not
    counted and is said by itself ("water in a glass", but "a water bottle"); not before a name ("Bob on a bike").

    Example:
        >>> phrases = ("dog", "two dogs", "two-story house", "young people", "green grass", "grass field", "Bob's dog")
        >>> [takes_article(phrase) for phrase in phrases]
        [True, False, True, False, False, True, False]
    """
    words = words_of(phrase)
    if has_determiner(phrase) or _is_name(phrase) or is_plural(phrase) or MASS_NOUNS & _alone(words):
        return False
    is_verb = bool(words) and words[0].endswith("ing") and not is_common_noun(words[0])  # "looking at a dog"
    return not (is_verb and words[1:2] and words[1] in (FUNCTION_WORDS | DETERMINERS) - {"of"})


def is_plural(phrase: str) -> bool:
    """Whether a phrase without an article begins with many: "people on grass", "young dogs", but no "sports car".

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
        return is_many and first in _alone(words)
    second = nouns[1]  # "cartoon characters", but no "dog barks"
    return is_common_noun(second) and second.removesuffix("s") not in VERBS and is_plural(" ".join(nouns[1:]))


def _nouns(words: list[str]) -> list[str]:
    """The words from the first noun on: adjectives before it are left out, and whose it is."""
    start = 2 if words[1:2] == ["and"] and words[0] in ADJECTIVES and set(words[2:3]) & ADJECTIVES else 0
    while start < len(words) - 1 and (words[start] in ADJECTIVES or words[start].endswith(("'s", "’s"))):  # noqa: RUF001
        if words[start + 1] in FUNCTION_WORDS:  # "a blonde with a dog"
            break
        start += 1
    return words[start:]


def _alone(words: list[str]) -> set[str]:
    """The first noun, if no noun goes on after it: what follows is a verb, a preposition, or nothing."""
    nouns = _nouns(words)
    return set(nouns[:1]) if len(nouns) < 2 or _goes_on(nouns[1]) else set()


def _goes_on(word: str) -> bool:
    """Whether a word after a noun begins something else than a further noun."""
    if word in FUNCTION_WORDS or word in DETERMINERS or word in VERBS:
        return True
    return (word.endswith("ing") and word not in THINGS_IN_ING | MADE_IN_ING) or (word.endswith("ed") and len(word) > 4)


def _is_name(phrase: str) -> bool:
    """Whether a phrase begins with a name that stands by itself, or says whose the rest is."""
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
    return end == len(plain) or (bool(following) and _goes_on(following[0].removesuffix("s")))


def _is_named(token: str, *, first: bool) -> bool:
    """Whether a word of a phrase is a name, or, after the first one, goes on with it."""
    word = next(iter(words_of(token)), "").removesuffix("'s").removesuffix("’s")  # noqa: RUF001
    if word in PLACES:
        return True
    letters = token.lstrip("\"'“‘(")  # noqa: RUF001
    is_capital = letters[:1].isupper() and not any(letter.isupper() for letter in letters[1:]) and len(word) > 1
    return is_capital and not (first and is_common(word))


def is_common_noun(word: str) -> bool:
    """Whether a word in lower case is a noun of the tables, or of a class that a data set has."""
    return word in THINGS_IN_ING or word in _common_nouns()


def is_common(word: str) -> bool:
    """Whether a word in lower case is known to be one of the language, and no name.

    Known are the tables of `tadp.language.lexicon`, names of classes and their synonyms, their plurals, and what ends
    in -ing.

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
        *(one for many in VOC_SYNONYMS.values() for one in many),
    ]
    words = {word for name in named for word in words_of(name)} | COMMON_NOUNS | MASS_NOUNS
    return frozenset(form for word in words - FUNCTION_WORDS for form in forms(word)) - _ALSO_NAMES


def lower_first(text: str) -> str:
    """Lower-case a text's first letter where its first word is known to be no name (`is_common`).

    "I", "BMW", "iPhone", "New York" and every word that is not known keep their letters.

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
    """Upper-case a text's first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def without_bullet(text: str) -> str:
    """A caption without a list's mark, "- " or "12. ", before it, and without space around it.

    Example:
        >>> [without_bullet(text) for text in ("- a dog", "20. Drawing of a cat", "2 dogs", "3.5 tons")]
        ['a dog', 'Drawing of a cat', '2 dogs', '3.5 tons']
    """
    return re.sub(r"^\s*(?:[-–—•*]|\d{1,3}[.)])\s+(?=\S)", "", text).strip()  # noqa: RUF001  dashes are meant
