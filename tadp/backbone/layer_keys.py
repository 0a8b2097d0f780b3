"""Queries of a pass as part of its features, and the keys of words that the text of the pass may lack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tadp.diffusion.attention import project
from tadp.features import LayerQueries, RecordedQueries
from tadp.text.conditioning import Conditioning

if TYPE_CHECKING:
    from tadp.backbone.feature_model import FeatureModel


@dataclass(frozen=True, eq=False)
class KeysOfWords:
    """Computes keys of words with a backbone's text encoder and attention layers.

    Attributes:
        backbone: The backbone of the pass.
        text: The encoded text of the pass, one per image.
    """

    backbone: "FeatureModel"
    text: Conditioning

    def __call__(self, names: Sequence[str]) -> Mapping[str, tuple[Tensor, Tensor | None, list[Tensor]]]:
        """The keys of the text and of the names in each layer, as described by `tadp.features.queries.LayerKeys`."""
        encoded = self.backbone.adapted(self.backbone.encode_text(names), self.text.embeddings.device)
        words = encoded.words or ()
        tokens = [
            embeddings[min(word.start for word in spans) : max(word.stop for word in spans)]
            for embeddings, spans in zip(encoded.embeddings, words, strict=True)
        ]
        mask = None
        if self.text.mask is not None:  # the bias that the pass adds for masked tokens
            mask = ((1 - self.text.mask.to(encoded.embeddings.dtype)) * -10000.0).unsqueeze(1)
        modules: dict[str, Any] = dict(self.backbone.unet.named_modules())
        keys = {}
        for name in self.backbone.layout.attention_layers:
            to_k = modules[name].to_k
            keys[name] = project(to_k, self.text.embeddings), mask, [project(to_k, each) for each in tokens]
        return keys


def split_queries(
    backbone: "FeatureModel", attention: Mapping[int, Tensor], text: Conditioning
) -> tuple[dict[int, Tensor], RecordedQueries]:
    """Split the result of a pass with `record_queries` into attention and queries.

    Args:
        backbone: The backbone of the pass.
        attention: Attention of each level, followed by the channels of queries and keys.
        text: The encoded text: one text for all images, or one per image.
    """
    own: dict[int, Tensor] = {}
    layers: dict[int, dict[str, LayerQueries]] = {}
    modules: dict[str, Any] = dict(backbone.unet.named_modules())
    for level, maps in attention.items():
        names = [name for name, number in backbone.layout.attention_layers.items() if number == level]
        count = backbone.layout.query_channels(level)
        own[level], queries = maps.split([maps.shape[1] - count, count], dim=1)
        parts = queries.chunk(3 * len(names), dim=1)
        layers[level] = {
            name: LayerQueries(parts[3 * k + 2], parts[3 * k], parts[3 * k + 1], modules[name].heads)
            for k, name in enumerate(names)
        }
    batch = len(next(iter(own.values())))
    prepared = backbone.adapted(text, next(iter(own.values())).device).expand(batch)
    return own, RecordedQueries(layers, KeysOfWords(backbone, prepared))
