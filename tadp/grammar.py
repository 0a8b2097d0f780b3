"""The little English grammar that captions need: articles, first letters, content words. Strings alone, no model."""

import re
from collections.abc import Collection

ARTICLES = frozenset({"a", "an", "the"})
# After one of these a noun phrase has its determiner: no article goes before it.
DETERMINERS = ARTICLES | {
    "this", "that", "these", "those", "some", "any", "no", "each", "every", "both", "all", "my", "his", "her",
    "its", "their", "our", "your", "another", "several", "many", "few", "one", "two", "three", "four", "five",
    "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
}  # fmt: skip
# Words that carry no content. With DETERMINERS, what a content word is not.
FUNCTION_WORDS = frozenset((
    "of", "in", "on", "at", "by", "with", "without", "from", "to", "into", "onto", "over", "under", "through",
    "for", "about", "as", "and", "or", "but", "nor", "is", "are", "was", "were", "be", "been", "being", "has",
    "have", "had", "do", "does", "did", "there", "here", "it", "he", "she", "they", "we", "i", "you", "him", "them",
    "us", "who", "whom", "whose", "which", "what", "while", "when", "where", "than", "then", "so", "very", "shown",
    "showing", "shows", "depicted", "depicting", "depicts", "featuring", "features",
))  # fmt: skip
# Nothing ends in one of these: what follows has been lost.
DANGLING = ARTICLES | {
    "of", "in", "on", "at", "by", "with", "without", "from", "to", "into", "onto", "over", "under", "through",
    "for", "about", "as", "and", "or", "but", "is", "are", "was", "were", "be", "shown", "painted", "drawn",
    "depicted", "rendered",
}  # fmt: skip
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # noqa: RUF001  the typographic apostrophe
_SPOKEN_AS_CONSONANT = re.compile(r"(?:uni(?!n|m)|us[aeiu]|ut[aeiou]|eu|ewe|one\b|once\b|u\b|ubi|uk)")
_SPOKEN_AS_VOWEL = re.compile(r"(?:hour|honest|honou?r|heir)")


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
    """The article, "a" or "an", by how the phrase's first word is spoken.

    Example:
        >>> [article_for(word) for word in ("dog", "owl", "hour", "unicorn", "umbrella")]
        ['a', 'an', 'an', 'a', 'an']
    """
    first = next(iter(words_of(phrase)), "")
    if _SPOKEN_AS_VOWEL.match(first):
        return "an"
    return "an" if first[:1] in tuple("aeiou") and not _SPOKEN_AS_CONSONANT.match(first) else "a"


def lower_first(text: str) -> str:
    """Lower-case a text's first letter, but leave "I", "BMW" and "iPhone" as they are.

    Example:
        >>> [lower_first(text) for text in ("A dog", "TV on a desk", "I am here")]
        ['a dog', 'TV on a desk', 'I am here']
    """
    first = text.split(maxsplit=1)[0] if text.split() else ""
    if any(letter.isupper() for letter in first[1:]) or re.fullmatch(r"I(?:['’]\w+)?", first):  # noqa: RUF001
        return text
    return text[:1].lower() + text[1:]


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
