"""Features, the output of a backbone, and `FeatureInfo`, the description of them that a head is built from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tadp.language.matching import Synonyms, ends_clause, find_names, readable, split_words

_SHOWN = 8  # how many names the repr of pooled maps lists


@dataclass(frozen=True)
class FeatureInfo:
    """The contract between a backbone and a head; level 0 is the finest.

    Attributes:
        channels: Channels of each map, attention channels included.
        reduction: Stride of each map, in pixels per cell, e.g. (8, 16, 32, 64).
    """

    channels: tuple[int, ...]
    reduction: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.reduction):
            raise ValueError(
                f"channels and reduction must have one entry per level; got {len(self.channels)} channels and "
                f"{len(self.reduction)} reductions."
            )

    def __len__(self) -> int:
        return len(self.channels)


class Word(NamedTuple):
    """A word of a caption and its tokens, from position `start` up to but not including `stop`.

    A word that stands apart was encoded separately, as class names are. It forms no phrase with its neighbours.
    """

    text: str
    start: int
    stop: int
    stands_apart: bool = False


class Names(str):
    """A prompt made of names joined by spaces, which also knows where each name ends.

    The text encoder receives the string. Its words are the names, kept apart as in class embeddings, so that "hot"
    next to "dog" does not mean "hot dog". The results of `str` methods are plain strings, and a prompt read from a
    file is one too.

    Args:
        names: The names, in order. Each "_" becomes a space.

    Example:
        >>> prompt = Names(["hot", "dog"])
        >>> prompt, prompt.names
        ('hot dog', ('hot', 'dog'))
    """

    names: tuple[str, ...]

    def __new__(cls, names: Sequence[str]) -> "Names":
        prompt = super().__new__(cls, " ".join(map(readable, names)))
        prompt.names = tuple(names)
        return prompt

    def __getnewargs__(self) -> tuple[tuple[str, ...]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (self.names,)


@dataclass(frozen=True, eq=False)
class WordMaps:
    """Attention maps of one image, one per word of its caption, in order.

    Attributes:
        words: The W words of the caption. A word that occurs twice is listed twice.
        maps: Attention per word, averaged over the word's tokens, (W, h, w), in [0, 1].
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
            KeyError: If the word does not occur in the caption.
        """
        indices = [index for index, text in enumerate(self.words) if text == word]
        if not indices:
            raise KeyError(f"no word {word!r} in this caption; it has {', '.join(self.words) or 'no words'}.")
        return self.maps[indices].mean(dim=0)


@dataclass(frozen=True, eq=False)
class PooledMaps:
    """Attention averaged per name: one channel per name, whatever the texts are.

    Attributes:
        maps: Attention for K names, (B, K, h, w), in [0, 1]; zero if the name is not in the image's text.
        names: The K names.
        present: Whether each name is in the image's text, (B, K).
    """

    maps: Float[Tensor, "b k _h _w"]
    names: tuple[str, ...]
    present: Bool[Tensor, "b k"]

    def __repr__(self) -> str:
        more = f" and {len(self.names) - _SHOWN} more" * (len(self.names) > _SHOWN)
        return f"PooledMaps({', '.join(self.names[:_SHOWN])}{more}; maps {tuple(self.maps.shape)})"

    def missing(self) -> tuple[tuple[str, ...], ...]:
        """For each image, the names that are not in its text."""
        return tuple(
            tuple(name for name, is_present in zip(self.names, row, strict=True) if not is_present)
            for row in self.present.tolist()
        )


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Cross-attention from each cell of the image to each token of its text.

    The values are probabilities, averaged over the heads and layers of a level, so each cell's values sum to one over
    the tokens. In a model with joint attention (SD 3, FLUX) they sum to the share of its attention that the cell pays
    to the text, which is at most one. To iterate over levels: `for level in attention.levels: attention.at(level)`.

    Attributes:
        maps: Attention of each recorded level, (B, L, h, w).
        tokens: For each image, the names of its L tokens; empty strings if the text has no token names.
        spans: For each image, its words and their token positions; None if the text has no words.
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
            ValueError: If the level was not recorded.
        """
        if level not in self.maps:
            raise ValueError(
                f"no attention at level {level}; recorded: {', '.join(map(str, self.levels)) or 'none'}. Build the "
                f"backbone with record_attention=({level},)."
            )
        return self.maps[level]

    def words(self, level: int) -> tuple[WordMaps, ...]:
        """Attention per word at one level, as one `WordMaps` per image; the tokens of a word are averaged.

        Raises:
            ValueError: If the level was not recorded, or the text has no words (embeddings made elsewhere).
        """
        return tuple(
            WordMaps(
                tuple(word.text for word in spans),
                torch.stack([maps[word.start : word.stop].mean(dim=0) for word in spans]) if spans else maps[:0],
            )
            for maps, spans in zip(self.at(level), self._words(), strict=True)
        )

    def pool(self, names: Sequence[str], level: int, *, synonyms: Synonyms | None = None) -> PooledMaps:
        """Attention per name at one level, with the same number of channels for every text.

        A name is a word, a noun or a class of several words. Names are matched as `tadp.language.matching.mentions`
        matches them: case does not matter, a plural counts as its singular, and the longest of several overlapping
        names counts. A name never spans two texts that were joined. In class embeddings and in prompts that are
        `Names`, it never spans two classes, and a class that is itself a name only counts for that name. A name's map
        is the mean over its tokens and its occurrences. So a single word has the same map as in `words`, and a value
        means the same however long the name and the text are: the attention that one token of the name gets.

        Args:
            names: The K names, in the order of the channels.
            level: A level that was recorded; `levels` lists them.
            synonyms: Further words for each name, such as `{"person": ["man", "woman"]}`.

        Returns:
            Maps (B, K, h, w), zero for a name that is not in a text; `present` and `missing()` report these names.
            Gradients flow to the attention.

        Raises:
            ValueError: If the level was not recorded, the text has no words, there are no names, or a name has
                neither letters nor digits.
            TypeError: If a name is not a string, or `names` is a single string.
        """
        maps = self.at(level)
        if not names:
            raise ValueError("no names to pool by; give at least one.")
        weights = torch.zeros(maps.shape[0], len(names), maps.shape[1])
        counts = torch.zeros(maps.shape[0], len(names), 1)
        for image, (tokens, words) in enumerate(zip(self.tokens, self._words(), strict=True)):
            for index, start, stop in _occurrences(words, tokens, names, synonyms):
                weights[image, index, start:stop] += 1 / (stop - start)
                counts[image, index] += 1
        weights = (weights / counts.clamp(min=1)).to(maps.device, maps.dtype)
        pooled = torch.einsum("bkl,blhw->bkhw", weights, maps)
        return PooledMaps(pooled, tuple(names), (counts[:, :, 0] > 0).to(maps.device))

    def _words(self) -> tuple[tuple[Word, ...], ...]:
        if self.spans is None:
            raise ValueError("this conditioning has no words; pass captions, or a Conditioning with `words`.")
        return self.spans


