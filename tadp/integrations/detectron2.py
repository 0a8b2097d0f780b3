"""detectron2: a `Backbone` for its feature pyramid networks and detectors."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.captioner import Captioner
from tadp.files.checks import need
from tadp.integrations.call_text import CaptionSource
from tadp.integrations.pyramid import Pyramid, as_pyramid

INSTALL = "it is not on PyPI; see detectron2's own installation guide."
# Config values for which detectron2 passes RGB in [0, 1]. By default its models take BGR from 0 to 255.
PIXELS = {"PIXEL_MEAN": [0.0, 0.0, 0.0], "PIXEL_STD": [255.0, 255.0, 255.0]}
FORMAT = "RGB"


def backbone_of(
    backbone: TADPBackbone | Pyramid,
    *,
    out_features: Sequence[str] | None = None,
    captioner: Captioner | str | None = None,
    captions: CaptionSource | None = None,
    text: str | None = None,
) -> Any:
    """Wrap a backbone as a `detectron2.modeling.Backbone`, with maps named "stride8", "stride16" and so on.

    The detectron2 config needs `MODEL.PIXEL_MEAN` and `MODEL.PIXEL_STD` from `PIXELS` in this module, and
    `INPUT.FORMAT = "RGB"`.

    Args:
        backbone: A backbone; or a `Pyramid`, to choose levels, a map at stride 4, or a normalisation of pixels.
        out_features: Names of the maps to return, such as "stride8". None is all maps. Other maps are not computed, and
            the layers that only they need are frozen.
        captioner: A captioner, or its name, for images that come without text; see `Pyramid`.
        captions: Captions for images that come without text; see `Pyramid`.
        text: One text for all images that come without text.

    Raises:
        MissingExtraError: If detectron2 is not installed.
        ValueError: If a name in `out_features` is not the name of a map.
    """
    modeling, layers = (need(f"detectron2.{name}", install=INSTALL) for name in ("modeling", "layers"))
    pyramid = as_pyramid(backbone, captioner=captioner, captions=captions, text=text)
    info = pyramid.feature_info
    names = [f"stride{stride}" for stride in info.reduction]
    selected = tuple(names if out_features is None else out_features)
    unknown = [name for name in selected if name not in names]
    if unknown:
        raise ValueError(f"no map {unknown[0]!r}; this backbone has {', '.join(names)}.")
    indices = [names.index(name) for name in selected]
    pyramid.freeze_unused(indices)

    class Detectron2Backbone(modeling.Backbone):
        def __init__(self) -> None:
            super().__init__()
            self.pyramid = pyramid

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return dict(zip(selected, self.pyramid(image, indices=indices), strict=True))

        def output_shape(self) -> dict[str, Any]:
            shapes = zip(names, info.channels, info.reduction, strict=True)
            return {name: layers.ShapeSpec(channels=c, stride=stride) for name, c, stride in shapes if name in selected}

        @property
        def size_divisibility(self) -> int:
            return pyramid.backbone.vae.reduction * pyramid.backbone.layout.multiple

    return Detectron2Backbone()


def register(
    backbone: TADPBackbone | Pyramid,
    *,
    name: str = "build_tadp_backbone",
    captioner: Captioner | str | None = None,
    captions: CaptionSource | None = None,
    text: str | None = None,
) -> None:
    """Register a backbone for configs, which select it by `MODEL.BACKBONE.NAME = name`.

    All models built this way share the backbone.

    Args:
        backbone: A backbone; or a `Pyramid`, to choose levels, a map at stride 4, or a normalisation of pixels.
        name: Name of the backbone in configs.
        captioner: A captioner, or its name, for images that come without text; see `Pyramid`.
        captions: Captions for images that come without text; see `Pyramid`.
        text: One text for all images that come without text.

    Raises:
        MissingExtraError: If detectron2 is not installed.
    """
    registry = need("detectron2.modeling", install=INSTALL).BACKBONE_REGISTRY
    pyramid = as_pyramid(backbone, captioner=captioner, captions=captions, text=text)

    def build(_cfg: Any, _input_shape: Any) -> Any:
        return backbone_of(pyramid)

    build.__name__ = name
    registry.register(build)
