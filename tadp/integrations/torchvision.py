"""torchvision: the backbone of Faster R-CNN, Mask R-CNN and RetinaNet."""

from collections import OrderedDict
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.files.checks import need
from tadp.integrations.pyramid import Pyramid, as_pyramid

INSTALL = "pip install 'tadp[detection]'."
_ANCHOR_CELLS = 4  # anchors have 32 pixels at stride 8, as in TADP's released detection code


class DetectionBackbone(nn.Module):
    """A backbone with a feature pyramid network for torchvision's detectors.

    It returns an OrderedDict of maps, all with the same number of channels. torchvision's detectors normalise and pad
    images in a way that suits other backbones. So pass a detector the arguments that `options("faster_rcnn")` returns:
    they leave pixels in [0, 1], pad images to a multiple of the coarsest level's stride, and place the anchors.

    Args:
        backbone: A backbone; or a `Pyramid`, to choose levels, a map at stride 4, or a normalisation of pixels.
        out_channels: Number of channels of each map.

    Raises:
        MissingExtraError: If torchvision is not installed.
    """

    def __init__(self, backbone: TADPBackbone | Pyramid, *, out_channels: int = 256):
        super().__init__()
        ops = need("torchvision.ops", install=INSTALL)
        self.pyramid = as_pyramid(backbone)
        inner = self.pyramid.backbone
        self.fpn = ops.FeaturePyramidNetwork(list(self.pyramid.feature_info.channels), out_channels)
        self.fpn.to(inner.device, inner.dtype)
        self.out_channels = out_channels

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> "OrderedDict[str, Float[Tensor, 'b c _h _w']]":
        """Compute the maps "0", "1", …, finest first; see `Pyramid`."""
        return self.fpn(OrderedDict((str(number), level) for number, level in enumerate(self.pyramid(images))))

    def options(self, model: str) -> dict[str, Any]:
        """Return the arguments of a detector besides the backbone and the number of classes.

        Args:
            model: The kind of detector: "faster_rcnn", "mask_rcnn" or "retinanet".

        Returns:
            Arguments of torchvision's `FasterRCNN`, `MaskRCNN` or `RetinaNet`. They set mean 0 and standard deviation
            1, sizes divisible by the coarsest level's stride, anchors of four cells, and poolers with the names of the
            maps.

        Raises:
            ValueError: If `model` is not one of these three.
        """
        known = ("faster_rcnn", "mask_rcnn", "retinanet")
        if model not in known:
            raise ValueError(f"model must be one of {', '.join(known)}; got {model!r}.")
        detection, ops = (need(f"torchvision.{name}", install=INSTALL) for name in ("models.detection.rpn", "ops"))
        strides = self.pyramid.feature_info.reduction
        scales = (1.0, 2 ** (1 / 3), 2 ** (2 / 3)) if model == "retinanet" else (1.0,)  # Lin et al., RetinaNet
        sizes = tuple(tuple(int(_ANCHOR_CELLS * stride * scale) for scale in scales) for stride in strides)
        anchors = detection.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
        inner = self.pyramid.backbone
        pixels = {
            "image_mean": [0.0] * 3,
            "image_std": [1.0] * 3,
            "size_divisible": inner.vae.reduction * inner.layout.multiple,
        }
        if model == "retinanet":
            return pixels | {"anchor_generator": anchors}
        names = [str(number) for number in range(len(strides))]
        options = pixels | {
            "rpn_anchor_generator": anchors,
            "box_roi_pool": ops.MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
        }
        if model == "mask_rcnn":
            options["mask_roi_pool"] = ops.MultiScaleRoIAlign(names, output_size=14, sampling_ratio=2)
        return options
