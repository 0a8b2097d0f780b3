"""A feature pyramid: all levels have the same number of channels, and each receives the coarser levels."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from tadp.features import FeatureInfo
from tadp.files.checks import check_counts
from tadp.heads.maps import check_info, enlarge


class FPN(nn.Module):
    """A feature pyramid network.

    The map of each level goes through a 1x1 ("lateral") convolution. Then the enlarged sum of the next coarser level is
    added, and a 3x3 convolution gives the level's output. Without `output_convs`, the sum is the output.

    The arithmetic is the same as in mmsegmentation's neck `FPN` and torchvision's `FeaturePyramidNetwork`, where the
    parts have these names:

        here                  mmsegmentation             torchvision
        lateral_convs.{k}     lateral_convs.{k}.conv     inner_blocks.{k}.0
        fpn_convs.{k}         fpn_convs.{k}.conv         layer_blocks.{k}.0

    Each part has a `weight` and a `bias`.

    Args:
        feature_info: Channels and strides of the levels, as in `backbone.feature_info`.
        channels: Number of channels of every output map.
        output_convs: Whether each level has the 3x3 convolution.

    Raises:
        ValueError: If the strides do not grow by a factor of 2, 4, 8, ... from level to level, or `channels` is below
            1.

    Source:
        Lin et al., Feature Pyramid Networks; TADP's mm_configs, with 256 channels and four output maps.
    """

    def __init__(self, feature_info: FeatureInfo, *, channels: int = 256, output_convs: bool = True):
        super().__init__()
        check_info(feature_info)
        check_counts(channels=channels)
        self.feature_info = feature_info
        self.lateral_convs = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in feature_info.channels)
        self.fpn_convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) if output_convs else nn.Identity()
            for _ in feature_info.channels
        )
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.xavier_uniform_(conv.weight)
                nn.init.zeros_(conv.bias)  # type: ignore

    def forward(self, maps: Sequence[Float[Tensor, "_b _c _h _w"]]) -> list[Float[Tensor, "_b _d _h _w"]]:
        """Return maps of the same sizes as `maps`, each (B, channels, h, w), finest first."""
        laterals = [conv(level_map) for conv, level_map in zip(self.lateral_convs, maps, strict=True)]
        strides = self.feature_info.reduction
        for finer, coarser in reversed(list(pairwise(range(len(laterals))))):
            size = (laterals[finer].shape[2], laterals[finer].shape[3])
            from_above = enlarge(laterals[coarser], strides[coarser] // strides[finer], size=size, mode="nearest")
            laterals[finer] = laterals[finer] + from_above
        return [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals, strict=True)]
