"""What a language model is asked, and whether its answer can be a cleaned caption."""

import re
from collections.abc import Sequence

from tadp.cleaning.domains import Domain
from tadp.errors import TADPError
from tadp.language.grammar import content_words

_NUMBERED = re.compile(r"\s*(\d+)\s*[.):]\s+(\S.*?)\s*$")
_QUOTES = {'"': '"', "'": "'", "“": "”", "`": "`"}


class AnswerError(TADPError):
    """An answer that cannot be used. It stays inside this package: the caption is kept, and the report says why."""

    most_repeats, wait_s = 1, 0.0  # the same question mostly gets the same answer


def instruction(domain: Domain) -> str:
    """What the model is to do with captions, whatever form they come in."""
    words = ", ".join((*domain.nouns, *domain.adjectives, *domain.media)[:8])
    return (
        f"You edit captions of images. Take out of a caption every mention that the image is of the kind "
        f"{domain.name!r} (words such as: {words}). Change nothing else, and add nothing. A caption without such a "
        "mention stays as it is."
    )


def numbered(captions: Sequence[str]) -> str:
    """Captions as a numbered list, one a line."""
    return "\n".join(f"{number}. {' '.join(text.split())}" for number, text in enumerate(captions, 1))


def read_numbered(answer: str, count: int) -> list[str]:
    r"""The lines of a numbered list from 1 to `count`, without their numbers.

    Text before the list, and after it past an empty line, is let be.

    Raises:
        AnswerError: If the numbers are not 1 to `count`, each once, or a line of the list has none.

    Example:
        >>> read_numbered("Sure:\n1. a dog\n2. a cat", 2)
        ['a dog', 'a cat']
    """
    found: list[str] = []
    complete = False
    for line in answer.splitlines():
        match = _NUMBERED.match(line)
        if not line.strip():
            complete = len(found) == count
        elif complete or not (found or match):
            continue
        elif match and int(match[1]) == len(found) + 1:
            found.append(match[2])
        else:
            raise AnswerError(f"a line of the answer does not belong: {line.strip()[:60]!r}")
    if len(found) != count:
        raise AnswerError(f"{len(found)} captions came back for {count}")
    return found


def check_answer(caption: str, answer: str, domain: Domain, *, batch: Sequence[str] = ()) -> str:
    """An answer for one caption, without quotation marks around it.

    Args:
        caption: What was asked for.
        answer: What came back.
        domain: Whose words may go.
        batch: The captions that were asked for together, whose answers may have changed places.

    Raises:
        AnswerError: If it is empty, cannot be written as UTF-8, is much longer than the caption, has none of its
            words, or has more of another caption's.
    """
    text = " ".join(answer.split())
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and not caption.strip().startswith(text[0]):
        text = text[1:-1].strip()
    if not text:
        raise AnswerError("the answer is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half an emoji, where a server counts its tokens in the wrong place
        raise AnswerError(f"the answer cannot be written as UTF-8: {ascii(text)[:60]}") from None
    if len(text) > 1.5 * len(caption) + 20:
        raise AnswerError(f"the answer is much longer than the caption: {text[:60]!r} …")
    words = set(content_words(caption, ignored=domain.words))
    said = set(content_words(text))
    if words and not words & said:
        raise AnswerError(f"the answer has none of the caption's words: {text[:60]!r}")
    for other in batch:
        if len(said & set(content_words(other, ignored=domain.words))) > len(said & words):
            raise AnswerError(f"the answer is rather that of another caption, {other[:60]!r}: {text[:60]!r}")
    return text
