"""Images in, a list of maps out: the form in which every framework calls a backbone."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.backbone.feature_model import refuse_name
from tadp.errors import ImageError
from tadp.features import FeatureInfo, Features
from tadp.files.checks import check_counts, check_ordered
from tadp.images.reading import crop_to_cells

Stride4 = Literal["vae", "upsampled"]
_TOLERANCE = 0.01  # rounding errors of pixels that were normalised in half precision


class Pyramid(nn.Module):
    """Wraps a backbone for code that passes only images and expects a list of maps, finest first.

    The text comes from an open `with backbone.conditioning(captions):` block; without one, from the backbone's
    captioner; without that, it is the backbone's `default_text`.

    Args:
        backbone: The backbone. It is shared, not copied.
        levels: Levels of the backbone to return; level 0 is the finest (stride 8). None is all levels. Other
            levels are not computed.
        stride4: Kind of an additional map at half the finest stride (4 pixels), which becomes the first map. "vae" is
            a map of the VAE encoder, normalised to zero mean and unit standard deviation per image and group of
            channels; it has no trainable parameters. "upsampled" is a trained transposed convolution of level 0. None
            adds no map.
        stride4_channels: Number of channels of the "upsampled" map.
        mean: Mean that the framework subtracts from pixels in [0, 1], for red, green and blue. The pyramid undoes this
            normalisation. None means that the framework passes pixels in [0, 1].
        std: Standard deviation by which the framework divides pixels, for red, green and blue; None if `mean` is None.

    Raises:
        ValueError: If a level does not exist, `stride4` is unknown, only one of `mean` and `std` is passed, or they are
            not three numbers each.

    Example:
        >>> backbone = TADPBackbone.from_pretrained("tadp-tiny")
        >>> pyramid = Pyramid(backbone, levels=(0, 1, 2), stride4="vae")
        >>> with torch.no_grad(), backbone.conditioning("a dog"):
        ...     maps = pyramid(torch.rand(1, 3, 64, 96))
        >>> [tuple(level.shape) for level in maps]
        [(1, 64, 16, 24), (1, 32, 8, 12), (1, 141, 4, 6), (1, 173, 2, 3)]
        >>> pyramid.feature_info
        FeatureInfo(channels=(64, 32, 141, 173), reduction=(4, 8, 16, 32))
    """

    def __init__(
        self,
        backbone: TADPBackbone,
        *,
        levels: Sequence[int] | None = None,
        stride4: Stride4 | None = None,
        stride4_channels: int = 128,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ):
        super().__init__()
        refuse_name(backbone)
        if stride4 is not None and stride4 not in get_args(Stride4):
            raise ValueError(f"stride4 must be None, {' or '.join(map(repr, get_args(Stride4)))}; got {stride4!r}.")
        check_counts(stride4_channels=stride4_channels)
        check_ordered(mean=mean, std=std)
        self.backbone = backbone
        self.levels = backbone.chosen_levels(levels)
        self.stride4 = stride4
        self.upsampler = None
        widths = dict(zip(backbone.chosen_levels(), backbone.feature_info.channels, strict=True))
        channels, reduction = [widths[k] for k in self.levels], [backbone.strides[k] for k in self.levels]
        if stride4 == "upsampled":
            if 0 not in widths:
                raise ValueError(
                    f"stride4='upsampled' enlarges level 0, but the backbone has levels {tuple(widths)}; load it with "
                    "level 0, or pass stride4='vae'."
                )
            self.upsampler = _Upsampler(widths[0], stride4_channels).to(backbone.device, backbone.dtype)
        if stride4 is not None:
            finest = backbone.vae.config["block_out_channels"][-2] if stride4 == "vae" else stride4_channels
            channels, reduction = [finest, *channels], [backbone.strides[0] // 2, *reduction]
        self.feature_info = FeatureInfo(tuple(channels), tuple(reduction))
        self.mean, self.std = _check_statistics(mean, std)

    def forward(
        self, images: Float[Tensor, "b 3 h w"], *, indices: Sequence[int] | None = None
    ) -> list[Float[Tensor, "b _c _h _w"]]:
        """Compute the maps of images, finest first.

        Args:
            images: Images (B, 3, H, W) of 8 pixels or more per side, in [0, 1] or normalised by `mean` and `std`.
            indices: Positions in `feature_info` of the maps to compute; None is all of them.

        Returns:
            One map per entry of `feature_info`, or of `indices`, where map k is (B, channels[k],
            ceil(H / reduction[k]), ceil(W / reduction[k])).

        Raises:
            ImageError: If images have values out of range, a wrong shape, or a side under 8 pixels.
            CaptionError: If no text is available, or the number of captions is neither one nor B.
        """
        maps: list[int | None] = [*self.levels] if self.stride4 is None else [None, *self.levels]  # None is stride 4
        wanted = maps if indices is None else [maps[index] for index in indices]
        needed = {level for level in wanted if level is not None}
        if self.upsampler is not None and None in wanted:
            needed.add(0)
        features = self.backbone(
            self._undo_normalisation(images),
            vae_map=self.stride4 == "vae" and None in wanted,
            levels=sorted(needed or self.levels[-1:]),
        )
        by_level = features.by_level
        return [self._stride4(features) if level is None else by_level[level] for level in wanted]

    def _stride4(self, features: Features) -> Tensor:
        """The additional map."""
        if self.upsampler is None:
            fine: Any = features.vae_map
            return F.group_norm(fine, self.backbone.vae.config["norm_num_groups"])
        return crop_to_cells(self.upsampler(features.maps[0]), features.image_size, self.feature_info.reduction[0])

    def _undo_normalisation(self, images: Tensor) -> Tensor:
        if self.mean is None or self.std is None:
            return images
        self._check_normalised(images)
        pixels = images * _channelwise(self.std, images) + _channelwise(self.mean, images)
        low, high = (bound.item() for bound in pixels.detach().aminmax())
        if low < -_TOLERANCE or high > 1 + _TOLERANCE:
            raise ImageError(
                f"images must be normalised by mean {self.mean} and std {self.std}; with that undone, they range from "
                f"{low:.4g} to {high:.4g} instead of 0 to 1. Pass the mean and std of your transforms, or neither for "
                "pixels in [0, 1]."
            )
        return pixels.clamp(0, 1)

    def _check_normalised(self, images: Any) -> None:
        """Refuse images that mean and std cannot have normalised, such as bytes and paths, with an ImageError."""
        if (
            isinstance(images, Tensor)
            and images.is_floating_point()
            and images.ndim in (3, 4)
            and images.shape[-3] == 3
        ):
            return
        kind = f"a {type(images).__name__}"
        if isinstance(images, Tensor):
            kind = f"a tensor of {images.dtype} and shape {tuple(images.shape)}"
        raise ImageError(
            f"with mean and std, images must be a float tensor (B, 3, H, W) normalised by them; got {kind}. Normalise "
            "the images first, or build the pyramid without mean and std, to pass pixels in [0, 1] or paths."
        )


class _Upsampler(nn.Module):
    """A learned enlargement of a map to twice its height and width."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(channels, out_channels, 2, stride=2), nn.GroupNorm(1, out_channels), nn.GELU()
        )

    def forward(self, level: Tensor) -> Tensor:
        return self.layers(level)


def _channelwise(values: Sequence[float], images: Tensor) -> Tensor:
    return torch.tensor(values, device=images.device, dtype=images.dtype).view(3, 1, 1)


def _check_statistics(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std must be passed together; got mean {mean}, std {std}.")
    if mean is None or std is None:
        return None, None
    try:
        mean, std = tuple(map(float, mean)), tuple(map(float, std))  # a list, an array or a tensor
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"mean and std must be three numbers each, one per channel; got mean {mean}, std {std}."
        ) from error
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean and std must be three numbers each, std above 0; got mean {mean}, std {std}.")
    return mean, std


def as_pyramid(backbone: TADPBackbone | Pyramid, **options: Any) -> Pyramid:
    """Build a pyramid of a backbone; a `Pyramid` is returned as it is.

    Raises:
        ValueError: If options are passed with a `Pyramid`, which has its own.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(backbone, TADPBackbone):
        return Pyramid(backbone, **options)
    refuse_name(backbone)
    if options:
        raise ValueError(f"a Pyramid has its own options; leave out {', '.join(options)}, or pass the backbone.")
    return backbone
