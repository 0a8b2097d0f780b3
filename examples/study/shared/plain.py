"""A plain convolutional encoder, trained from scratch: what a network of the U-Net's size learns by itself."""

from typing import Any

from torch import Tensor, nn

from tadp.features import FeatureInfo, Features
from tadp.heads import SegmentationHead
from tadp.tasks import SegmentationOutput
from tadp.training import losses
from tadp.training.parameter_groups import decay_groups

WIDTHS, BLOCKS = (32, 64, 96, 192, 224, 320), 1  # of strides 2 to 64; 4.8 M parameters, as tadp-tiny's U-Net


class _Block(nn.Module):
    """Two 3x3 convolutions, and what came in added."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return (maps + self.layers(maps)).relu()


class PlainSegmentation(nn.Module):
    """Convolutions at strides 2 to 64, and the segmentation head on the last four.

    It has the methods of a task model that the study calls, and takes no text.

    Args:
        num_classes: Background included.
        head_options: Of `SegmentationHead`.
    """

    def __init__(self, *, num_classes: int, head_options: dict[str, Any]):
        super().__init__()
        self.stages = nn.ModuleList()
        before = 3
        for number, width in enumerate(WIDTHS):
            blocks = [_Block(width) for _ in range(BLOCKS if number > 1 else 0)]
            entry = nn.Sequential(nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.GroupNorm(8, width))
            self.stages.append(nn.Sequential(entry, nn.ReLU(), *blocks))
            before = width
        info = FeatureInfo(channels=WIDTHS[2:], reduction=(8, 16, 32, 64))
        self.head = SegmentationHead(info, num_classes=num_classes, **head_options)

    def features(self, images: Tensor | None, text: object = None, *, latents: Tensor | None = None) -> Features:
        """Maps of strides 8 to 64; the text is not read."""
        if images is None or latents is not None:
            raise ValueError("a plain encoder takes images.")
        size, maps, one = (images.shape[2], images.shape[3]), [], 2 * images - 1
        for stage in self.stages:
            one = stage(one)
            maps.append(one)
        return Features(tuple(maps[2:]), None, size)

    def from_features(self, features: Features, masks: Tensor | None = None) -> SegmentationOutput:
        """Logits, and the loss if masks are given."""
        logits = self.head(features)
        return SegmentationOutput(logits, None if masks is None else losses.cross_entropy(logits, masks))

    def parameter_groups(self, lr: float, *, unet_scale: float, weight_decay: float) -> list[dict[str, Any]]:
        """All of it at the head's rate, as nothing of it was trained before."""
        return decay_groups(self, lr=lr, weight_decay=weight_decay)
