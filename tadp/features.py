"""What a backbone returns, and what a head needs to know before it sees any."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tadp.language.matching import Synonyms, ends_clause, find_names, readable, split_words

_SHOWN = 8  # names of pooled maps in their repr


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
    """A word of a caption and the tokens it became: positions `start` up to, not including, `stop`.

    One that stands apart was encoded by itself, as class names are: it makes no phrase with its neighbours.
    """

    text: str
    start: int
    stop: int
    stands_apart: bool = False


class Names(str):
    """A prompt that is names with spaces between, and knows where each ends; else a string like any other.

    What the text encoder is given is the string. Its words are the names, each apart, as in class embeddings, so that
    "hot" beside "dog" is no "hot dog". What is made of it by `str` methods is a plain string, and so is what is read
    from a file.

    Args:
        names: In their order; "_" becomes a space.

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
class PooledMaps:
    """Attention by name: as many channels as names, whatever the texts.

    Attributes:
        maps: (B, K, h, w) for K names, in [0, 1]; zero where an image's text does not have the name.
        names: The K names.
        present: (B, K), whether the image's text has the name.
    """

    maps: Float[Tensor, "b k _h _w"]
    names: tuple[str, ...]
    present: Bool[Tensor, "b k"]

    def __repr__(self) -> str:
        more = f" and {len(self.names) - _SHOWN} more" * (len(self.names) > _SHOWN)
        return f"PooledMaps({', '.join(self.names[:_SHOWN])}{more}; maps {tuple(self.maps.shape)})"

    def missing(self) -> tuple[tuple[str, ...], ...]:
        """For each image, the names that its text does not have."""
        return tuple(
            tuple(name for name, there in zip(self.names, row, strict=True) if not there)
            for row in self.present.tolist()
        )


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Cross-attention from each cell of the image to each token of its text.

    Probabilities, averaged over heads and over the layers of a level, so that each cell's values sum to one over the
    tokens; of a model with joint attention (SD 3, FLUX), to what the cell pays to the text, at most one.
    Iterating over levels: `for level in attention.levels: attention.at(level)`.

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
        return tuple(
            WordMaps(
                tuple(word.text for word in spans),
                torch.stack([one[word.start : word.stop].mean(dim=0) for word in spans]) if spans else one[:0],
            )
            for one, spans in zip(self.at(level), self._words(), strict=True)
        )

    def pool(self, names: Sequence[str], level: int, *, synonyms: Synonyms | None = None) -> PooledMaps:
        """Attention at one level by name, of the same width for every text.

        A name is a word, a noun or a class of several words, found as `tadp.language.matching.mentions` finds it: case
        does not matter, a plural counts as its singular, and of names that overlap the longest counts. No name runs
        over two texts that were joined; in class embeddings and in prompts that are `Names` none runs over two classes,
        and a class that is itself a name counts for that one alone. A name's map is the mean over its tokens, and over
        its occurrences, so that a single word has the map of `words`, and a value means the same however long the name
        and the text are: the attention that one token of it gets.

        Args:
            names: K names, the order of the channels.
            level: One that was recorded; `levels` lists them.
            synonyms: Further words for a name, `{"person": ["man", "woman"]}`.

        Returns:
            Maps (B, K, h, w), zero for a name that a text lacks, which `present` and `missing()` report. The gradient
            flows to the attention.

        Raises:
            ValueError: If the level was not recorded, the text carried no words, there are no names, or a name has
                neither letter nor digit.
            TypeError: If a name is not a string, or `names` is one.
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
        maps: Finest first; level k is (B, channels[k], ceil(H / reduction[k]), ceil(W / reduction[k])).
        attention: The recorded cross-attention; None if none was recorded.
        image_size: (height, width) of the images in pixels.
        vae_map: If asked for, the VAE encoder's map at half the finest stride, (B, C, ceil(H / 4), ceil(W / 4)) for
            Stable Diffusion; it is none of the levels, and has no gradient.
    """

    maps: tuple[Float[Tensor, "_b _c _h _w"], ...]
    attention: AttentionMaps | None
    image_size: tuple[int, int]
    vae_map: Float[Tensor, "_b _c _h _w"] | None = None

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(one.shape)) for one in self.maps)
        return f"Features(maps=({shapes}), attention={self.attention}, image_size={self.image_size})"


def _occurrences(
    words: Sequence[Word], tokens: Sequence[str], names: Sequence[str], synonyms: Synonyms | None
) -> list[tuple[int, int, int]]:
    """Names among a text's words: (index of the name, first token, one past the last)."""
    found: list[tuple[int, int, int]] = []
    for phrase in _phrases(words):
        # A word may be a class of several words, as in `prompts.class_embeddings`.
        pieces = [(piece, word) for word in phrase for piece in split_words(word.text)]
        breaks = {
            number
            for number, ((_, left), (_, right)) in enumerate(pairwise(pieces), 1)
            if any(ends_clause(token) or _is_special(token) for token in tokens[left.stop : right.start])
        }
        here = find_names([piece for piece, _ in pieces], names, synonyms=synonyms, breaks=breaks)
        if phrase[0].stands_apart:  # its own name before a plural or synonym of it
            here = [one for one in here if _same(names[one[0]], phrase[0].text)] or here
        found += [(index, pieces[start][1].start, pieces[stop - 1][1].stop) for index, start, stop in here]
    return found


def _is_special(token: str) -> bool:
    """Whether a token is none of a text, as start, end and padding, which stand between texts that were joined."""
    return token.startswith("<|") and token.endswith("|>")


def _phrases(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Runs of words that belong together: each that stands apart by itself, and all between."""
    for _, run in groupby(enumerate(words), lambda one: one[0] if one[1].stands_apart else -1):
        yield [word for _, word in run]


def _same(name: str, other: str) -> bool:
    left, right = ([piece.casefold() for piece in split_words(text)] for text in (name, other))
    return left == right
