"""timm: a model that returns features, as with `features_only=True`."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.backbone.feature_model import refuse_name
from tadp.captioner import Captioner
from tadp.files.checks import need
from tadp.integrations.call_text import CaptionSource
from tadp.integrations.pyramid import Pyramid, as_pyramid

INSTALL = "pip install 'tadp[timm]'."
# Options of timm's models that do not affect a backbone's maps. Code for many models passes them to every model.
_WITHOUT_MEANING = {"num_classes", "global_pool", "drop_rate", "drop_path_rate", "img_size", "pretrained_model_args"}
FeatureClass = Literal["list", "dict"]
# timm's classes that extract features, and what they return
_CLASSES: dict[str, FeatureClass] = {
    "list": "list", "hook": "list", "fx": "list", "getter": "list", "dict": "dict", "featurelistnet": "list",
    "featurehooknet": "list", "featuregraphnet": "list", "featuregetternet": "list", "featuredictnet": "dict",
}  # fmt: skip


class TimmFeatures(nn.Module):
    """A backbone with the interface of timm's `create_model(…, features_only=True)`: `feature_info` and a list of maps.

    Args:
        backbone: A backbone; or a `Pyramid`, to choose levels, a map at stride 4, or a normalisation of pixels.
        out_indices: Numbers of the maps to return, with 0 the finest. A single number n stands for the last n maps;
            None is all maps. Other maps are not computed, and the layers that only they need are frozen.
        captioner: A captioner, or its name, for images that come without text; see `Pyramid`.
        captions: Captions for images that come without text; see `Pyramid`.
        text: One text for all images that come without text.
        feature_cls: Whether the maps are returned as a "list", or as a "dict" with their numbers as keys: "0", "1", ….
        name: Name of the model in timm, which timm's `save_for_hf` writes.

    Attributes:
        feature_info: timm's `FeatureInfo` of the maps.
        pretrained_cfg: timm's description of the model: its name, the pyramid's mean and std, and the size of images on
            which the base model was trained. `timm.data.resolve_model_data_config` makes transforms from it.
        default_cfg: The same, by timm's older name.

    Raises:
        MissingExtraError: If timm is not installed.
        ValueError: If a map in `out_indices` does not exist.

    Example:
        >>> features = TimmFeatures(TADPBackbone.from_pretrained("tadp-tiny"), out_indices=(0, 1), text="")
        >>> features.feature_info.channels(), features.feature_info.reduction()
        ([32, 141], [8, 16])
    """

    def __init__(
        self,
        backbone: TADPBackbone | Pyramid,
        *,
        out_indices: int | Sequence[int] | None = None,
        captioner: Captioner | str | None = None,
        captions: CaptionSource | None = None,
        text: str | None = None,
        feature_cls: FeatureClass = "list",
        name: str = "tadp",
    ):
        super().__init__()
        models, layers = (need(f"timm.{part}", install=INSTALL) for part in ("models", "layers"))
        self.pyramid = as_pyramid(backbone, captioner=captioner, captions=captions, text=text)
        info = self.pyramid.feature_info
        indices = _check_indices(out_indices, len(info))
        self.out_indices = indices
        self.pyramid.freeze_unused(indices)
        self.feature_info = models.FeatureInfo(
            [
                {"num_chs": channels, "reduction": reduction, "module": f"stride{reduction}", "index": index}
                for index, (channels, reduction) in enumerate(zip(info.channels, info.reduction, strict=True))
            ],
            indices,
        )

        self.feature_cls: FeatureClass = feature_cls
        self.output_fmt = layers.Format("NCHW")
        self.pretrained_cfg = self.default_cfg = _description(self.pyramid, name)
        # What `save_for_hf` reads, so that `create_model("local-dir:…")` builds the same model again.
        self.num_classes, self.num_features = 0, info.channels[indices[-1]]
        self._model_args = {"features_only": True, "out_indices": list(indices), "feature_cls": feature_cls}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch gradient checkpointing, by timm's name; see `TADPBackbone.enable_gradient_checkpointing`."""
        self.pyramid.backbone.enable_gradient_checkpointing(enable)

    @property
    def grad_checkpointing(self) -> bool:
        """Whether gradient checkpointing is on."""
        backbone = self.pyramid.backbone
        return backbone.family.is_checkpointed(backbone.unet)

    def forward(
        self, x: Float[Tensor, "b 3 h w"]
    ) -> "list[Float[Tensor, 'b _c _h _w']] | OrderedDict[str, Float[Tensor, 'b _c _h _w']]":
        """Compute the maps of `out_indices`; see `Pyramid`."""
        maps = self.pyramid(x, indices=self.out_indices)
        if self.feature_cls == "list":
            return maps
        return OrderedDict((str(index), level) for index, level in zip(self.out_indices, maps, strict=True))


