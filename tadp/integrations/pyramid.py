"""Images in, a list of maps out: the form in which every framework calls a backbone."""

import math
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from tadp.backbone import TADPBackbone
from tadp.backbone.feature_model import refuse_name
from tadp.captioner import Captioner
from tadp.errors import ImageError, ModelError
from tadp.features import FeatureInfo, Features
from tadp.files.checks import check_counts, check_ordered
from tadp.files.inference import makes_graph
from tadp.images.reading import OVERSHOOT, crop_to_cells, to_tensor
from tadp.integrations.call_text import (
    CallText,
    CaptionSource,
    FindText,
    pixel_digests,
    read_text,
    warn_without_text,
)
from tadp.integrations.fixed_text import FixedText

Stride4 = Literal["vae", "upsampled"]
_TEXT = "_extra_state"  # torch's name for entries of a state dict that are neither parameters nor buffers
_UNUSED = WeakIdKeyDictionary()  # the parameters that `freeze_unused` froze
_TOLERANCE = 0.01  # rounding errors of pixels that were normalised in half precision


class Pyramid(nn.Module):
    """Wraps a backbone for code that passes only images and expects a list of maps, finest first.

    The text comes from an open `with backbone.conditioning(captions):` block or from `read_text`; without them, from
    `captioner`, `captions` or `text`; without those, from the backbone's own captioner or its `default_text`. A pyramid
    warns when it is built if only the empty prompt is left. A state dict contains `captioner`, `captions` and `text`.
    With one text for all images, a model around a pyramid can be exported and compiled as a whole (docs/export.md).

    Args:
        backbone: The backbone. Its weights are shared, not copied.
        captioner: A captioner for images that come without text: a `Captioner`, or the name of one. Its name and the
            settings of its decoding are saved, so it must be one that was loaded by name.
        captions: Captions for images that come without text: a `CaptionTable`, a mapping, or a caption file. They are
            found by `digests(images)`; `read_text` finds captions by image id. The whole table is saved.
        text: One text for all images that come without text.
        levels: Levels of the backbone to return; level 0 is the finest (stride 8). None is all levels. Other
            levels are not computed, and the layers that only they need are frozen.
        stride4: Kind of an additional map at half the finest stride (4 pixels), which becomes the first map. "vae" is
            a map of the VAE encoder, normalised to zero mean and unit standard deviation per image and group of
            channels; it has no trainable parameters. "upsampled" is a trained transposed convolution of level 0. None
            adds no map.
        stride4_channels: Number of channels of the "upsampled" map.
        mean: Mean that the framework subtracts from pixels in [0, 1], for red, green and blue. The pyramid undoes this
            normalisation. None means that the framework passes pixels in [0, 1].
        std: Standard deviation by which the framework divides pixels, for red, green and blue; None if `mean` is None.
        clamp: Whether pixels out of range are cut to [0, 1] instead of refused, for transforms that overshoot, such as
            bicubic resizing of floats, noise, or timm's `RandomErasing(mode="pixel")`. If more than half of the values
            are out of range, they are refused all the same.

    Raises:
        ValueError: If a level does not exist, `stride4` is unknown, only one of `mean` and `std` is passed, they are
            not three numbers each, or more than one of `captioner`, `captions` and `text` is passed.
        TypeError: If the captioner was not loaded by its name, and so cannot be saved.
        ModelError: If `stride4` is "vae" and the backbone has an `AutoencoderTiny`.

    Example:
        >>> backbone = TADPBackbone.from_pretrained("tadp-tiny", default_text=None)
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
        captioner: Captioner | str | None = None,
        captions: CaptionSource | None = None,
        text: str | None = None,
        clamp: bool = False,
    ):
        super().__init__()
        refuse_name(backbone)
        if stride4 is not None and stride4 not in get_args(Stride4):
            raise ValueError(f"stride4 must be None, {' or '.join(map(repr, get_args(Stride4)))}; got {stride4!r}.")
        check_counts(stride4_channels=stride4_channels)
        check_ordered(mean=mean, std=std)
        self.call_text, self.saves_text = CallText.of(captioner, captions, text), True
        if self.call_text is not None:
            backbone = self.call_text.attach(backbone)
        self.backbone = backbone
        self._fixed_text = FixedText(backbone)
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
        if stride4 == "vae" and backbone.vae.config["_class_name"] == "AutoencoderTiny":
            raise ModelError(
                "an AutoencoderTiny has no map at stride 4; use the model's own VAE, or stride4='upsampled'."
            )
        if stride4 is not None:
            finest = backbone.vae.config["block_out_channels"][-2] if stride4 == "vae" else stride4_channels
            channels, reduction = [finest, *channels], [backbone.strides[0] // 2, *reduction]
        self.feature_info = FeatureInfo(tuple(channels), tuple(reduction))
        self.mean, self.std = _check_statistics(mean, std)
        self.clamp = clamp
        if levels is not None:
            self.freeze_unused()
        if self.call_text is None:
            warn_without_text(backbone, stacklevel=2)

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
        wanted, needed = self._needed(indices)
        features = self.backbone(
            self._pixels(images),
            self._fixed_text.of_call(),
            vae_map=self.stride4 == "vae" and None in wanted,
            levels=sorted(needed or self.levels[-1:]),
        )
        by_level = features.by_level
        return [self._stride4(features) if level is None else by_level[level] for level in wanted]

    def train(self, mode: bool = True) -> "Pyramid":
        """Set the training mode. In evaluation mode, a fixed text is encoded, so that a graph can contain it."""
        super().train(mode)
        if not mode:
            self._fixed_text.prepare()
        return self

    def freeze_unused(self, indices: Sequence[int] | None = None) -> "Pyramid":
        """Freeze the layers on which these maps do not depend, so that DDP does not wait for their gradients.

        Layers that another pyramid on the same weights froze in this way, and that these maps need, train again.

        Args:
            indices: Positions in `feature_info` of the maps that are used; None is all of them.
        """
        wanted, needed = self._needed(indices)
        unet = self.backbone.unet
        if any(parameter.requires_grad for parameter in unet.parameters()):
            _train_again(unet)
        before = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        if needed:
            self.backbone.freeze_unused(sorted(needed))
        else:
            unet.requires_grad_(False)
        for parameter in before:
            if not parameter.requires_grad:
                _UNUSED[parameter] = True
        if self.upsampler is not None:
            self.upsampler.requires_grad_(None in wanted)
        return self

    def digests(self, images: Float[Tensor, "b 3 h w"]) -> list[str]:
        """Return the ids under which the table passed as `captions` must have the captions of these images.

        An id is computed from the pixels, rounded to 8 bits, as they reach the pyramid. So it only matches if the
        images come from the same transforms without randomness, as in evaluation.

        Args:
            images: Images as in `forward`.

        Example:
            >>> pyramid = Pyramid(TADPBackbone.from_pretrained("tadp-tiny"), text="a dog")
            >>> pyramid.digests(torch.zeros(1, 3, 64, 64))
            ['pixels-6b7b3ce317baee47c9b39236f0f52afb']
        """
        return pixel_digests(to_tensor(self._pixels(images)))

    def read_text(
        self, model: nn.Module, *, captions: FindText | None = None, image_ids: FindText | None = None
    ) -> ExitStack:
        """Take the text of each call of a model from the arguments of this call.

        A trainer that passes batches as keyword arguments can pass `captions` or `image_ids`, which the model itself
        then does not receive. For other trainers, pass a function that finds them in the arguments. A call without
        either gets its text as if `read_text` had not been called.

        Args:
            model: The model that contains this pyramid.
            captions: A function from the arguments of a call of `model` to one caption per image, or None.
            image_ids: A function from these arguments to one image id per image, or None. Their captions are looked up
                in the table passed as `captions` when the pyramid was built.

        Returns:
            The hooks on `model`; `close()` removes them, and so does the end of a `with` block.
        """
        table = None if self.call_text is None else self.call_text.captions
        return read_text(model, self.backbone, table, captions=captions, image_ids=image_ids)

    def _needed(self, indices: Sequence[int] | None) -> tuple[list[int | None], set[int]]:
        """The maps at these positions, where None is the map at stride 4, and the levels that they need."""
        maps: list[int | None] = [*self.levels] if self.stride4 is None else [None, *self.levels]
        wanted = maps if indices is None else [maps[index] for index in indices]
        needed = {level for level in wanted if level is not None}
        if self.upsampler is not None and None in wanted:
            needed.add(0)
        return wanted, needed

    def _stride4(self, features: Features) -> Tensor:
        """The additional map."""
        if self.upsampler is None:
            fine: Any = features.vae_map
            return F.group_norm(fine, self.backbone.vae.config["norm_num_groups"])
        return crop_to_cells(self.upsampler(features.maps[0]), features.image_size, self.feature_info.reduction[0])

    def _pixels(self, images: Any) -> Any:
        """The images in [0, 1]; without `mean` and `clamp`, the images themselves, which the backbone checks."""
        pixels = images
        if self.mean is not None and self.std is not None:
            self._check_normalised(images)
            pixels = images * _channelwise(self.std, images) + _channelwise(self.mean, images)
        elif not (self.clamp and isinstance(images, Tensor) and images.is_floating_point()):
            return images
        if not makes_graph():  # a graph has no values to check
            self._check_range(pixels.detach())
        return pixels.clamp(0, 1)

    def _check_range(self, pixels: Tensor) -> None:
        """Refuse pixels out of range, unless `clamp` is set and most are in it."""
        if not pixels.numel():
            return  # the backbone refuses it
        low, high = torch.stack(pixels.aminmax()).tolist()  # a single wait for the GPU
        if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
            return
        if not math.isfinite(low + high):
            raise ImageError("images hold NaN or infinite values. Fix their source, or use nan_to_num.")
        share = ((pixels < 0) | (pixels > 1)).float().mean().item()
        if self.clamp and share <= 0.5:
            return
        rule = "images must be in [0, 1]; they"
        hint = "Pass the mean and std of your transforms."
        if self.mean is not None:
            rule = f"images must be normalised by mean {self.mean} and std {self.std}; with that undone, they"
            hint = "Pass the mean and std of your transforms, or neither for pixels in [0, 1]."
        if share <= 0.5:
            hint = f"{share:.1%} of the values are outside. {OVERSHOOT} Pass clamp=True to cut them to [0, 1]."
        raise ImageError(f"{rule} range from {low:.4g} to {high:.4g} instead of 0 to 1. {hint}")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.call_text is not None and self.saves_text:
            destination[prefix + _TEXT] = self.call_text.to_tensor()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        saved = CallText.from_tensor(state_dict.pop(prefix + _TEXT)) if prefix + _TEXT in state_dict else None
        if saved is not None and self.call_text is None:
            self.call_text, self.backbone = saved, saved.attach(self.backbone)
        elif saved is not None and self.call_text is not None and saved.to_dict() != self.call_text.to_dict():
            warnings.warn(
                f"the state dict was saved with {saved}, but this pyramid was built with {self.call_text}, and keeps "
                "it. To get the saved one, build the pyramid without captioner, captions and text.",
                stacklevel=2,
            )
        self._fixed_text = FixedText(self.backbone)  # the text encoder changes
        super()._load_from_state_dict(state_dict, prefix, *arguments)

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


def _train_again(unet: nn.Module) -> None:
    """Train the layers again that a pyramid froze because its maps do not need them."""
    for parameter in unet.parameters():
        if _UNUSED.pop(parameter, None):
            parameter.requires_grad_(True)


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


def as_pyramid(
    backbone: TADPBackbone | Pyramid,
    *,
    captioner: Captioner | str | None = None,
    captions: CaptionSource | None = None,
    text: str | None = None,
) -> Pyramid:
    """Build a pyramid of a backbone; a `Pyramid` is returned as it is.

    Raises:
        ValueError: If options are passed with a `Pyramid`, which has its own.
    """
    passed: dict[str, Any] = {"captioner": captioner, "captions": captions, "text": text}
    options = {name: value for name, value in passed.items() if value is not None}
    if isinstance(backbone, TADPBackbone):
        return Pyramid(backbone, **options)
    refuse_name(backbone)
    if options:
        raise ValueError(f"a Pyramid has its own options; leave out {', '.join(options)}, or pass the backbone.")
    return backbone
