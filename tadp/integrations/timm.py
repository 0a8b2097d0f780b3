"""timm: a model of `features_only=True`."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.backbone.backbone import refuse_name
from tadp.files.checks import need
from tadp.integrations.pyramid import Pyramid, as_pyramid

INSTALL = "pip install 'tadp[timm]'."
# Options of timm's models that say nothing of a backbone's maps; code for many models passes them to all.
_WITHOUT_MEANING = {"num_classes", "global_pool", "drop_rate", "drop_path_rate", "img_size"}


class TimmFeatures(nn.Module):
    """A backbone as timm's `create_model(…, features_only=True)` returns one: `feature_info`, and a list of maps.

    Args:
        backbone: A backbone, or a `Pyramid` with options of its own (stride 4, mean and std).
        out_indices: Which maps of the pyramid, by number; a number n is the last n; None is all.

    Raises:
        MissingExtraError: If timm is missing.
        ValueError: If a map does not exist.

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
        indices = _checked_indices(out_indices, len(info))
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
        """What `timm.data.resolve_model_data_config` makes transforms of: the pyramid's mean and std."""
        pyramid = self.pyramid
        return {"mean": pyramid.mean or (0.0, 0.0, 0.0), "std": pyramid.std or (1.0, 1.0, 1.0)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As timm's models have it; see `TADPBackbone.enable_gradient_checkpointing`."""
        self.pyramid.backbone.enable_gradient_checkpointing(enable)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        """The chosen maps; see `Pyramid`."""
        maps = self.pyramid(x)
        return [maps[index] for index in self.out_indices]


def register(backbone: TADPBackbone | Pyramid, *, name: str = "tadp") -> None:
    """Let `timm.create_model(name, features_only=True, out_indices=…)` give this backbone.

    Every model made so shares it. In place of one that was registered here under the name.

    Raises:
        MissingExtraError: If timm is missing.
        ValueError: If timm has a model of this name.
        TypeError: If the backbone is a name.
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
            raise ValueError(f"{name!r} gives features, no classes; pass features_only=True.")
        if in_chans != 3:
            raise ValueError(f"the VAE takes images of 3 channels; got in_chans={in_chans}.")
        unknown = sorted(set(options) - _WITHOUT_MEANING)
        if unknown:
            raise TypeError(f"{name!r} has no option {unknown[0]!r}; it takes features_only and out_indices.")
        features = TimmFeatures(backbone, out_indices=out_indices)
        strides = features.feature_info.reduction()
        if output_stride is not None and output_stride < max(strides):
            raise ValueError(
                f"{name!r} is not dilated: its maps have strides {strides}; got output_stride={output_stride}. Leave "
                "it out, and choose maps by out_indices."
            )
        return features

    registry._model_entrypoints[name] = entry


def _checked_indices(indices: int | Sequence[int] | None, count: int) -> tuple[int, ...]:
    if indices is None:
        return tuple(range(count))
    if isinstance(indices, int):
        indices = range(count - indices, count)
    if isinstance(indices, str):
        raise TypeError(f"out_indices are numbers, such as (0, 1); got {indices!r}.")
    taken = tuple(index + count if index < 0 else index for index in indices)
    if not taken or any(index not in range(count) for index in taken):
        raise ValueError(f"out_indices are of the {count} maps 0 to {count - 1}; got {list(indices)}.")
    return taken
