"""What a backbone returns, and what a head needs to know before it sees any."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class FeatureInfo:
    """The contract between a backbone and a head; level 0 is the finest.

    Attributes:
        channels: Channels of each map, attention channels included.
        reduction: Pixels of the image per cell of each map, e.g. (8, 16, 32, 64).
    """

    channels: tuple[int, ...]
    reduction: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.reduction):
            raise ValueError(
                f"one reduction a level; got {len(self.channels)} channels, {len(self.reduction)} reductions."
            )

    def __len__(self) -> int:
        return len(self.channels)


class Word(NamedTuple):
    """A word of a caption and the tokens it became: positions `start` up to, not including, `stop`."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class WordMaps:
    """Attention of one image by word, in the order of its caption.

    Attributes:
        words: W words; a word that occurs twice stands twice.
        maps: (W, h, w), the mean over each word's sub-word tokens, in [0, 1].
    """

    words: tuple[str, ...]
    maps: Float[Tensor, "w _h _w"]

    def __repr__(self) -> str:
        return f"WordMaps({', '.join(self.words)}; maps {tuple(self.maps.shape)})"

    def __len__(self) -> int:
        return len(self.words)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(zip(self.words, self.maps, strict=True))

    def __getitem__(self, word: str) -> Float[Tensor, "_h _w"]:
        """The map of a word, averaged over its occurrences.

        Raises:
            KeyError: If the caption does not have the word.
        """
        found = [index for index, text in enumerate(self.words) if text == word]
        if not found:
            raise KeyError(f"no word {word!r} in this caption; it has {', '.join(self.words) or 'no words'}.")
        return self.maps[found].mean(dim=0)


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Cross-attention from each cell of the image to each token of its text.

    Probabilities, averaged over heads and over the layers of a level, so that each cell's values sum to one over the
    tokens. Iterating over levels: `for level in attention.levels: attention.at(level)`.

    Attributes:
        maps: For each recorded level, (B, L, h, w).
        tokens: For each image, the L tokens' names; empty names if the text came without.
        spans: For each image, its words and their token positions; None if the text came without.
    """

    maps: Mapping[int, Float[Tensor, "_b _l _h _w"]]
    tokens: tuple[tuple[str, ...], ...]
    spans: tuple[tuple[Word, ...], ...] | None = None

    def __repr__(self) -> str:
        shapes = ", ".join(f"{level}: {tuple(self.maps[level].shape)}" for level in self.levels)
        return f"AttentionMaps({{{shapes}}})"

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels that were recorded, finest first."""
        return tuple(sorted(self.maps))

    def at(self, level: int) -> Float[Tensor, "b l h w"]:
        """Attention at one level, (B, L, h, w).

        Raises:
            ValueError: If that level was not recorded.
        """
        if level not in self.maps:
            raise ValueError(
                f"no attention at level {level}; recorded: {', '.join(map(str, self.levels)) or 'none'}. Build the "
                f"backbone with record_attention=({level},)."
            )
        return self.maps[level]

    def words(self, level: int) -> tuple[WordMaps, ...]:
        """Attention at one level by word, one `WordMaps` an image; sub-word pieces are averaged.

        Raises:
            ValueError: If the level was not recorded, or the text carried no words (embeddings made elsewhere).
        """
        maps = self.at(level)
        if self.spans is None:
            raise ValueError("this conditioning has no words; pass captions, or a Conditioning with `words`.")
        return tuple(
            WordMaps(
                tuple(word.text for word in spans),
                torch.stack([one[word.start : word.stop].mean(dim=0) for word in spans]) if spans else one[:0],
            )
            for one, spans in zip(maps, self.spans, strict=True)
        )


@dataclass(frozen=True, eq=False)
class Features:
    """One pass through the backbone.

    Attributes:
        maps: Finest first; level k is (B, channels[k], ceil(H / reduction[k]), ceil(W / reduction[k])).
        attention: The recorded cross-attention; None if none was recorded.
        image_size: (height, width) of the images in pixels.
    """

    maps: tuple[Float[Tensor, "_b _c _h _w"], ...]
    attention: AttentionMaps | None
    image_size: tuple[int, int]

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(one.shape)) for one in self.maps)
        return f"Features(maps=({shapes}), attention={self.attention}, image_size={self.image_size})"
