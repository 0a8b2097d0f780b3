"""torchvision: the backbone of Faster R-CNN, Mask R-CNN, Keypoint R-CNN, RetinaNet, FCOS and SSD."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.captioner import Captioner
from tadp.files.checks import need
from tadp.integrations.call_text import CaptionSource
from tadp.integrations.pyramid import Pyramid, as_pyramid

INSTALL = "pip install 'tadp[detection]'."
_RATIOS = (0.5, 1.0, 2.0)
# Sizes of anchors in cells, and their ratios. 4 cells are 32 pixels at stride 8, as in TADP's released detection code.
_PROPOSALS = ((4.0,), _RATIOS)
_ANCHORS = {
    "retinanet": ((4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)), _RATIOS),  # Lin et al., RetinaNet
    "fcos": ((1.0,), (1.0,)),  # FCOS has no anchors, but torchvision's needs squares of the cells
}
_DETECTORS = ("faster_rcnn", "mask_rcnn", "keypoint_rcnn", *_ANCHORS, "ssd")


class DetectionBackbone(nn.Module):
    """A backbone with a feature pyramid network for torchvision's detectors.

    It returns an OrderedDict of maps, all with the same number of channels. torchvision's detectors normalise and pad
    images in a way that suits other backbones. So pass a detector the arguments that `options("faster_rcnn")` returns:
    they leave pixels in [0, 1], pad images to a multiple of the coarsest level's stride, and place the anchors.

    Args:
        backbone: A backbone; or a `Pyramid`, to choose levels, a map at stride 4, or a normalisation of pixels.
        out_channels: Number of channels of each map.
        captioner: A captioner, or its name, for images that come without text; see `Pyramid`.
        captions: Captions for images that come without text; see `Pyramid`.
        text: One text for all images that come without text.

    Raises:
        MissingExtraError: If torchvision is not installed.
    """

    def __init__(
        self,
        backbone: TADPBackbone | Pyramid,
        *,
        out_channels: int = 256,
        captioner: Captioner | str | None = None,
        captions: CaptionSource | None = None,
        text: str | None = None,
    ):
        super().__init__()
        ops = need("torchvision.ops", install=INSTALL)
        self.pyramid = as_pyramid(backbone, captioner=captioner, captions=captions, text=text)
        inner = self.pyramid.backbone
        self.fpn = ops.FeaturePyramidNetwork(list(self.pyramid.feature_info.channels), out_channels)
        self.fpn.to(inner.device, inner.dtype)
        self.out_channels = out_channels

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> "OrderedDict[str, Float[Tensor, 'b c _h _w']]":
        """Compute the maps "0", "1", …, finest first; see `Pyramid`."""
        return self.fpn(OrderedDict((str(number), level) for number, level in enumerate(self.pyramid(images))))

    def options(self, model: str, *, num_classes: int | None = None) -> dict[str, Any]:
        """Return the arguments of a detector besides the backbone and the number of classes.

        Args:
            model: The kind of detector: "faster_rcnn", "mask_rcnn", "keypoint_rcnn", "retinanet", "fcos" or "ssd".
            num_classes: Number of classes, including the background. Only needed for "ssd", whose options include a
                head.

        Returns:
            Arguments of torchvision's `FasterRCNN`, `MaskRCNN`, `KeypointRCNN`, `RetinaNet`, `FCOS` or `SSD`. They set
            mean 0 and standard deviation 1, sizes divisible by the coarsest level's stride (SSD resizes all images to
            its `size`), anchors that suit the strides, and poolers with the names of the maps.

        Raises:
            ValueError: If `model` is not one of these six, or `num_classes` is missing for "ssd".
        """
        if model not in _DETECTORS:
            raise ValueError(f"model must be one of {', '.join(_DETECTORS)}; got {model!r}.")
        pixels = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
        if model == "ssd":
            return pixels | self._ssd(num_classes)
        inner = self.pyramid.backbone
        options = pixels | {"size_divisible": inner.vae.reduction * inner.layout.multiple}
        anchors = self._anchors(_ANCHORS.get(model, _PROPOSALS))
        if model in _ANCHORS:
            return options | {"anchor_generator": anchors}
        ops = need("torchvision.ops", install=INSTALL)
        names = [str(number) for number in range(len(self.pyramid.feature_info))]

        def pool(size: int) -> nn.Module:
            return ops.MultiScaleRoIAlign(names, output_size=size, sampling_ratio=2)

        options |= {"rpn_anchor_generator": anchors, "box_roi_pool": pool(7)}
        kind = model.removesuffix("_rcnn")
        return options if kind == "faster" else options | {f"{kind}_roi_pool": pool(14)}

    def _anchors(self, shapes: tuple[Sequence[float], Sequence[float]]) -> nn.Module:
        """Anchors at each map, of these sizes in cells and of these ratios of height to width."""
        rpn = need("torchvision.models.detection.rpn", install=INSTALL)
        sizes, ratios = shapes
        strides = self.pyramid.feature_info.reduction
        pixels = tuple(tuple(int(size * stride) for size in sizes) for stride in strides)
        return rpn.AnchorGenerator(pixels, (tuple(ratios),) * len(strides))

    def _ssd(self, num_classes: int | None) -> dict[str, Any]:
        """SSD's default boxes, and its head, which SSD itself can only make for maps of different channels."""
        if num_classes is None:
            raise ValueError("SSD's options include its head; pass num_classes, which includes the background.")
        utils, ssd = (need(f"torchvision.models.detection.{name}", install=INSTALL) for name in ("anchor_utils", "ssd"))
        strides = self.pyramid.feature_info.reduction
        # Liu et al., SSD: boxes of ratios 2 and 3 besides the two squares
        boxes = utils.DefaultBoxGenerator([[2, 3]] * len(strides), steps=list(strides))
        head = ssd.SSDHead([self.out_channels] * len(strides), boxes.num_anchors_per_location(), num_classes)
        return {"anchor_generator": boxes, "head": head}
