"""Features, the output of a backbone, and `FeatureInfo`, the description of them that a head is built from."""

from tadp.features.attention_maps import AttentionMaps as AttentionMaps
from tadp.features.attention_maps import PooledMaps as PooledMaps
from tadp.features.attention_maps import WordMaps as WordMaps
from tadp.features.feature_maps import FeatureInfo as FeatureInfo
from tadp.features.feature_maps import Features as Features
from tadp.features.queries import LayerQueries as LayerQueries
from tadp.features.queries import RecordedQueries as RecordedQueries
from tadp.images.map_sizes import cells_of as cells_of
from tadp.images.map_sizes import resized as resized
from tadp.language.name_spans import Names as Names
from tadp.language.name_spans import Word as Word

__all__ = [
    "AttentionMaps",
    "FeatureInfo",
    "Features",
    "LayerQueries",
    "Names",
    "PooledMaps",
    "RecordedQueries",
    "Word",
    "WordMaps",
    "cells_of",
    "resized",
]
