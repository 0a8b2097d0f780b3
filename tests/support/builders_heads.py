"""Maps as a backbone returns them, and small heads of every kind. The same seed gives the same weights."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tadp.features import FeatureInfo, Features
from tadp.heads import DepthHead, DetectionHead, LinearHead, SegmentationHead, SMPSegmentationHead
from tadp.images.boxes import Boxes

INFO = FeatureInfo(channels=(16, 21, 32, 8), reduction=(8, 16, 32, 64))
CLASSES = 5


def build_maps(
    height: int,
    width: int,
    *,
    info: FeatureInfo = INFO,
    batch: int = 2,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Random maps, as a backbone would return them for images of that height and width in pixels."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, channels, math.ceil(height / stride), math.ceil(width / stride), generator=generator).to(
            dtype or torch.float32
        )
        for channels, stride in zip(info.channels, info.reduction, strict=True)
    ]


def build_features(height: int, width: int, **options: Any) -> Features:
    return Features(tuple(build_maps(height, width, **options)), None, (height, width))


def _seeded(make: Callable[[], nn.Module]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def build_segmentation(info: FeatureInfo = INFO, **options: Any) -> SegmentationHead:
    options = {"num_classes": CLASSES, "fpn_channels": 8, "channels": 12} | options
    return _seeded(lambda: SegmentationHead(info, **options))


def build_smp(info: FeatureInfo = INFO, **options: Any) -> SMPSegmentationHead:
    options = {"num_classes": CLASSES, "fpn_channels": 8, "channels": 64} | options
    return _seeded(lambda: SMPSegmentationHead(info, **options))


def build_depth(info: FeatureInfo = INFO, **options: Any) -> DepthHead:
    options = {"max_depth_m": 10.0, "channels": 4, "deconv_channels": (6, 6, 6)} | options
    return _seeded(lambda: DepthHead(info, **options))


def build_linear(info: FeatureInfo = INFO, **options: Any) -> LinearHead:
    return _seeded(lambda: LinearHead(info, **({"num_classes": CLASSES} | options)))


def build_detection(info: FeatureInfo = INFO, **options: Any) -> DetectionHead:
    """A detection head whose random weights are large enough to give boxes different scores."""
    options = {"num_classes": CLASSES, "channels": 8, "hidden_channels": 16, "score_threshold": 0.0} | options
    head = _seeded(lambda: DetectionHead(info, **options))
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if "rpn.head" in name:
                parameter *= 5
    return head


def build_targets(height: int, width: int) -> list[Boxes]:
    """Boxes of two images: the first has two objects, the second has none."""
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.5, 0.1, 0.95, 0.4]]) * torch.tensor([width, height, width, height])
    return [
        Boxes(boxes, torch.tensor([1, CLASSES - 1])),
        Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
    ]


def run_head(head: nn.Module, maps: Features | list[Tensor], **options: Any) -> Tensor:
    """A scalar that depends on the whole output of a head."""
    if not isinstance(head, DetectionHead):
        return head(maps, **options).float().square().mean()
    size = maps.image_size if isinstance(maps, Features) else (maps[0].shape[2] * 8, maps[0].shape[3] * 8)
    return torch.stack(list(head(maps, build_targets(*size), **options).values())).sum()