def register(
    backbone: TADPBackbone | Pyramid,
    *,
    name: str = "tadp",
    captioner: Captioner | str | None = None,
    captions: CaptionSource | None = None,
    text: str | None = None,
) -> None:
    """Register a backbone, so that `timm.create_model("tadp", features_only=True, out_indices=…)` returns it.

    All models created in this way share the backbone. `create_model("local-dir:folder", pretrained=True)` also loads
    into it the weights that `timm.models.save_for_hf` wrote, and "hf-hub:owner/name" those of `push_to_hf_hub`.

    Args:
        backbone: A backbone; or a `Pyramid`, to choose levels, a map at stride 4, or a normalisation of pixels.
        name: Name of the model in timm, "tadp" by default. A backbone that was registered with the same name is
            replaced.
        captioner: A captioner, or its name, for images that come without text; see `Pyramid`.
        captions: Captions for images that come without text; see `Pyramid`.
        text: One text for all images that come without text.

    Raises:
        MissingExtraError: If timm is not installed.
        ValueError: If timm has a model of its own with this name.
        TypeError: If `backbone` is the name of a model rather than a loaded backbone.
    """
    if not isinstance(backbone, Pyramid):
        refuse_name(backbone)
    registry = need("timm.models._registry", install=INSTALL)
    if getattr(registry._model_entrypoints.get(name), "__module__", __name__) != __name__:
        raise ValueError(f"timm has a model {name!r} of its own; choose another name.")

    pyramid = as_pyramid(backbone, captioner=captioner, captions=captions, text=text)

    def entry(
        pretrained: bool = False,
        *,
        features_only: bool = False,
        out_indices: Any = None,
        feature_cls: Any = "list",
        in_chans: int = 3,
        output_stride: int | None = None,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        **options: Any,
    ) -> TimmFeatures:
        if not features_only:
            raise ValueError(f"{name!r} returns features, not classes; pass features_only=True.")
        if in_chans != 3:
            raise ValueError(f"the VAE takes images of 3 channels; got in_chans={in_chans}.")
        unknown = sorted(set(options) - _WITHOUT_MEANING)
        if unknown:
            raise TypeError(f"{name!r} has no option {unknown[0]!r}; it takes features_only and out_indices.")
        kind = _CLASSES.get(getattr(feature_cls, "__name__", str(feature_cls)).lower())
        if kind is None:
            raise ValueError(f"feature_cls must be list, dict, hook, fx or getter; got {feature_cls!r}.")
        features = TimmFeatures(pyramid, out_indices=out_indices, feature_cls=kind, name=name)
        strides = features.feature_info.reduction()
        if output_stride is not None and output_stride < max(strides):
            raise ValueError(
                f"{name!r} cannot be dilated: its maps have strides {strides}; got output_stride={output_stride}. "
                "Leave it out, and choose maps by out_indices."
            )
        if pretrained and isinstance(pretrained_cfg, Mapping) and pretrained_cfg.get("source"):
            _load(features, dict(pretrained_cfg), cache_dir)
        return features

    registry._model_entrypoints[name] = entry


def _description(pyramid: Pyramid, name: str) -> dict[str, Any]:
    """What timm calls the `pretrained_cfg` of a model."""
    backbone = pyramid.backbone
    cells = backbone.family.native_cells(backbone.unet)
    side = {} if cells is None else {"input_size": (3, cells * backbone.vae.reduction, cells * backbone.vae.reduction)}
    statistics = {"mean": pyramid.mean or (0.0, 0.0, 0.0), "std": pyramid.std or (1.0, 1.0, 1.0)}
    return {"architecture": name, "input_size": (3, 224, 224), "first_conv": None, **side, **statistics}


def _load(features: TimmFeatures, description: dict[str, Any], cache_dir: Any) -> None:
    """Load the weights that `save_for_hf` or `push_to_hf_hub` saved, which must take pixels normalised in one way."""
    for key in ("mean", "std"):
        own, saved = features.pretrained_cfg[key], description.get(key)
        if saved is not None and tuple(saved) != tuple(own):
            raise ValueError(
                f"the saved model takes pixels of {key} {tuple(saved)}, but the registered one of {tuple(own)}; "
                f"register a Pyramid with mean={tuple(description['mean'])} and std={tuple(description['std'])}."
            )
    models = need("timm.models", install=INSTALL)
    models.load_pretrained(features, pretrained_cfg=description, num_classes=0, cache_dir=cache_dir)


def _check_indices(indices: int | Sequence[int] | None, count: int) -> tuple[int, ...]:
    if indices is None:
        return tuple(range(count))
    if isinstance(indices, int):
        indices = range(count - indices, count)
    if isinstance(indices, str):
        raise TypeError(f"out_indices must be numbers, such as (0, 1); got {indices!r}.")
    positive = tuple(index + count if index < 0 else index for index in indices)
    if not positive or any(index not in range(count) for index in positive):
        raise ValueError(f"out_indices must be among the {count} maps, 0 to {count - 1}; got {list(indices)}.")
    return positive
