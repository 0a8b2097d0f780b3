"""Count a caption in CLIP's tokens, without a text encoder."""

import gzip
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tadp.assets import clip_merges

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_LENGTH = 77  # of every CLIP text encoder that Stable Diffusion 1.x and 2.x have, start and end included


@runtime_checkable
class TokenCounter(Protocol):
    """What says how long a text is to a text encoder; `tadp.text.TextEncoder` does."""

    @property
    def max_length(self) -> int:
        """Tokens a text may have, start and end included."""
        ...

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each text, start and end included."""
        ...


class TokenizerCounter:
    """Counts with a tokenizer alone.

    Args:
        tokenizer: CLIP's, or one of its kind.
    """

    max_length: int = MAX_LENGTH

    def __init__(self, tokenizer: "CLIPTokenizer"):
        self._tokenizer = tokenizer

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each text, start and end included."""
        return [len(encoding) for encoding in self._tokenizer(list(captions), verbose=False).encodings or []]


@lru_cache(maxsize=1)
def clip_counter() -> TokenizerCounter:
    """Counts in CLIP's own vocabulary, which Stable Diffusion 1.x and 2.x share; it ships with tadp.

    Source:
        Radford et al. 2021, Sec. 2.4; the vocabulary is built as openai/CLIP builds it from its list of merges.

    Example:
        >>> clip_counter().count_tokens(["", "a golden retriever on grass"])
        [2, 7]
    """
    from transformers import CLIPTokenizer

    lines = gzip.decompress(clip_merges().read_bytes()).decode("utf-8").splitlines()
    merges: list[tuple[str, ...]] = [tuple(line.split()) for line in lines]
    letters = _byte_letters()
    names = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    return TokenizerCounter(CLIPTokenizer(vocab=vocabulary, merges=merges))  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=4)
def folder_counter(folder: Path) -> TokenizerCounter:
    """Counts with the tokenizer in a folder."""
    from transformers import CLIPTokenizer

    return TokenizerCounter(CLIPTokenizer.from_pretrained(folder, local_files_only=True))


def _byte_letters() -> list[str]:
    """A letter for each byte, those that print first, as GPT-2 and CLIP write bytes."""
    printed = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*map(chr, printed), *(chr(0x100 + number) for number in range(0x100 - len(printed)))]
