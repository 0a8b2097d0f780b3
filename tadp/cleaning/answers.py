"""The instruction to a language model, and checks whether its answer can be a cleaned caption."""

import re
from collections.abc import Sequence

from tadp.cleaning.domains import Domain
from tadp.errors import TADPError
from tadp.language.grammar import content_words

_NUMBERED = re.compile(r"(\d{1,9})\s*[.):]\s+(\S.*)")  # int() refuses numbers of thousands of digits
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # sequences that colour text or move the cursor
_LINES = "\n\r\t"
_CONTROL = {
    number: " " if chr(number).isspace() else None
    for number in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
    if chr(number) not in _LINES
}
_QUOTES = {'"': '"', "'": "'", "“": "”", "`": "`"}


class AnswerError(TADPError):
    """An answer that cannot be used. It never leaves this package: the caption is kept, and the report says why."""

    most_repeats, wait_s = 1, 0.0  # the same request usually gets the same answer


def without_control(text: str) -> str:
    r"""Remove control characters, which could change a terminal that shows the text, but keep the ends of lines.

    Example:
        >>> without_control("a \x1b[31mred\x1b[0m dog\x00\n\u202eon grass")
        'a red dog\non grass'
    """
    return _TERMINAL.sub("", text).translate(_CONTROL)


def instruction(domain: Domain) -> str:
    """Write the instruction to the model, without the format of captions and answers."""
    words = ", ".join((*domain.nouns, *domain.adjectives, *domain.media)[:8])
    return (
        f"You edit captions of images. Take out of a caption every mention that the image is of the kind "
        f"{domain.name!r} (words such as: {words}). Change nothing else, and add nothing. A caption without such a "
        "mention stays as it is."
    )


def numbered(captions: Sequence[str]) -> str:
    """Write captions as a numbered list, one per line."""
    return "\n".join(f"{number}. {' '.join(text.split())}" for number, text in enumerate(captions, 1))


def read_numbered(answer: str, count: int) -> list[str]:
    r"""Read the lines of a list that is numbered from 1 to `count`, and return them without their numbers.

    Text before the list is ignored, and so is text after the list that follows an empty line.

    Raises:
        AnswerError: If the numbers are not 1 to `count` in this order, or a line of the list has no number.

    Example:
        >>> read_numbered("Sure:\n1. a dog\n2. a cat", 2)
        ['a dog', 'a cat']
    """
    captions: list[str] = []
    complete = False
    for line in answer.splitlines():
        match = _NUMBERED.fullmatch(line.strip())
        if not line.strip():
            complete = len(captions) == count
        elif complete or not (captions or match):
            continue
        elif match and int(match[1]) == len(captions) + 1:
            captions.append(match[2])
        else:
            raise AnswerError(f"the answer has an unexpected line: {line.strip()[:60]!r}")
    if len(captions) != count:
        raise AnswerError(f"the answer has {len(captions)} captions for {count}")
    return captions


def check_answer(caption: str, answer: str, domain: Domain, *, batch: Sequence[str] = ()) -> str:
    """Check a language model's answer for one caption, and return it without surrounding quotation marks.

    Args:
        caption: The caption before cleaning.
        answer: The model's answer for this caption.
        domain: The domain that was to be removed, whose words may be missing from the answer.
        batch: All captions of the same request, because a model may swap their answers; empty for a request with one
            caption.

    Raises:
        AnswerError: If the answer is empty, cannot be written as UTF-8, is much longer than the caption, has none of
            the caption's words, or has more words of another caption in `batch`.
    """
    text = " ".join(without_control(answer).split())
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and not caption.strip().startswith(text[0]):
        text = text[1:-1].strip()
    if not text:
        raise AnswerError("the answer is empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half an emoji, from a server that splits text in the wrong place
        raise AnswerError(f"the answer cannot be written as UTF-8: {ascii(text)[:60]}") from None
    if len(text) > 1.5 * len(caption) + 20:
        raise AnswerError(f"the answer is much longer than the caption: {text[:60]!r} …")
    words = set(content_words(caption, ignored=domain.words))
    answered = set(content_words(text))
    if words and not words & answered:
        raise AnswerError(f"the answer has none of the caption's words: {text[:60]!r}")
    for other in batch:
        if len(answered & set(content_words(other, ignored=domain.words))) > len(answered & words):
            raise AnswerError(f"the answer seems to be for another caption, {other[:60]!r}: {text[:60]!r}")
    return text
