"""CLIP's tokenizer, built from the vocabulary that ships with tadp, and token counts."""

import gzip
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tadp.assets import clip_merges
from tadp.files.pretrained import load_reader

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_LENGTH = 77  # for all CLIP text encoders of Stable Diffusion 1.x and 2.x, including start and end token


def clip_tokenizer(**options: Any) -> "CLIPTokenizer":
    """Create a tokenizer with CLIP's own vocabulary, which is that of Stable Diffusion 1.x, 2.x and XL.

    Args:
        **options: Further arguments for `CLIPTokenizer`, such as `pad_token`.

    Source:
        Radford et al. 2021, Sec. 2.4; the vocabulary is built from the list of merges as in openai/CLIP.

    Example:
        >>> clip_tokenizer()("a golden retriever").input_ids
        [49406, 320, 3878, 28394, 49407]
    """
    from transformers import CLIPTokenizer

    lines = gzip.decompress(clip_merges().read_bytes()).decode("utf-8").splitlines()
    merges: list[tuple[str, ...]] = [tuple(line.split()) for line in lines]
    letters = _byte_letters()
    names = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    defaults: dict[str, Any] = {"vocab": vocabulary, "merges": merges, "model_max_length": MAX_LENGTH}
    return CLIPTokenizer(**(defaults | options))


def _byte_letters() -> list[str]:
    """One letter per byte, printable bytes first: how GPT-2 and CLIP write bytes."""
    printed = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*map(chr, printed), *(chr(0x100 + number) for number in range(0x100 - len(printed)))]


@runtime_checkable
class TokenCounter(Protocol):
    """Anything that counts the tokens of a text for a text encoder, such as `tadp.text.encoder.TextEncoder`."""

    @property
    def max_length(self) -> int:
        """The most tokens that a text may have, including start and end token."""
        ...

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """The number of tokens of each text, including start and end token."""
        ...


class TokenizerCounter:
    """Counts tokens with only a tokenizer.

    Args:
        tokenizer: CLIP's tokenizer, or one of the same class.
    """

    max_length: int = MAX_LENGTH

    def __init__(self, tokenizer: "CLIPTokenizer"):
        self._tokenizer = tokenizer

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """The number of tokens of each text, including start and end token."""
        return [len(encoding) for encoding in self._tokenizer(list(captions), verbose=False).encodings or []]


@lru_cache(maxsize=1)
def clip_counter() -> TokenizerCounter:
    """A counter with CLIP's own vocabulary, which Stable Diffusion 1.x and 2.x share and which ships with tadp.

    Example:
        >>> clip_counter().count_tokens(["", "a golden retriever on grass"])
        [2, 7]
    """
    return TokenizerCounter(clip_tokenizer())


@lru_cache(maxsize=4)
def folder_counter(folder: Path) -> TokenizerCounter:
    """A counter with the tokenizer in a folder."""
    from transformers import CLIPTokenizer

    return TokenizerCounter(load_reader(CLIPTokenizer, folder, what=f"{folder.name}/"))
