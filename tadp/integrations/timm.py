"""timm: a model that returns features, as with `features_only=True`."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.backbone.feature_model import refuse_name
from tadp.files.checks import need
from tadp.integrations.pyramid import Pyramid, as_pyramid

INSTALL = "pip install 'tadp[timm]'."
# Options of timm's models that do not affect a backbone's maps. Code for many models passes them to every model.
_WITHOUT_MEANING = {"num_classes", "global_pool", "drop_rate", "drop_path_rate", "img_size"}


class TimmFeatures(nn.Module):
    """A backbone with the interface of timm's `create_model(…, features_only=True)`: `feature_info` and a list of maps.

    Args:
        backbone: A backbone; or a `Pyramid`, to choose levels, a map at stride 4, or a normalisation of pixels.
        out_indices: Numbers of the maps to return, with 0 the finest. A single number n stands for the last n maps;
            None is all maps.

    Raises:
        MissingExtraError: If timm is not installed.
        ValueError: If a map in `out_indices` does not exist.

    Example:
        >>> features = TimmFeatures(TADPBackbone.from_pretrained("tadp-tiny"), out_indices=(0, 1))
        >>> features.feature_info.channels(), features.feature_info.reduction()
        ([32, 141], [8, 16])
    """

    def __init__(self, backbone: TADPBackbone | Pyramid, *, out_indices: int | Sequence[int] | None = None):
        super().__init__()
        models = need("timm.models", install=INSTALL)
        self.pyramid = as_pyramid(backbone)
        info = self.pyramid.feature_info
        indices = _check_indices(out_indices, len(info))
        self.out_indices = indices
        self.feature_info = models.FeatureInfo(
            [
                {"num_chs": channels, "reduction": reduction, "module": f"stride{reduction}", "index": index}
                for index, (channels, reduction) in enumerate(zip(info.channels, info.reduction, strict=True))
            ],
            indices,
        )

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The pyramid's mean and std, from which `timm.data.resolve_model_data_config` makes transforms."""
        pyramid = self.pyramid
        return {"mean": pyramid.mean or (0.0, 0.0, 0.0), "std": pyramid.std or (1.0, 1.0, 1.0)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch gradient checkpointing, by timm's name; see `TADPBackbone.enable_gradient_checkpointing`."""
        self.pyramid.backbone.enable_gradient_checkpointing(enable)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        """Compute the maps of `out_indices`; see `Pyramid`."""
        return self.pyramid(x, indices=self.out_indices)


def register(backbone: TADPBackbone | Pyramid, *, name: str = "tadp") -> None:
    """Register a backbone, so that `timm.create_model("tadp", features_only=True, out_indices=…)` returns it.

    All models created in this way share the backbone.

    Args:
        backbone: A backbone; or a `Pyramid`, to choose levels, a map at stride 4, or a normalisation of pixels.
        name: Name of the model in timm, "tadp" by default. A backbone that was registered with the same name is
            replaced.

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

    def entry(
        pretrained: bool = False,
        *,
        features_only: bool = False,
        out_indices: Any = None,
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
        features = TimmFeatures(backbone, out_indices=out_indices)
        strides = features.feature_info.reduction()
        if output_stride is not None and output_stride < max(strides):
            raise ValueError(
                f"{name!r} cannot be dilated: its maps have strides {strides}; got output_stride={output_stride}. "
                "Leave it out, and choose maps by out_indices."
            )
        return features

    registry._model_entrypoints[name] = entry


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
