"""What the tokens of a caption stand for: a name for each, and the words that they spell together."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tadp.features import Names, Word
from tadp.language.matching import splits_inside
from tadp.text.learned_tokens import write_out

if TYPE_CHECKING:
    from tokenizers import Encoding

CONTINUES = "##"  # before the name of a token that goes on a word: "rain", "##coat"


def name_tokens(text: str, encoding: "Encoding", tokens: Sequence[str], learned: Mapping[str, int]) -> tuple[str, ...]:
    """What each token of a caption stands for, as text; a piece that goes on a word begins with `CONTINUES`."""
    names = [token.removesuffix("</w>") for token in tokens]
    pieces = zip(encoding.word_ids[: len(tokens) - 1], encoding.offsets, names, strict=False)
    before = None
    for position, (word, (start, stop), name) in enumerate(pieces):
        if word is not None and name not in learned:
            said = _said(name, text[start:stop].lower())
            names[position] = CONTINUES + said if word == before else said
        before = word
    return tuple(names)


def _said(token: str, text: str) -> str:
    """An entry of the vocabulary, which spells bytes, as text; where it is a part of a letter, the letter."""
    from tokenizers.decoders import ByteLevel

    if token.isascii():
        return token
    said = ByteLevel().decode([token])
    return text if "\ufffd" in said else said


def find_names_apart(
    names: Sequence[str], encoding: "Encoding", limit: int, learned: Mapping[str, int]
) -> tuple[Word, ...]:
    """The names of a prompt that is `Names`, each one word; one that is cut at `limit` tokens is left out."""
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
    """Words of a caption and their token positions up to `limit`; pieces without a letter or digit are left out."""
    words: list[Word] = []
    previous, first, end = None, 0, 0
    pieces = zip(encoding.word_ids[:limit], encoding.offsets[:limit], strict=True)
    for position, (word, (start, stop)) in enumerate(pieces):
        if word is None:
            continue
        # The tokenizer parts words at the vowel signs of Hindi, Thai and others, which are marks and no letters.
        is_inside = start == end and words and splits_inside(text, start)
        if word == previous or is_inside:
            begin = words.pop().start
        else:
            begin, first = position, start
        # From the first piece's start to the last one's end: pieces of one letter (bytes) overlap.
        name = text[first:stop].strip().lower()
        if words and words[-1].text in learned and name == f"{words[-1].text}_{begin - words[-1].start}":
            name, begin, *_ = words.pop()  # a further vector of the learned token before it
        words.append(Word(name, begin, position + 1))
        previous, end = word, stop
    return tuple(word for word in words if word.text in learned or any(letter.isalnum() for letter in word.text))