@dataclass(frozen=True, eq=False)
class Features:
    """One pass through the backbone.

    Attributes:
        maps: One map per level, finest first; level k is (B, channels[k], ceil(H / reduction[k]),
            ceil(W / reduction[k])).
        attention: The recorded cross-attention; None if no attention was recorded.
        image_size: (height, width) of the images in pixels.
        vae_map: If requested, the VAE encoder's map at half the finest stride, (B, C, ceil(H / 4), ceil(W / 4)) for
            Stable Diffusion. It does not belong to the levels, and has no gradient. None if it was not requested.
    """

    maps: tuple[Float[Tensor, "_b _c _h _w"], ...]
    attention: AttentionMaps | None
    image_size: tuple[int, int]
    vae_map: Float[Tensor, "_b _c _h _w"] | None = None

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(level_map.shape)) for level_map in self.maps)
        return f"Features(maps=({shapes}), attention={self.attention}, image_size={self.image_size})"


def _occurrences(
    words: Sequence[Word], tokens: Sequence[str], names: Sequence[str], synonyms: Synonyms | None
) -> list[tuple[int, int, int]]:
    """Find names among a text's words: (index of the name, first token, one past the last token)."""
    spans: list[tuple[int, int, int]] = []
    for phrase in _phrases(words):
        # A `Word` may be a class of several words, as in `prompts.class_embeddings`.
        pieces = [(piece, word) for word in phrase for piece in split_words(word.text)]
        breaks = {
            number
            for number, ((_, left), (_, right)) in enumerate(pairwise(pieces), 1)
            if any(ends_clause(token) or _is_special(token) for token in tokens[left.stop : right.start])
        }
        matches = find_names([piece for piece, _ in pieces], names, synonyms=synonyms, breaks=breaks)
        if phrase[0].stands_apart:  # the class's own name goes before a plural or synonym of it
            matches = [match for match in matches if _same(names[match[0]], phrase[0].text)] or matches
        spans += [(index, pieces[start][1].start, pieces[stop - 1][1].stop) for index, start, stop in matches]
    return spans


def _is_special(token: str) -> bool:
    """Whether a token is not part of a text: start, end or padding, which separate texts that were joined."""
    return token.startswith("<|") and token.endswith("|>")


def _phrases(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Runs of words that belong together: a word that stands apart is a run, and so are all words in between."""
    for _, run in groupby(enumerate(words), lambda numbered: numbered[0] if numbered[1].stands_apart else -1):
        yield [word for _, word in run]


def _same(name: str, other: str) -> bool:
    left, right = ([piece.casefold() for piece in split_words(text)] for text in (name, other))
    return left == right
