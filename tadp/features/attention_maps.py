"""Attention of the cells of an image to the tokens, words and names of its text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tadp.images.map_sizes import resized
from tadp.language.matching import Synonyms
from tadp.language.name_spans import Word, occurrences
from tadp.web.page import attention_page, frame

_SHOWN = 8  # how many names the repr of pooled maps lists


@dataclass(frozen=True, eq=False)
class WordMaps:
    """Attention maps of one image, one per word of its caption, in the order of the words.

    Attributes:
        words: The W words of the caption. A word that occurs twice is listed twice.
        maps: Attention of each cell to each word, averaged over the word's tokens, (W, h, w), in [0, 1].
    """

    words: tuple[str, ...]
    maps: Float[Tensor, "w _h _w"]

    def __repr__(self) -> str:
        return f"WordMaps({', '.join(self.words)}; maps {tuple(self.maps.shape)})"

    def _repr_html_(self) -> str | None:
        """The maps as a page, which notebooks show."""
        if not self.words or not self.maps.isfinite().all():
            return None
        words = [Word(word, position, position + 1) for position, word in enumerate(self.words)]
        size = self.maps.shape[1], self.maps.shape[2]
        return frame(attention_page({0: self.maps}, image_size=size, tokens=self.words, words=words))

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
    """Attention averaged per name, with one channel per name whatever the texts of the images are.

    Attributes:
        maps: Attention of each cell to each of K names, (B, K, h, w), in [0, 1]. From `AttentionMaps.pool`, it is zero
            if the image's text does not contain the name.
        names: The K names, in the order of the channels.
        present: Whether each image's text contains each name, (B, K), bool.
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

    The values are probabilities, averaged over the attention heads and layers of a level, so the values of a cell sum
    to one over the tokens. In models with joint attention (Stable Diffusion 3, FLUX), a cell attends to the text and to
    the image, and its values sum to the share of the text, which is at most one. To iterate over the levels, write
    `for level in attention.levels: attention.at(level)`.

    Attributes:
        maps: Attention of each recorded level, by level, (B, L, h, w) with one channel per token.
        tokens: For each image, the L tokens of its text as strings; empty strings if they are not known.
        spans: For each image, the words of its text and the positions of their tokens; None if the words are not known,
            as for embeddings that were computed elsewhere.
        head_maps: Attention of each head, by level, (B, heads, L, h, w). Empty unless the backbone's option
            `record_heads` is set.
        cells: By level, how many rows and columns of cells the image covers, such as (7.5, 10.0) if it ends in the
            middle of the eighth row. A level that is not listed covers the image exactly.
    """

    maps: Mapping[int, Float[Tensor, "_b _l _h _w"]]
    tokens: tuple[tuple[str, ...], ...]
    spans: tuple[tuple[Word, ...], ...] | None = None
    head_maps: Mapping[int, Float[Tensor, "_b _k _l _h _w"]] = field(default_factory=dict)
    cells: Mapping[int, tuple[float, float]] = field(default_factory=dict)

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
                f"backbone with record_attention=({level},), and include {level} in levels= if you pass that."
            )
        return self.maps[level]

    def heads(self, level: int) -> Float[Tensor, "b k l h w"]:
        """Attention of each head at one level, (B, heads, L, h, w), whose mean over the heads is `at(level)`.

        In a U-Net, several layers belong to a level. Their heads follow each other in the order in which the layers
        run, that of `backbone.layout.attention_layers`: of 8 heads per layer, head 10 is the third of the second layer.

        Raises:
            ValueError: If the heads of this level were not recorded.
        """
        if level not in self.head_maps:
            raise ValueError(
                f"no attention per head at level {level}. Build the backbone with record_attention=({level},) and "
                "record_heads=True."
            )
        return self.head_maps[level]

    def head(self, number: int) -> "AttentionMaps":
        """Return the attention of one head, at every level that has it: a single head has `words` and `pool`, too.

        Args:
            number: Number of the head, counted from 0, in the order of `heads`.

        Raises:
            ValueError: If no level has such a head, or heads were not recorded.
        """
        maps = {level: heads[:, number] for level, heads in self.head_maps.items() if 0 <= number < heads.shape[1]}
        if not maps:
            counts = ", ".join(f"{heads.shape[1]} at level {level}" for level, heads in self.head_maps.items())
            fix = f"recorded: {counts}." if counts else "build the backbone with record_heads=True."
            raise ValueError(f"no attention of head {number!r}; {fix}")
        return replace(self, maps=maps, head_maps={})

    def mean_over_levels(self, size: tuple[int, int], *, levels: Sequence[int] | None = None) -> "AttentionMaps":
        """Resize the attention of several levels to one size and average it, as in Figure 4 of the paper.

        Levels have equal weights. In Stable Diffusion 1.x, all levels have the same number of layers and heads, so this
        is the mean over all heads. Gradients flow back to the attention.

        Args:
            size: Height and width of the result in cells. The paper's is (64, 64).
            levels: The levels to average; None is all that were recorded.

        Returns:
            Attention with a single level, 0, which covers the image exactly: `at(0)` is (B, L, height, width).

        Raises:
            ValueError: If `levels` is empty, a level was not recorded, or a side of `size` is less than 1.

        Source:
            TADP Fig. 4. The released code draws each layer separately. The U-Net's middle block is left out here.
        """
        chosen = self.levels if levels is None else tuple(levels)
        if not chosen:
            raise ValueError("pass at least one level.")
        maps = [resized(self.at(level), size, cells=self.cells.get(level)) for level in chosen]
        return replace(self, maps={0: torch.stack(maps).mean(dim=0)}, head_maps={}, cells={})

    def words(self, level: int) -> tuple[WordMaps, ...]:
        """Return the attention per word at one level, averaged over the tokens of each word.

        Args:
            level: A level that was recorded; `levels` lists them.

        Returns:
            One `WordMaps` per image.

        Raises:
            ValueError: If the level was not recorded, or the words of the text are not known, as for embeddings that
                were computed elsewhere.
        """
        return tuple(
            WordMaps(
                tuple(word.text for word in spans),
                torch.stack([maps[word.start : word.stop].mean(dim=0) for word in spans]) if spans else maps[:0],
            )
            for maps, spans in zip(self.at(level), self._words(), strict=True)
        )

    def pool(self, names: Sequence[str], level: int, *, synonyms: Synonyms | None = None) -> PooledMaps:
        """Return the attention per name at one level, with one channel per name for every text.

        A name is a word, a noun, or a class of several words. Names are found in the text as in
        `tadp.language.matching.mentions`: case does not matter, a plural counts as its singular, and the longest of
        several overlapping names counts. A name never spans two texts that were joined. In class embeddings and in
        prompts that are `Names`, a name never spans two classes, and a class that is itself a name only counts for that
        name. A name's map is the mean over its tokens and its occurrences, so it is the attention that one token of the
        name gets, however long the name and the text are. For a single word, it equals the map in `words`.

        Args:
            names: The K names, in the order of the channels.
            level: A level that was recorded; `levels` lists them.
            synonyms: Further words for each name, such as `{"person": ["man", "woman"]}`; None adds no words.

        Returns:
            The maps, (B, K, h, w), which are zero where a text does not contain a name; `present` and `missing()`
            report such names. Gradients flow back to the attention.

        Raises:
            ValueError: If the level was not recorded, the words of the text are not known, `names` is empty, or a name
                has neither letters nor digits.
            TypeError: If a name is not a string, or `names` is a single string.
        """
        maps = self.at(level)
        if not names:
            raise ValueError("no names to pool by; give at least one.")
        weights = torch.zeros(maps.shape[0], len(names), maps.shape[1])
        counts = torch.zeros(maps.shape[0], len(names), 1)
        for image, (tokens, words) in enumerate(zip(self.tokens, self._words(), strict=True)):
            for index, start, stop in occurrences(words, tokens, names, synonyms):
                weights[image, index, start:stop] += 1 / (stop - start)
                counts[image, index] += 1
        weights = (weights / counts.clamp(min=1)).to(maps.device, maps.dtype)
        pooled = torch.einsum("bkl,blhw->bkhw", weights, maps)
        return PooledMaps(pooled, tuple(names), (counts[:, :, 0] > 0).to(maps.device))

    def _words(self) -> tuple[tuple[Word, ...], ...]:
        if self.spans is None:
            raise ValueError("this conditioning has no words; pass captions, or a Conditioning with `words`.")
        return self.spans
