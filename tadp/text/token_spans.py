"""What the tokens of a caption stand for: a name for each token, and the words that tokens form together."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tadp.features import Names, Word
from tadp.language.matching import splits_inside
from tadp.text.learned_tokens import write_out

if TYPE_CHECKING:
    from tokenizers import Encoding

CONTINUES = "##"  # precedes the name of a token that continues a word: "rain", "##coat"


def name_tokens(text: str, encoding: "Encoding", tokens: Sequence[str], learned: Mapping[str, int]) -> tuple[str, ...]:
    """The text that each token of a caption stands for; a token that continues a word begins with `CONTINUES`."""
    names = [token.removesuffix("</w>") for token in tokens]
    pieces = zip(encoding.word_ids[: len(tokens) - 1], encoding.offsets, names, strict=False)
    before = None
    for position, (word, (start, stop), name) in enumerate(pieces):
        if word is not None and name not in learned:
            readable = _readable(name, text[start:stop].lower())
            names[position] = CONTINUES + readable if word == before else readable
        before = word
    return tuple(names)


def _readable(token: str, text: str) -> str:
    """A vocabulary entry as text instead of bytes; if it is only part of a letter, the whole letter."""
    from tokenizers.decoders import ByteLevel

    if token.isascii():
        return token
    decoded = ByteLevel().decode([token])
    return text if "\ufffd" in decoded else decoded


def find_names_apart(
    names: Sequence[str], encoding: "Encoding", limit: int, learned: Mapping[str, int]
) -> tuple[Word, ...]:
    """The names in a `Names` prompt, each as one word; a name that is cut at `limit` tokens is left out."""
    words: list[Word] = []
    end = 0
    for name in names:
        begin, end = end, end + len(write_out(Names([name]), learned)) + 1
        own = [
            position
            for position, (word, (start, _)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True))
            if word is not None and begin <= start < end
        ]
        if own and own[-1] < limit:
            words.append(Word(name, own[0], own[-1] + 1, stands_apart=True))
    return tuple(words)


def find_words(text: str, encoding: "Encoding", limit: int, learned: Mapping[str, int]) -> tuple[Word, ...]:
    """The words of a caption and their token positions up to `limit`; words without a letter or digit are left out."""
    words: list[Word] = []
    previous, first, end = None, 0, 0
    pieces = zip(encoding.word_ids[:limit], encoding.offsets[:limit], strict=True)
    for position, (word, (start, stop)) in enumerate(pieces):
        if word is None:
            continue
        # The tokenizer splits words at the vowel signs of Hindi, Thai and others, which are marks, not letters.
        is_inside = start == end and words and splits_inside(text, start)
        if word == previous or is_inside:
            begin = words.pop().start
        else:
            begin, first = position, start
        # From the start of the first token to the end of the last: tokens of one letter (its bytes) overlap.
        name = text[first:stop].strip().lower()
        if words and words[-1].text in learned and name == f"{words[-1].text}_{begin - words[-1].start}":
            name, begin, *_ = words.pop()  # a further vector of the learned token before it
        words.append(Word(name, begin, position + 1))
        previous, end = word, stop
    return tuple(word for word in words if word.text in learned or any(letter.isalnum() for letter in word.text))
