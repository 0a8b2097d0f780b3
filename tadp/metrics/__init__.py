"""Metrics for segmentation, depth, detection and captions.

    metric = MeanIoU(["ground", "dog", "cat"])
    for batch in batches:
        metric.update(logits, masks)           # tensors on any device, or arrays; a batch or one image
    result = metric.compute()                  # immutable; print(result) shows a table
    metric.merge(other)                        # add the images of another process's metric, which can be pickled

`MeanIoU`, `DepthMetrics`, `VOCDetection` and `COCODetection` are updated batch by batch. They store counts or, for
detection, boxes and scores, but no images. The result does not depend on how images are grouped into batches, and a
batch that raises an error changes nothing. Every image that is passed counts, so a sampler that repeats images to give
each process as many (torch's `DistributedSampler`) changes the result: give each process its own part of the data set,
`torch.utils.data.Subset(data, range(rank, len(data), world_size))`. `caption_alignment` measures captions and does not
need torch; the other metrics import torch when they are first used.
"""

from typing import TYPE_CHECKING

from tadp._lazy import lazy
from tadp.metrics.alignment import Agreement, CaptionAlignment, caption_alignment

if TYPE_CHECKING:
    from tadp.metrics.coco import COCODetection as COCODetection
    from tadp.metrics.coco import COCODetectionResult as COCODetectionResult
    from tadp.metrics.depth import DepthMetrics as DepthMetrics
    from tadp.metrics.depth import DepthMetricsResult as DepthMetricsResult
    from tadp.metrics.detection import COCO_IOUS as COCO_IOUS
    from tadp.metrics.detection import BoxesAbove as BoxesAbove
    from tadp.metrics.detection import VOCDetection as VOCDetection
    from tadp.metrics.detection import VOCDetectionResult as VOCDetectionResult
    from tadp.metrics.segmentation import MeanIoU as MeanIoU
    from tadp.metrics.segmentation import MeanIoUResult as MeanIoUResult

_HOMES = {
    "BoxesAbove": "detection",
    "COCO_IOUS": "detection",
    "COCODetection": "coco",
    "COCODetectionResult": "coco",
    "DepthMetrics": "depth",
    "DepthMetricsResult": "depth",
    "MeanIoU": "segmentation",
    "MeanIoUResult": "segmentation",
    "VOCDetection": "detection",
    "VOCDetectionResult": "detection",
}
__all__ = [
    "COCO_IOUS",
    "Agreement",
    "BoxesAbove",
    "COCODetection",
    "COCODetectionResult",
    "CaptionAlignment",
    "DepthMetrics",
    "DepthMetricsResult",
    "MeanIoU",
    "MeanIoUResult",
    "VOCDetection",
    "VOCDetectionResult",
    "caption_alignment",
]
__getattr__, __dir__ = lazy(__name__, _HOMES, names=__all__)
