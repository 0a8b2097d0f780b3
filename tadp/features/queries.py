"""Queries that were recorded in a pass, from which maps of words are computed that the text does not contain."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from tadp.language.matching import checked_names

ROWS = 1024  # rows of self-attention that are in memory at a time
# From names to the keys of the tokens of a layer: those of each image's text, (B, L, C), an additive mask of them,
# (B, 1, L), or None, and those of each name, (T, C) with its T tokens.
LayerKeys: TypeAlias = Callable[[Sequence[str]], Mapping[str, tuple[Tensor, Tensor | None, list[Tensor]]]]


@dataclass(frozen=True, eq=False)
class LayerQueries:
    """What one layer computed from each cell. Channels are those of the heads, one head after the other.

    Attributes:
        query: Queries of the cross-attention, (B, C, h, w).
        self_query: Queries of the self-attention before it, (B, C, h, w).
        self_key: Keys of this self-attention, (B, C, h, w).
        heads: Number of heads.
    """

    query: Float[Tensor, "b c h w"]
    self_query: Float[Tensor, "b c h w"]
    self_key: Float[Tensor, "b c h w"]
    heads: int


@dataclass(frozen=True, eq=False)
class RecordedQueries:
    """The queries of a pass, and a function for the keys of words. Features have it with `record_queries=True`.

    Attributes:
        layers: By level, the layers whose attention is recorded, by name.
        keys: The function that computes the keys of names in each layer.
    """

    layers: Mapping[int, Mapping[str, LayerQueries]]
    keys: LayerKeys

    def __repr__(self) -> str:
        return f"RecordedQueries(levels {', '.join(map(str, self.layers))})"

    def at(self, level: int) -> Mapping[str, LayerQueries]:
        """The layers of a level.

        Raises:
            ValueError: If the level was not recorded.
        """
        if level not in self.layers:
            raise ValueError(
                f"no queries at level {level}; recorded: {', '.join(map(str, self.layers))}. Build the backbone with "
                f"record_attention=({level},)."
            )
        return self.layers[level]

    def attend(self, names: Sequence[str], level: int) -> Float[Tensor, "b k h w"]:
        """Return the attention to names as if their tokens stood next to those of the text; see `Features.attend`."""
        chosen, _ = checked_names(names, None)
        if not chosen:
            raise ValueError("no names to attend to; give at least one.")
        keys = self.keys(chosen)
        maps = [self._attend(layer, *keys[name]) for name, layer in self.at(level).items()]
        return torch.stack(maps).mean(dim=0)

    @staticmethod
    def _attend(layer: LayerQueries, text: Tensor, mask: Tensor | None, names: list[Tensor]) -> Tensor:
        query = rearrange(layer.query.to(text.dtype), "b (k d) h w -> b k (h w) d", k=layer.heads)
        query = query * query.shape[-1] ** -0.5
        tokens = torch.cat([text, torch.cat(names).expand(len(text), -1, -1)], dim=1)
        scores = query @ rearrange(tokens, "b l (k d) -> b k d l", k=layer.heads)
        length = text.shape[1]
        if mask is not None:
            scores[..., :length] += mask.unsqueeze(1)
        precision = torch.promote_types(scores.dtype, torch.float32)
        attention = scores.softmax(dim=-1, dtype=precision)[..., length:].mean(dim=1)
        parts = [part.mean(dim=-1) for part in attention.split([len(name) for name in names], dim=-1)]
        height, width = layer.query.shape[2:]
        return rearrange(torch.stack(parts, dim=1), "b k (h w) -> b k h w", h=height, w=width).to(layer.query.dtype)

    def spread(self, maps: Float[Tensor, "b k h w"], level: int) -> Float[Tensor, "b k h w"]:
        """Average maps over the cells that each cell attends to, weighted by the self-attention of a level.

        The weights are the mean over the heads and layers of the level, so maps become flat within objects and sharp at
        their edges.

        Args:
            maps: Maps with the size of the level, (B, K, h, w).
            level: A recorded level.

        Raises:
            ValueError: If the level was not recorded.
        """
        values = rearrange(maps.float(), "b k h w -> b (h w) k")
        layers = [torch.cat([rows @ values for rows in _self_attention(layer)], dim=1) for layer in self._at(level)]
        return rearrange(torch.stack(layers).mean(dim=0), "b (h w) k -> b k h w", h=maps.shape[2])

    def self_attention(self, level: int) -> Float[Tensor, "b n n"]:
        """Return the self-attention of each of the N cells of a level to all cells, (B, N, N), in float32.

        It is the mean over the heads and layers of the level. Each row sums to one.

        Raises:
            ValueError: If the level was not recorded.
        """
        layers = [torch.cat(list(_self_attention(layer)), dim=1) for layer in self._at(level)]
        return torch.stack(layers).mean(dim=0)

    def _at(self, level: int) -> list[LayerQueries]:
        return list(self.at(level).values())


def _self_attention(layer: LayerQueries) -> Iterator[Float[Tensor, "b r n"]]:
    """The self-attention of a layer, averaged over heads, `ROWS` rows at a time."""
    query, key = (
        rearrange(tensor, "b (k d) h w -> b k (h w) d", k=layer.heads).float()
        for tensor in (layer.self_query, layer.self_key)
    )
    for rows in query.split(ROWS, dim=2):
        yield (rows * rows.shape[-1] ** -0.5 @ key.transpose(2, 3)).softmax(dim=-1).mean(dim=1)
