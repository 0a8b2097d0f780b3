"""Count a caption in CLIP's tokens, without a text encoder."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tadp.text.clip_tokenizer import MAX_LENGTH, clip_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


@runtime_checkable
class TokenCounter(Protocol):
    """What says how long a text is to a text encoder; `tadp.text.encoder.TextEncoder` does."""

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

    Example:
        >>> clip_counter().count_tokens(["", "a golden retriever on grass"])
        [2, 7]
    """
    return TokenizerCounter(clip_tokenizer())


@lru_cache(maxsize=4)
def folder_counter(folder: Path) -> TokenizerCounter:
    """Counts with the tokenizer in a folder."""
    from transformers import CLIPTokenizer

    return TokenizerCounter(CLIPTokenizer.from_pretrained(folder, local_files_only=True))
