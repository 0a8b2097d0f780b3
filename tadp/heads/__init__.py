"""Heads: from features to class scores, depth or boxes.

    head = tadp.heads.SegmentationHead(backbone.feature_info, num_classes=13)
    logits = head(backbone(images, captions))  # (B, 13, H, W)

To build a head, only a `FeatureInfo` is needed. The head then takes features of any image size, from any backbone with
the same `FeatureInfo`: either `Features`, or a list of maps, finest first.
"""

from tadp.heads.depth import DepthHead as DepthHead
from tadp.heads.detection import DetectionHead as DetectionHead
from tadp.heads.fpn import FPN as FPN
from tadp.heads.linear import LinearHead as LinearHead
from tadp.heads.segmentation import SegmentationHead as SegmentationHead
from tadp.heads.segmentation import SMPSegmentationHead as SMPSegmentationHead

__all__ = ["FPN", "DepthHead", "DetectionHead", "LinearHead", "SMPSegmentationHead", "SegmentationHead"]
