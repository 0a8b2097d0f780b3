"""Depth in metres from features, by the head that VPD and TADP trained on NYU.

Its parameters are the released ones under their own names:

    here                                       released
    layer1, layer2, out_layer                  encoder.layer1, encoder.layer2, encoder.out_layer
    deconv_layers, conv_layers                 decoder.deconv_layers, decoder.conv_layers
    last_layer_depth                           last_layer_depth

and with the default widths of the same shapes. Numbers agree for images whose height and width are multiples of 64. For
others the released code pads the image, and its first group normalisations see the padding, which a head never gets.
"""

from collections.abc import Sequence
from numbers import Real

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tadp.features import FeatureInfo, Features
from tadp.files.checks import check_counts
from tadp.heads.maps import Norm, check_info, cut, enlarge, group_norm, make_norm, read_maps

_GROUPS = 16  # of the released GroupNorm layers
_DECONV_CHANNELS = (32, 32, 32)


class DepthHead(nn.Module):
    """Features to depth.

    All levels are brought to the coarsest but one (stride 32 of 8 to 64): finer ones by strided convolutions, the
    coarser by repetition. Then a 1x1 convolution, transposed convolutions that double the size each, and doublings by
    interpolation up to the image, where two last convolutions decide.

    Args:
        feature_info: `backbone.feature_info`: channels and strides of the levels.
        max_depth_m: The largest depth that can be said, in metres: 10 for NYU.
        channels: Width at the image's size; eight times as many are between. A narrow head, for small backbones:
            `channels=32`. Most of the time goes into the last convolutions, and grows with the square of it.
        deconv_channels: Widths of the transposed convolutions. None is the paper's three of 32; fewer where the map
            they begin with has a stride under 8.
        norm: "batch" is the paper's; "group" does not depend on what else is in the batch.

    Raises:
        TypeError: If `feature_info` is none, or `max_depth_m` no number.
        ValueError: If strides do not double from level to level, a width is under 1, `max_depth_m` is not above 0, or
            there are no transposed convolutions, or so many that the map would grow beyond the image.

    Source:
        TADP/tadp_depth.py and VPD's depth/models_depth/model.py.

    Example:
        >>> info = FeatureInfo(channels=(32, 141, 173, 128), reduction=(8, 16, 32, 64))
        >>> head = DepthHead(info, max_depth_m=10.0, channels=16)
        >>> sides = (16, 8, 4, 2)  # of images 128 by 128
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
            raise TypeError(f"max_depth_m is a number, in metres; got {max_depth_m!r}.")
        if not 0 < max_depth_m < float("inf"):
            raise ValueError(f"max_depth_m is in metres, above 0 and finite; got {max_depth_m}.")
        self.feature_info, self.max_depth_m = feature_info, float(max_depth_m)
        self.grid = max(len(feature_info) - 2, 0)
        stride = feature_info.reduction[self.grid]
        most = stride.bit_length() - 1
        if deconv_channels is None:
            deconv_channels = _DECONV_CHANNELS[:most]
        if not 0 < len(deconv_channels) <= most:
            raise ValueError(
                f"deconv_channels has one width or more, and no more than double a map of stride {stride} up to the "
                f"image, {most} at most; got {len(deconv_channels)}."
            )
        check_counts(channels=channels, deconv_channels=min(deconv_channels))
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
        self, features: Features | Sequence[Tensor], *, image_size: tuple[int, int] | None = None
    ) -> Float[Tensor, "b height width"]:
        """Say how far every pixel is.

        Args:
            features: What the backbone returned, or a list of its maps (B, C, h, w), finest first. They are brought to
                the head's dtype.
            image_size: (height, width) to come out with. None is that of the images, and for a list of maps the finest
                map's size times its stride.

        Returns:
            Depth (B, height, width) in metres, between 0 and `max_depth_m`, float32 at least.

        Raises:
            TypeError: If `features` are no maps.
            ValueError: If they are not the maps the head was built for.
        """
        maps, size = read_maps(features, self.feature_info, image_size=image_size, head=self)
        one = self.conv_layers(self.deconv_layers(self.out_layer(torch.cat(self._on_grid(maps), dim=1))))
        for _ in range(self.doublings):
            one = F.interpolate(one, scale_factor=2.0, mode="bilinear", align_corners=False)
        one = cut(one, self.feature_info.reduction[self.grid], size=size)
        logits = self.last_layer_depth(one)[:, 0]
        # bfloat16 would say depths near 10 m in steps of 6 cm
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid() * self.max_depth_m

    def _on_grid(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """All levels at the size of the coarsest but one."""
        strides = self.feature_info.reduction
        size = (maps[self.grid].shape[2], maps[self.grid].shape[3])
        finer = [self.get_submodule(f"layer{level + 1}")(maps[level]) for level in range(self.grid)]
        coarser = [
            enlarge(maps[level], strides[level] // strides[self.grid], size=size, mode="nearest")
            for level in range(self.grid + 1, len(maps))
        ]
        # Half of ceil(n), rounded up, is ceil(n / 2); a backbone that rounds down differs by a cell, and is stretched.
        return [*(enlarge(one, 1, size=size) for one in finer), maps[self.grid], *coarser]


def _strided(channels: int, factor: int) -> nn.Sequential:
    """Convolutions of stride 2 that make a map smaller by `factor`, normalised in between."""
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
