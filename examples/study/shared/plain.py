"""A plain convolutional encoder of the U-Net's size, trained from scratch, to show what pre-training adds."""

from typing import Any

from torch import Tensor, nn

from tadp.features import FeatureInfo, Features
from tadp.heads import SegmentationHead
from tadp.tasks import SegmentationOutput
from tadp.training import losses
from tadp.training.schedules import Groups, decay_groups

WIDTHS, BLOCKS = (32, 64, 96, 192, 224, 320), 1  # at strides 2 to 64; 4.8 M parameters, like tadp-tiny's U-Net


class _Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

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
    """Convolutions at strides 2 to 64, with the segmentation head on the last four levels.

    It has those methods of a task model that the study calls, and takes no text.

    Args:
        num_classes: Number of classes, including the background.
        head_options: Options of `SegmentationHead`.
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
        """Feature maps at strides 8 to 64. The text is ignored."""
        if images is None or latents is not None:
            raise ValueError("a plain encoder takes images.")
        size, maps = (images.shape[2], images.shape[3]), [2 * images - 1]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return Features(tuple(maps[3:]), None, size)

    def from_features(self, features: Features, masks: Tensor | None = None) -> SegmentationOutput:
        """The logits, and the loss if masks are given."""
        logits = self.head(features)
        return SegmentationOutput(logits, None if masks is None else losses.cross_entropy(logits, masks))

    def parameter_groups(
        self, lr: float, *, unet_scale: float, weight_decay: float, groups: Groups
    ) -> list[dict[str, Any]]:
        """All parameters at the head's learning rate, because none of them is pre-trained."""
        return decay_groups(self, lr=lr, weight_decay=weight_decay, groups=groups)
