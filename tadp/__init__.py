"""Text-image alignment for diffusion-based perception: a diffusion model as a vision backbone.

    captions = captioner(images)               # list[str], one an image
    features = backbone(images, captions)      # Features: maps, attention, image_size
    logits = head(features)                    # heads.SegmentationHead, DepthHead, DetectionHead, LinearHead

The names below load when first used, and torch, diffusers and transformers with them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tadp import heads as heads
    from tadp import personalize as personalize
    from tadp.backbone import TADPBackbone as TADPBackbone
    from tadp.captioner import Captioner as Captioner
    from tadp.captions import CaptionTable as CaptionTable
    from tadp.features import AttentionMaps as AttentionMaps
    from tadp.features import FeatureInfo as FeatureInfo
    from tadp.features import Features as Features
    from tadp.modifiers import CaptionModifier as CaptionModifier
    from tadp.tasks import TADPForDepthEstimation as TADPForDepthEstimation
    from tadp.tasks import TADPForObjectDetection as TADPForObjectDetection
    from tadp.tasks import TADPForSemanticSegmentation as TADPForSemanticSegmentation
    from tadp.text import Conditioning as Conditioning

__version__ = "0.1.0"

_HOMES = {
    "AttentionMaps": "tadp.features",
    "CaptionTable": "tadp.captions",
    "CaptionModifier": "tadp.modifiers",
    "Captioner": "tadp.captioner",
    "Conditioning": "tadp.text",
    "FeatureInfo": "tadp.features",
    "Features": "tadp.features",
    "TADPBackbone": "tadp.backbone",
    "TADPForDepthEstimation": "tadp.tasks",
    "TADPForObjectDetection": "tadp.tasks",
    "TADPForSemanticSegmentation": "tadp.tasks",
    "heads": "tadp",
    "personalize": "tadp",
}
__all__ = [
    "AttentionMaps",
    "CaptionModifier",
    "CaptionTable",
    "Captioner",
    "Conditioning",
    "FeatureInfo",
    "Features",
    "TADPBackbone",
    "TADPForDepthEstimation",
    "TADPForObjectDetection",
    "TADPForSemanticSegmentation",
    "__version__",
    "heads",
    "personalize",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tadp' has no attribute {name!r}; it has {', '.join(__all__)}.")
    home = _HOMES[name]
    value = import_module(f"tadp.{name}") if home == "tadp" else getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
