"""The two stages of Faster R-CNN, built from torchvision's parts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tadp.errors import MissingExtraError
from tadp.files.checks import needs

if TYPE_CHECKING:
    from torchvision.models.detection.roi_heads import RoIHeads
    from torchvision.models.detection.rpn import RegionProposalNetwork


def build_stages(
    strides: Sequence[int],
    *,
    num_classes: int,
    channels: int,
    hidden_channels: int,
    anchors_per_cell: int,
    score_threshold: float,
    nms_iou: float,
    max_detections: int,
    max_proposals: int,
    samples_per_image: int,
) -> "tuple[RegionProposalNetwork, RoIHeads]":
    """Build the two stages, with the constants of torchvision's own Faster R-CNN."""
    try:
        with needs("detection needs torchvision", install="pip install 'tadp[detection]'"):
            from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
            from torchvision.models.detection.roi_heads import RoIHeads
            from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
    except RuntimeError as error:  # "operator torchvision::nms does not exist"
        raise MissingExtraError(
            f"the installed torchvision was built for another torch than {torch.__version__} ({error}). Reinstall "
            "both: pip install -U torch 'tadp[detection]'."
        ) from error
    no_anchors: Any = None  # `DetectionHead` places the anchors
    proposals = {"training": 2 * max_proposals, "testing": max_proposals}
    rpn = RegionProposalNetwork(
        no_anchors,
        RPNHead(channels, anchors_per_cell),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=proposals,
        post_nms_top_n=proposals,
        nms_thresh=0.7,
    )
    roi_heads = RoIHeads(
        _pooler(strides),
        TwoMLPHead(channels * 7**2, hidden_channels),
        FastRCNNPredictor(hidden_channels, num_classes + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=samples_per_image,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=score_threshold,
        nms_thresh=nms_iou,
        detections_per_img=max_detections,
    )
    return rpn, roi_heads


def _pooler(strides: Sequence[int]) -> nn.Module:
    """Build a pooler with the right strides. By default it guesses them from the first maps, which may be too small."""
    from torchvision.ops import MultiScaleRoIAlign

    pooler = MultiScaleRoIAlign([str(level) for level in range(len(strides))], output_size=7, sampling_ratio=2)
    side = strides[-1]
    with torch.device("cpu"):  # even if the head is built on another device, such as "meta"
        maps = {str(level): torch.zeros(1, 1, side // stride, side // stride) for level, stride in enumerate(strides)}
        pooler(maps, [torch.tensor([[0.0, 0.0, side, side]])], [(side, side)])
    pooler.scales = [1 / stride for stride in strides]  # the pooler rounded them to powers of 2
    return pooler
