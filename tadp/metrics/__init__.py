"""Figures of merit.

    metric = MeanIoU(13)
    for batch in batches:
        metric.update(logits, masks)           # tensors of any device and dtype
    result = metric.compute()                  # frozen; print(result) is a table
    metric.merge(other)                        # what another process counted; a metric can be pickled

`MeanIoU`, `DepthMetrics`, `VOCDetection` and `COCODetection` are fed batch by batch and keep counts, or, of detections,
what their rule needs; never images. Fed one by one or in batches, they give the same. A batch that is refused changes
nothing. `caption_alignment` measures captions, and needs no torch; the others load it when first used.
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
    from tadp.metrics.detection import VOCDetection as VOCDetection
    from tadp.metrics.detection import VOCDetectionResult as VOCDetectionResult
    from tadp.metrics.segmentation import MeanIoU as MeanIoU
    from tadp.metrics.segmentation import MeanIoUResult as MeanIoUResult

_HOMES = {
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
