"""The little English grammar that captions need: articles, first letters, content words. Strings alone, no model."""

import re
from collections.abc import Collection

from tadp.words import COMPOUND_PLURALS, IRREGULAR_PLURALS

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
# Names that are one word and begin captions: cities, countries, what belongs to them, months. Not complete.
PLACES = frozenset((
    "africa", "african", "america", "american", "amsterdam", "april", "asia", "asian", "athens", "august",
    "australia", "australian", "bangkok", "barcelona", "beijing", "berlin", "boston", "brazil", "britain", "british",
    "brooklyn", "budapest", "cairo", "california", "canada", "canadian", "chicago", "china", "chinese", "december",
    "dubai", "dublin", "dutch", "egypt", "egyptian", "england", "english", "europe", "european", "february",
    "florence", "france", "french", "german", "germany", "greece", "greek", "hawaii", "india", "indian", "istanbul",
    "italian", "italy", "january", "japan", "japanese", "jerusalem", "july", "june", "korea", "korean", "kyoto",
    "lisbon", "london", "madrid", "manhattan", "mexican", "mexico", "moscow", "mumbai", "november", "october",
    "paris", "philadelphia", "prague", "rome", "russia", "russian", "scotland", "scottish", "seattle", "seoul",
    "september", "shanghai", "singapore", "spain", "spanish", "sydney", "texas", "tokyo", "toronto", "turkish",
    "venice", "vienna", "washington", "zurich",
))  # fmt: skip
_SPELLED = 4  # letters of a word in capitals that is spelled
_SPOKEN = frozenset({"FIFA", "LEGO", "NASA", "NATO", "RAM", "SIM", "SWAT"})  # those that are spoken as words
_SINGULAR = frozenset({"lens"})
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
    """The article, "a" or "an", by how the phrase's first word is spoken; one in capitals, or a letter, is spelled.

    Example:
        >>> [article_for(word) for word in ("dog", "owl", "hour", "unicorn", "umbrella", "MRI scan", "x-ray")]
        ['a', 'an', 'an', 'a', 'an', 'an', 'an']
    """
    found = _WORD.search(phrase)
    word = found[0] if found else ""
    first = word.lower()
    is_shouted = phrase.isupper() and len(phrase.split()) > 1
    is_letter = found is not None and len(word) == 1 and phrase[found.end() : found.end() + 1] in ("", " ", "-")
    if is_letter or (word.isupper() and len(word) <= _SPELLED and word not in _SPOKEN and not is_shouted):
        return "an" if first[:1] in tuple("aefhilmnorsx") else "a"
    if _SPOKEN_AS_VOWEL.match(first):
        return "an"
    return "an" if first[:1] in tuple("aeiou") and not _SPOKEN_AS_CONSONANT.match(first) else "a"


def is_plural(phrase: str) -> bool:
    """Whether a phrase without an article begins with many: "people on grass", "dogs", but no "sports car".

    Example:
        >>> [is_plural(text) for text in ("people", "dogs and a cat", "sports car", "a dog", "dress")]
        [True, True, False, False, False]
    """
    words = words_of(phrase)
    if not words:
        return False
    first = words[0]
    if any(first in many and one != first for one, many in IRREGULAR_PLURALS.items() if one != "bus"):
        return True
    if any(first.endswith(many) for many in COMPOUND_PLURALS.values()):
        return True
    stands_alone = len(words) == 1 or words[1] in FUNCTION_WORDS
    ends = first.endswith("s") and not first.endswith(("ss", "us", "is", "as", "os"))
    return stands_alone and ends and len(first) > 3 and first not in IRREGULAR_PLURALS and first not in _SINGULAR


def lower_first(text: str) -> str:
    """Lower-case a text's first letter, but leave "I", "BMW", "iPhone", "New York" and well-known places as they are.

    Where a name is one word and no well-known place ("Bob on a bike"), nothing tells it from a word.

    Example:
        >>> [lower_first(text) for text in ("A dog", "TV on a desk", "I am here", "Paris at night", "New York")]
        ['a dog', 'TV on a desk', 'I am here', 'Paris at night', 'New York']
    """
    words = text.split(maxsplit=2)
    first = words[0] if words else ""
    if any(letter.isupper() for letter in first[1:]) or re.fullmatch(r"I(?:['’]\w+)?|[A-Z]-.+", first):  # noqa: RUF001
        return text
    word = next(iter(words_of(first)), "").removesuffix("'s").removesuffix("’s")  # noqa: RUF001
    is_name = len(words) > 1 and words[1][:1].isupper() and word not in DETERMINERS | FUNCTION_WORDS
    return text if is_name or word in PLACES else text[:1].lower() + text[1:]


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
