"""A head that predicts depth in metres, the one that VPD and TADP trained on NYU Depth v2.

Its parameters correspond to those of the paper's released code:

    here                                       released
    layer1, layer2, out_layer                  encoder.layer1, encoder.layer2, encoder.out_layer
    deconv_layers, conv_layers                 decoder.deconv_layers, decoder.conv_layers
    last_layer_depth                           last_layer_depth

With the default numbers of channels, they also have the same shapes. The outputs agree for images of 512x512 pixels,
and for those of 480x480 and 352x352 pixels if the head receives the maps of the padded image and `drop_padding`, as
`TADPForDepthEstimation` with `pad_with_grey` passes them. The released code refuses other sizes.
"""

import math
from collections.abc import Sequence
from numbers import Real

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tadp.features import FeatureInfo, Features
from tadp.files.checks import check_counts
from tadp.heads.maps import Norm, check_info, cut, enlarge, group_norm, make_norm, read_maps

_GROUPS = 16  # as in the released GroupNorm layers
_DECONV_CHANNELS = (32, 32, 32)


class DepthHead(nn.Module):
    """A head that predicts the depth of every pixel in metres.

    The maps of all levels are resized to the second coarsest level (stride 32 for strides 8 to 64): finer levels by
    strided convolutions, the coarsest level by repetition. A 1x1 convolution follows, then transposed convolutions that
    each double the size, then interpolations that each double the size up to that of the image, and two final
    convolutions.

    Args:
        feature_info: Channels and strides of the levels, as in `backbone.feature_info`.
        max_depth_m: Largest depth that can be predicted, in metres; 10 for NYU Depth v2.
        channels: Number of channels at the image's size. The 1x1 convolution has eight times as many. For small
            backbones, 32 is enough. The last convolutions take most of the time, which grows with the square of this
            number.
        deconv_channels: Number of channels of each transposed convolution. By default there are three with 32 channels,
            as in the paper, or fewer if the map at which they start has a stride below 8.
        norm: Kind of normalisation. "batch" is that of the paper; "group" does not depend on the other images in the
            batch.

    Raises:
        TypeError: If `feature_info` is not a `FeatureInfo`, or `max_depth_m` is not a number.
        ValueError: If the strides do not double from level to level, if a number of channels is below 1, if
            `max_depth_m` is not above 0, or if `deconv_channels` is empty or has too many entries: each doubles the
            size, which must not exceed that of the image.

    Source:
        TADP/tadp_depth.py and VPD's depth/models_depth/model.py.

    Example:
        >>> info = FeatureInfo(channels=(32, 141, 173, 128), reduction=(8, 16, 32, 64))
        >>> head = DepthHead(info, max_depth_m=10.0, channels=16)
        >>> sides = (16, 8, 4, 2)  # sides of the maps of 128x128 images
        >>> maps = [torch.rand(2, width, side, side) for width, side in zip(info.channels, sides)]
        >>> tuple(head(maps).shape)
        (2, 128, 128)
    """

    def __init__(
        self,
        feature_info: FeatureInfo,
        *,
        max_depth_m: float,
        channels: int = 192,
        deconv_channels: Sequence[int] | None = None,
        norm: Norm = "batch",
    ):
        super().__init__()
        check_info(feature_info)
        if not isinstance(max_depth_m, Real) or isinstance(max_depth_m, bool):
            raise TypeError(f"max_depth_m must be a number, in metres; got {max_depth_m!r}.")
        if not 0 < max_depth_m < float("inf"):
            raise ValueError(f"max_depth_m must be above 0 and finite, in metres; got {max_depth_m}.")
        self.feature_info, self.max_depth_m = feature_info, float(max_depth_m)
        self.grid = max(len(feature_info) - 2, 0)
        stride = feature_info.reduction[self.grid]
        most = stride.bit_length() - 1
        if deconv_channels is None:
            deconv_channels = _DECONV_CHANNELS[:most]
        if isinstance(deconv_channels, str) or not isinstance(deconv_channels, Sequence):
            raise TypeError(f"deconv_channels must be a sequence of whole numbers; got {deconv_channels!r}.")
        if not 0 < len(deconv_channels) <= most:
            raise ValueError(
                f"deconv_channels must have 1 to {most} entries, as each doubles a map of stride {stride} and the "
                f"result must not outgrow the image; got {len(deconv_channels)}."
            )
        check_counts(channels=channels)
        for width in deconv_channels:
            check_counts(deconv_channels=width)
        self.doublings = (stride // 2 ** len(deconv_channels)).bit_length() - 1
        for level, width in enumerate(feature_info.channels[: self.grid]):
            self.add_module(f"layer{level + 1}", _strided(width, stride // feature_info.reduction[level]))
        self.out_layer = nn.Sequential(
            nn.Conv2d(sum(feature_info.channels), 8 * channels, 1),
            group_norm(8 * channels, most_groups=_GROUPS),
            nn.ReLU(),
        )
        self.deconv_layers = _deconvolutions(8 * channels, deconv_channels, norm)
        self.conv_layers = nn.Sequential(
            nn.Conv2d(deconv_channels[-1], channels, 3, padding=1), make_norm(norm, channels), nn.ReLU()
        )
        self.last_layer_depth = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 1, 3, padding=1)
        )
        self._initialise()

    def _initialise(self) -> None:
        decoder = (self.deconv_layers, self.conv_layers, self.last_layer_depth)
        for part in self.children():
            for conv in part.modules():
                if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                    continue
                if part in decoder:
                    nn.init.normal_(conv.weight, std=0.001)
                else:
                    nn.init.trunc_normal_(conv.weight, std=0.02)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(
        self,
        features: Features | Sequence[Tensor],
        *,
        image_size: tuple[int, int] | None = None,
        drop_padding: bool = False,
    ) -> Float[Tensor, "b height width"]:
        """Predict the depth of every pixel.

        Args:
            features: The output of the backbone, or a list of its maps (B, C, h, w), finest first. The maps are
                converted to the head's dtype.
            image_size: (height, width) of the output in pixels. None is the size of the images; for a list of maps, the
                size of the finest map times its stride.
            drop_padding: Whether `features` are those of images that were padded on the right and at the bottom, and
                `image_size` is the size of the images before padding. As in the released code, cells that contain only
                padding then count in the first normalisations, and are left out before the transposed convolutions.

        Returns:
            Depth in metres, (B, height, width), between 0 and `max_depth_m`, in float32 or higher precision.

        Raises:
            TypeError: If `features` is neither `Features` nor a list of maps.
            ValueError: If the maps do not fit the head's `feature_info`.
        """
        maps, size = read_maps(features, self.feature_info, image_size=image_size, head=self)
        joined = self.out_layer(torch.cat(self._on_grid(maps), dim=1))
        stride, whole = self.feature_info.reduction[self.grid], size
        if drop_padding:
            rows, columns = (math.ceil(side / stride) for side in size)
            joined, whole = joined[:, :, :rows, :columns], (rows * stride, columns * stride)
        decoded = self.conv_layers(self.deconv_layers(joined))
        for _ in range(self.doublings):
            decoded = F.interpolate(decoded, scale_factor=2.0, mode="bilinear", align_corners=False)
        decoded = cut(decoded, stride, size=whole)
        logits = self.last_layer_depth(decoded)[:, 0]
        # bfloat16 would round depths near 10 m to steps of 6 cm
        depth_m = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid() * self.max_depth_m
        return depth_m[:, : size[0], : size[1]]

    def _on_grid(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Resize all levels to the second coarsest."""
        strides = self.feature_info.reduction
        size = (maps[self.grid].shape[2], maps[self.grid].shape[3])
        finer = [self.get_submodule(f"layer{level + 1}")(maps[level]) for level in range(self.grid)]
        coarser = [
            enlarge(maps[level], strides[level] // strides[self.grid], size=size, mode="nearest")
            for level in range(self.grid + 1, len(maps))
        ]
        # Half of ceil(n), rounded up, is ceil(n / 2). Maps of a backbone that rounds down differ by one cell and are
        # stretched.
        return [*(enlarge(level_map, 1, size=size) for level_map in finer), maps[self.grid], *coarser]


def _strided(channels: int, factor: int) -> nn.Sequential:
    """Build convolutions of stride 2 that shrink a map by `factor`, with normalisation in between."""
    layers: list[nn.Module] = []
    for number in range(factor.bit_length() - 1):
        if number:
            layers += [group_norm(channels, most_groups=_GROUPS), nn.ReLU()]
        layers.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
    return nn.Sequential(*layers)


def _deconvolutions(in_channels: int, widths: Sequence[int], norm: Norm) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.ConvTranspose2d(in_channels, width, 2, stride=2, bias=False), make_norm(norm, width), nn.ReLU()]
        in_channels = width
    return nn.Sequential(*layers)
