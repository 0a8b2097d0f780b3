"""timm: a model of `features_only=True`."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.integrations.packages import need
from tadp.integrations.pyramid import Pyramid, as_pyramid

INSTALL = "pip install 'tadp[timm]'."


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
    """
    registry = need("timm.models._registry", install=INSTALL)
    if getattr(registry._model_entrypoints.get(name), "__module__", __name__) != __name__:
        raise ValueError(f"timm has a model {name!r} of its own; choose another name.")

    def entry(
        pretrained: bool = False,
        *,
        features_only: bool = False,
        out_indices: Any = None,
        in_chans: int = 3,
        **_options: Any,
    ) -> TimmFeatures:
        if not features_only:
            raise ValueError(f"{name!r} gives features, no classes; pass features_only=True.")
        if in_chans != 3:
            raise ValueError(f"the VAE takes images of 3 channels; got in_chans={in_chans}.")
        return TimmFeatures(backbone, out_indices=out_indices)

    registry._model_entrypoints[name] = entry


def _checked_indices(indices: int | Sequence[int] | None, count: int) -> tuple[int, ...]:
    if indices is None:
        return tuple(range(count))
    if isinstance(indices, int):
        indices = range(count - indices, count)
    taken = tuple(index + count if index < 0 else index for index in indices)
    if not taken or any(index not in range(count) for index in taken):
        raise ValueError(f"out_indices are of the {count} maps 0 to {count - 1}; got {list(indices)}.")
    return taken
