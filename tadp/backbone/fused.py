"""`TimmMaps`, the maps of any timm model as `Features`, and `Fused`, a backbone whose maps are joined with them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone.backbone import TADPBackbone
from tadp.backbone.feature_model import refuse_name
from tadp.errors import ModelError
from tadp.features import FeatureInfo, Features, cells_of, resized
from tadp.files.checks import check_ordered
from tadp.images.reading import ImageLike, crop_to_cells, pad_to_multiple, to_tensor


class TimmMaps(nn.Module):
    """The maps of a timm model as `Features`, so that tadp's heads take them.

    Images are normalised as the model expects, and padded to a multiple of its patch size or coarsest stride. The model
    is frozen, and stays in evaluation mode. To train it, call `requires_grad_(True)` on `model`.

    Args:
        model: A model of `timm.create_model(…, features_only=True)`. For a vision transformer, also pass
            `dynamic_img_size=True`, so that images can have any size, and `out_indices=[-1]`: all of its blocks have
            the same stride, and heads take one map per stride.

    Attributes:
        model: The timm model.
        feature_info: The channels and strides of its maps. A vision transformer with patches of 16x16 pixels has the
            stride 16.

    Raises:
        TypeError: If `model` is not a module that returns maps.
        ValueError: If `model` only takes images of one size.

    Example:
        >>> import timm
        >>> import torch
        >>> vit = timm.create_model(
        ...     "vit_tiny_patch16_224", features_only=True, dynamic_img_size=True, out_indices=[-1]
        ... )
        >>> maps = TimmMaps(vit)
        >>> maps.feature_info
        FeatureInfo(channels=(192,), reduction=(16,))
        >>> maps(torch.rand(1, 3, 60, 96)).maps[0].shape
        torch.Size([1, 192, 4, 6])
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        info, config = getattr(model, "feature_info", None), getattr(model, "pretrained_cfg", None)
        if not isinstance(model, nn.Module) or not callable(getattr(info, "channels", None)) or not config:
            raise TypeError(
                f"a timm model that returns maps is needed; got a {type(model).__name__}. Pass timm.create_model(…, "
                "features_only=True)."
            )
        if any(getattr(module, "strict_img_size", False) for module in model.modules()):
            raise ValueError(
                "this timm model only takes images of one size. Create it with dynamic_img_size=True (vision "
                "transformers) or strict_img_size=False (Swin)."
            )
        self.model = model.requires_grad_(False).eval()
        self.feature_info = FeatureInfo(tuple(info.channels()), tuple(info.reduction()))  # pyright: ignore[reportOptionalMemberAccess]
        self._mean, self._std = tuple(config["mean"]), tuple(config["std"])

    def forward(self, images: ImageLike | Sequence[ImageLike]) -> Features:
        """Compute the maps of images.

        Args:
            images: Images (B, 3, H, W) in [0, 1], or anything that `tadp.images.to_tensor` reads.

        Returns:
            One map per entry of `feature_info`, where map k is (B, channels[k], ceil(H / reduction[k]),
            ceil(W / reduction[k])), without attention.

        Raises:
            ImageError: If an image cannot be read, or has values that cannot be used.
            ModelError: If the model returns maps of other shapes than its `feature_info` says.
        """
        pixels, weight = to_tensor(images), next(self.model.parameters())
        size, info = (int(pixels.shape[2]), int(pixels.shape[3])), self.feature_info
        padded = pad_to_multiple(pixels.to(weight.device, weight.dtype), math.lcm(*info.reduction))
        mean, std = (padded.new_tensor(values).view(3, 1, 1) for values in (self._mean, self._std))
        maps = list(self.model((padded - mean) / std))
        for level_map, channels in zip(maps, info.channels, strict=True):
            if level_map.ndim != 4 or level_map.shape[1] != channels:
                raise ModelError(
                    f"this timm model returns a map {tuple(level_map.shape)} where its feature_info has {channels} "
                    "channels; tadp reads maps (B, C, h, w)."
                )
        cropped = (
            crop_to_cells(level_map, size, stride) for level_map, stride in zip(maps, info.reduction, strict=True)
        )
        return Features(tuple(cropped), None, size, cells=cells_of(size, info.reduction))

    def train(self, mode: bool = True) -> "TimmMaps":
        """Set the training mode of this module; the model itself stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self


class Fused(TADPBackbone):
    """A backbone whose maps are joined with those of a timm model, such as DINOv2, DINOv3, SigLIP or a ResNet.

    Each map of the timm model is resized to the level of a stride, and its channels follow those of the level. Levels
    and strides stay those of the backbone, so everything that takes a backbone object takes this one: heads, task
    models, `Pyramid` and the adapters for timm, torchvision and detectron2. The timm model is frozen. Features need the
    images, so `extract`, which has only latents, is refused. Saving is refused as well: save a `state_dict()`, or the
    backbone without the timm model.

    Args:
        backbone: The backbone. Its weights, `conditioning()` blocks and captioner are shared, not copied.
        model: A model of `timm.create_model(…, features_only=True)`; see `TimmMaps`. It is moved to the backbone's
            device and dtype.
        strides: For each map of `model`, the stride of the level that it joins. None is the nearest.
        normalize: Whether the map of each source is scaled before they are joined, so that the root mean square over
            its channels is 1 in each cell. Otherwise the source with the larger values dominates. Levels that nothing
            joins stay as they are.

    Attributes:
        second: The timm model's maps, a `TimmMaps`.

    Raises:
        TypeError: If `backbone` is a name, or `model` is not a module that returns maps.
        ValueError: If `strides` has another length than the model has maps, or no level has one of these strides.

    Source:
        Normalising each source before concatenating follows "A Tale of Two Features" (arXiv:2305.15347), which joins
        Stable Diffusion with DINOv2 and gives each a norm of 1.

    Example:
        >>> import tadp
        >>> import timm
        >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
        >>> fused = Fused(backbone, timm.create_model("resnet18", features_only=True, out_indices=(2, 3)))
        >>> backbone.feature_info.channels, fused.feature_info.channels, fused.feature_info.reduction
        ((32, 141, 173, 128), (160, 397, 173, 128), (8, 16, 32, 64))
    """

    def __init__(
        self,
        backbone: TADPBackbone,
        model: nn.Module,
        *,
        strides: Sequence[int] | None = None,
        normalize: bool = True,
    ):
        refuse_name(backbone)
        nn.Module.__init__(self)
        self.__dict__.update(backbone.__dict__)
        self._modules = dict(backbone._modules)  # the same networks, and one more
        self._source = None  # a saved name would stand for the backbone without the second model
        self.second = TimmMaps(model).to(backbone.device, backbone.dtype)
        self.normalize = normalize
        own, maps = backbone.feature_info.reduction, self.second.feature_info.reduction
        if strides is None:
            strides = [min(own, key=lambda level: abs(math.log2(level / stride))) for stride in maps]
        check_ordered(strides=strides)
        if len(strides) != len(maps):
            raise ValueError(f"strides must have one entry per map of the timm model, {len(maps)}; got {strides}.")
        for stride in strides:
            if stride not in own:
                raise ValueError(f"no level has stride {stride}; this backbone has strides {own}.")
        self.joined_strides = tuple(strides)

    @property
    def feature_info(self) -> FeatureInfo:
        """The channels and strides of the joined maps, finest level first."""
        own, added = super().feature_info, self.second.feature_info.channels
        return FeatureInfo(
            tuple(
                channels + sum(more for more, joins in zip(added, self.joined_strides, strict=True) if joins == stride)
                for channels, stride in zip(own.channels, own.reduction, strict=True)
            ),
            own.reduction,
        )

    def forward(self, images: ImageLike | Sequence[ImageLike], *arguments: Any, **options: Any) -> Features:
        """Compute the features of images, given their captions, with the arguments of `TADPBackbone`."""
        pixels = to_tensor(images)
        features = super().forward(pixels, *arguments, **options)
        stride_of = dict(zip(self.chosen_levels(), self.feature_info.reduction, strict=True))
        strides = {stride_of[level] for level in features.by_level} & {*self.joined_strides}
        if not strides:
            return features
        padded = pad_to_multiple(pixels, math.lcm(*strides))
        second = self.second(padded)
        maps = tuple(
            self._joined(level_map, second, stride_of[level], features.image_size)
            for level, level_map in features.by_level.items()
        )
        return replace(features, maps=maps)

    def _joined(self, level_map: Tensor, second: Features, stride: int, image_size: tuple[int, int]) -> Tensor:
        """A level's map, followed by the maps of the second model that join it."""
        sources = [level_map]
        size = second.image_size[0] // stride, second.image_size[1] // stride
        for number, (other, joins) in enumerate(zip(second.maps, self.joined_strides, strict=True)):
            if joins == stride:
                other = crop_to_cells(resized(other, size, cells=second.cells[number]), image_size, stride)
                sources.append(other.to(level_map.device, level_map.dtype))
        if len(sources) == 1:
            return level_map
        return torch.cat([_scaled(source) if self.normalize else source for source in sources], dim=1)

    def extract(self, *_arguments: Any, **_options: Any) -> Features:
        """Refuse latents, from which the second model cannot compute maps.

        Raises:
            ModelError: Whatever is passed.
        """
        raise ModelError(
            "a Fused backbone needs images, because its timm model does not read latents. Pass images, or train "
            "without cached latents."
        )

    def save_pretrained(self, *_arguments: Any, **_options: Any) -> None:
        """Refuse to save, because a folder of a backbone cannot contain the timm model.

        Raises:
            ModelError: Whatever is passed.
        """
        raise ModelError(
            "a Fused backbone, or a model on it, cannot be saved as a folder, because the timm model has no place "
            "there. Save state_dict() with torch or safetensors, and build the Fused backbone again to load it."
        )


def _scaled(level_map: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Scale each cell so that the root mean square over its channels is 1."""
    return (F.normalize(level_map.float(), dim=1) * math.sqrt(level_map.shape[1])).to(level_map.dtype)
