"""Masks without training: of names with `segment`, and without names with `regions`."""

from tadp.zero_shot.name_masks import NameMasks as NameMasks
from tadp.zero_shot.name_masks import segment as segment
from tadp.zero_shot.normalized_cut import regions as regions

__all__ = ["NameMasks", "regions", "segment"]
