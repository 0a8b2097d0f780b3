"""A ResNet-18 without pretrained weights as a model of the trainer, to compare a diffusion backbone with.

The model is a segmentation model whose features are the pixels, and whose head is the ResNet with the usual head on its
four maps. So the data, the augmentation, the loss, the loop and the test are those of every other model.
"""

from typing import Any

from torch import Tensor, nn
from torchvision.models import resnet18

from tadp.backbone import TADPBackbone
from tadp.features import FeatureInfo, Features
from tadp.heads import SegmentationHead
from tadp.images import to_tensor
from tadp.tasks import PromptMode, TADPForSemanticSegmentation
from tadp.trainer.recipes import Recipe
from tadp.trainer.trained_task import SegmentationTraining

MAPS = FeatureInfo(channels=(64, 128, 256, 512), reduction=(4, 8, 16, 32))  # of the four stages of a ResNet-18
_MEAN, _STD = 0.45, 0.225  # of ImageNet's pixels, as a mean over the colours


class ResNetHead(nn.Module):
    """A ResNet-18 with random weights, and a segmentation head on its maps.

    Args:
        num_classes: Number of classes.
        **options: Further arguments of `SegmentationHead`.
    """

    feature_info = FeatureInfo(channels=(3,), reduction=(1,))  # pixels

    def __init__(self, num_classes: int, **options: Any):
        super().__init__()
        resnet = resnet18(weights=None)
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.stages = nn.ModuleList([resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4])
        self.decoder = SegmentationHead(MAPS, num_classes=num_classes, **options)

    def forward(self, features: Features, *, image_size: tuple[int, int] | None = None) -> Tensor:
        current, maps = self.stem((features.maps[0] - _MEAN) / _STD), []
        for stage in self.stages:
            maps.append(current := stage(current))
        return self.decoder(maps, image_size=image_size or features.image_size)


class ResNetSegmentation(TADPForSemanticSegmentation):
    """A segmentation model whose features are the pixels. Its backbone is not used."""

    def features(self, images: Any, text: Any = None, *, latents: Any = None, image_size: Any = None) -> Features:
        pixels = to_tensor(images).to(self.device)
        return Features((pixels,), None, (pixels.shape[2], pixels.shape[3]))


class ResNetTraining(SegmentationTraining):
    """Training of `ResNetSegmentation`."""

    kind = ResNetSegmentation

    def build(
        self, backbone: TADPBackbone, data: Any, recipe: Recipe, *, text: PromptMode, **unused: Any
    ) -> ResNetSegmentation:
        model = ResNetSegmentation(
            backbone,
            class_names=data.class_names,
            prompt_mode=text,
            tune="nothing",
            window_px=recipe.crop_px,
            **recipe.model,
        )
        model.head = ResNetHead(len(data.class_names), **model.head_options).to(model.device)
        return model
