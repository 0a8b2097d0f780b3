"""Semantic segmentation: a feature pyramid and the decoder of semantic FPN, in the two forms of the paper's code.

`SegmentationHead` computes the same as mmsegmentation's neck `FPN` and decode head `FPNHead`. `SMPSegmentationHead`
computes the same as `FPNDecoder` and `SegmentationHead` of segmentation_models_pytorch (smp). The parameters of level k
of four, counted from 0, have these names:

    here                        mmsegmentation                           smp
    neck.lateral_convs.{k}      neck.lateral_convs.{k}.conv              decoder.p{k + 2}.skip_conv; decoder.p5
    neck.fpn_convs.{k}          neck.fpn_convs.{k}.conv                  (none)
    scale_heads.{k}.{n}.conv    decode_head.scale_heads.{k}.{2n}.conv    decoder.seg_blocks.{3 - k}.block.{n}.block.0
    scale_heads.{k}.{n}.norm    decode_head.scale_heads.{k}.{2n}.bn      decoder.seg_blocks.{3 - k}.block.{n}.block.1
    classifier                  decode_head.conv_seg                     segmentation_head.0

The outputs agree if each map is half as high and wide as the next finer map. It is not if the image's size is not a
multiple of the coarsest level's stride. mmsegmentation then stretches maps to the finer map's size, and smp fails.
Here, maps are enlarged by two and cropped, so that cells keep their place.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from tadp.features import FeatureInfo, Features
from tadp.files.checks import check_counts, check_numbers, check_whole
from tadp.heads.fpn import FPN
from tadp.heads.maps import Norm, check_batch, check_info, enlarge, make_norm, read_maps

_SMP_GROUPS = 32


class SegmentationHead(nn.Module):
    """A head that predicts one score per class and pixel.

    Args:
        feature_info: Channels and strides of the levels, as in `backbone.feature_info`.
        num_classes: Number of classes K, at least two, including a background class if there is one.
        fpn_channels: Number of channels in the feature pyramid.
        channels: Number of channels in the decoder.
        dropout: Share of channels that are dropped before the classifier in training, in [0, 1).
        norm: Kind of normalisation. "batch" is that of the paper; "group" does not depend on the other images in the
            batch.

    Raises:
        TypeError: If `feature_info` is not a `FeatureInfo`, or `num_classes` is not an integer.
        ValueError: If there are fewer than two classes, the strides do not double from level to level, or a number of
            channels is below 1.

    Source:
        Kirillov et al., Panoptic Feature Pyramid Networks, Sec. 3; TADP's and VPD's configs `fpn_r50.py` (256 channels
        in the decoder too, dropout 0.1).

    Example:
        >>> import torch
        >>> info = FeatureInfo(channels=(32, 141), reduction=(8, 16))
        >>> head = SegmentationHead(info, num_classes=13, fpn_channels=16, channels=16)
        >>> maps = [torch.rand(2, 32, 13, 26), torch.rand(2, 141, 7, 13)]  # maps of images of 97x201 pixels
        >>> tuple(head(maps, image_size=(97, 201)).shape)
        (2, 13, 97, 201)
    """

    align_corners: ClassVar[bool] = False  # as PyTorch's option: how maps are enlarged
    _output_convs: ClassVar[bool] = True

    def __init__(
        self,
        feature_info: FeatureInfo,
        *,
        num_classes: int,
        fpn_channels: int = 256,
        channels: int = 256,
        dropout: float = 0.1,
        norm: Norm = "batch",
    ):
        super().__init__()
        num_classes = check_whole(num_classes, name="num_classes", minimum=2, note=", background included")
        check_info(feature_info)
        check_counts(fpn_channels=fpn_channels, channels=channels)
        self.feature_info, self.num_classes = feature_info, num_classes
        self.neck = FPN(feature_info, channels=fpn_channels, output_convs=self._output_convs)
        self.scale_heads = nn.ModuleList(
            _ScaleHead(
                fpn_channels,
                channels,
                doublings=(stride // feature_info.reduction[0]).bit_length() - 1,
                norm=norm,
                align_corners=self.align_corners,
            )
            for stride in feature_info.reduction
        )
        check_numbers(allow_nonfinite=True, dropout=dropout)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {dropout}.")
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)  # mmsegmentation's
        nn.init.zeros_(self.classifier.bias)  # type: ignore

    def forward(
        self, features: Features | Sequence[Tensor], *, image_size: tuple[int, int] | None = None
    ) -> Float[Tensor, "b k height width"]:
        """Score every class at every pixel.

        Args:
            features: The output of the backbone, or a list of its maps (B, C, h, w), finest first. The maps are
                converted to the head's dtype.
            image_size: (height, width) of the output in pixels. None is the size of the images; for a list of maps, the
                size of the finest map times its stride.

        Returns:
            Logits, (B, K, height, width).

        Raises:
            TypeError: If `features` is neither `Features` nor a list of maps.
            ValueError: If the maps do not fit the head's `feature_info`, or if batch normalisation is in training mode
                but a map has a single value per channel.
        """
        maps, size = read_maps(features, self.feature_info, image_size=image_size, head=self)
        for level, (level_map, scale_head) in enumerate(zip(maps, self.scale_heads, strict=True)):
            check_batch(scale_head, level_map, level=level)
        finest = (maps[0].shape[2], maps[0].shape[3])
        pyramid = zip(self.neck(maps), self.scale_heads, strict=True)
        scaled = [scale_head(level_map, finest) for level_map, scale_head in pyramid]
        logits = self.classifier(self.dropout(sum(scaled[1:], start=scaled[0])))
        return enlarge(logits, self.feature_info.reduction[0], size=size, align_corners=self.align_corners)


class SMPSegmentationHead(SegmentationHead):
    """The head that the paper trained on Pascal VOC: the FPN of segmentation_models_pytorch (smp).

    It differs from `SegmentationHead` in three ways: normalisation is in 32 groups, the pyramid has no 3x3
    convolutions, and maps are enlarged so that the centres of their corner cells stay in the corners (`align_corners`
    in PyTorch). Its initial weights are PyTorch's defaults, as in the paper's code.

    Args:
        feature_info: Channels and strides of the levels, as in `backbone.feature_info`.
        num_classes: Number of classes K, at least two, including a background class if there is one.
        fpn_channels: Number of channels in the feature pyramid.
        channels: Number of channels in the decoder, a multiple of 32.
        dropout: Share of channels that are dropped before the classifier in training, in [0, 1).

    Raises:
        TypeError: If `feature_info` is not a `FeatureInfo`, or `num_classes` is not an integer.
        ValueError: If there are fewer than two classes, the strides do not double from level to level, or a number of
            channels is below 1 or, in the decoder, not a multiple of 32.

    Source:
        TADP/tadp_seg.py, with `decode_head: FPN` of sd_tune.yaml.

    Example:
        >>> import torch
        >>> head = SMPSegmentationHead(FeatureInfo(channels=(32, 141), reduction=(8, 16)), num_classes=21, channels=32)
        >>> tuple(head([torch.rand(2, 32, 16, 24), torch.rand(2, 141, 8, 12)]).shape)
        (2, 21, 128, 192)
    """

    align_corners = True
    _output_convs = False

    def __init__(
        self,
        feature_info: FeatureInfo,
        *,
        num_classes: int,
        fpn_channels: int = 256,
        channels: int = 128,
        dropout: float = 0.2,
    ):
        check_counts(channels=channels)
        if channels % _SMP_GROUPS:
            raise ValueError(
                f"channels must be a multiple of {_SMP_GROUPS}, the number of groups in smp's normalisation; got "
                f"{channels}."
            )
        super().__init__(
            feature_info,
            num_classes=num_classes,
            fpn_channels=fpn_channels,
            channels=channels,
            dropout=dropout,
            norm="group",
        )
        for module in self.modules():
            if isinstance(module, _ConvNormReLU):
                module.norm = nn.GroupNorm(_SMP_GROUPS, channels)
            elif isinstance(module, nn.Conv2d):
                module.reset_parameters()


class _ScaleHead(nn.ModuleList):
    """The path of one level to the finest size: a convolution before each doubling, and one for the finest level."""

    def __init__(self, in_channels: int, channels: int, *, doublings: int, norm: Norm, align_corners: bool):
        super().__init__(
            _ConvNormReLU(channels if number else in_channels, channels, norm=norm)
            for number in range(max(1, doublings))
        )
        self.doublings, self.align_corners = doublings, align_corners

    def forward(self, maps: Tensor, finest: tuple[int, int]) -> Tensor:
        for number, block in enumerate(self, start=1):
            maps = block(maps)
            if self.doublings:
                cells = 2 ** (self.doublings - number)  # cells of the finest map per cell, along one side
                size = (math.ceil(finest[0] / cells), math.ceil(finest[1] / cells))
                maps = enlarge(maps, 2, size=size, align_corners=self.align_corners)
        return maps


class _ConvNormReLU(nn.Module):
    def __init__(self, in_channels: int, channels: int, *, norm: Norm):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.norm = make_norm(norm, channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")  # mmcv's

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.conv(maps)).relu()
