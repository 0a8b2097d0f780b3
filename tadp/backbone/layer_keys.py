"""Queries of a pass as part of its features, and the keys of words that the text of the pass may lack."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from tadp.diffusion.attention import project
from tadp.diffusion.families import Layout
from tadp.features import LayerQueries, RecordedQueries
from tadp.text.conditioning import Conditioning


@dataclass(frozen=True, eq=False)
class KeysOfWords:
    """Computes keys of words with a backbone's text encoder and attention layers.

    Attributes:
        unet: The denoiser of the pass.
        names: Names of its attention layers.
        text: The text of the pass, one per image, as the denoiser takes it.
        encode: Encodes words to what the denoiser takes.
    """

    unet: nn.Module
    names: tuple[str, ...]
    text: Conditioning
    encode: Callable[[Sequence[str]], Conditioning]

    def __call__(self, words: Sequence[str]) -> Mapping[str, tuple[Tensor, Tensor | None, list[Tensor]]]:
        """The keys of the text and of the words in each layer, as described by `tadp.features.queries.LayerKeys`."""
        encoded = self.encode(words)
        tokens = [
            embeddings[spans[0].start : spans[-1].stop]
            for embeddings, spans in zip(encoded.embeddings, encoded.words or (), strict=True)
        ]
        mask = None
        if self.text.mask is not None:  # the bias that the pass adds for masked tokens
            mask = ((1 - self.text.mask.to(encoded.embeddings.dtype)) * -10000.0).unsqueeze(1)
        keys = {}
        for name in self.names:
            layer: Any = self.unet.get_submodule(name)
            keys[name] = project(layer.to_k, self.text.embeddings), mask, [project(layer.to_k, each) for each in tokens]
        return keys


def split_queries(
    attention: Mapping[int, Tensor],
    unet: nn.Module,
    layout: Layout,
    text: Conditioning,
    encode: Callable[[Sequence[str]], Conditioning],
) -> tuple[dict[int, Tensor], RecordedQueries]:
    """Split the result of a pass with `record_queries` into attention and queries.

    Args:
        attention: Attention of each level, followed by the channels of queries and keys.
        unet: The denoiser.
        layout: Its layout.
        text: The text of the pass, as the denoiser takes it: one text for all images, or one per image.
        encode: Encodes words to what the denoiser takes.
    """
    own: dict[int, Tensor] = {}
    layers: dict[int, dict[str, LayerQueries]] = {}
    for level, maps in attention.items():
        names = [name for name, number in layout.attention_layers.items() if number == level]
        count = layout.query_channels(level)
        own[level], queries = maps.split([maps.shape[1] - count, count], dim=1)
        parts = iter(queries.chunk(3 * len(names), dim=1))
        layers[level] = {}
        for name in names:
            module: Any = unet.get_submodule(name)
            self_query, self_key, query = next(parts), next(parts), next(parts)
            layers[level][name] = LayerQueries(query, self_query, self_key, module.heads)
    text = text.expand(len(next(iter(own.values()))))
    return own, RecordedQueries(layers, KeysOfWords(unet, tuple(layout.attention_layers), text, encode))
