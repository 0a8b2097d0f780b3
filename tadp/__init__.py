"""Text-image alignment for diffusion-based perception: a diffusion model as a vision backbone.

    captions = captioner(images)               # list[str], one per image
    features = backbone(images, captions)      # Features: maps, attention, image_size
    logits = head(features)                    # heads.SegmentationHead, DepthHead, DetectionHead, LinearHead

Every name of this package is imported when it is first used, together with torch, diffusers and transformers. So
`import tadp` is fast.
"""

from tadp._lazy import lazy
from tadp._version import __version__ as __version__

TYPE_CHECKING = False  # as in `typing`, whose import would take most of the time of `import tadp`
if TYPE_CHECKING:
    from tadp import heads as heads
    from tadp import metrics as metrics
    from tadp import personalize as personalize
    from tadp import prompts as prompts
    from tadp.backbone import TADPBackbone as TADPBackbone
    from tadp.captioner import Captioner as Captioner
    from tadp.captions import CaptionTable as CaptionTable
    from tadp.correspondence import match as match
    from tadp.features import AttentionMaps as AttentionMaps
    from tadp.features import FeatureInfo as FeatureInfo
    from tadp.features import Features as Features
    from tadp.modifiers import CaptionModifier as CaptionModifier
    from tadp.tasks import TADPForDepthEstimation as TADPForDepthEstimation
    from tadp.tasks import TADPForObjectDetection as TADPForObjectDetection
    from tadp.tasks import TADPForSemanticSegmentation as TADPForSemanticSegmentation
    from tadp.text.conditioning import Conditioning as Conditioning


_HOMES = {
    "AttentionMaps": "features",
    "CaptionTable": "captions",
    "CaptionModifier": "modifiers",
    "Captioner": "captioner",
    "Conditioning": "text.conditioning",
    "FeatureInfo": "features",
    "Features": "features",
    "TADPBackbone": "backbone",
    "TADPForDepthEstimation": "tasks",
    "TADPForObjectDetection": "tasks",
    "TADPForSemanticSegmentation": "tasks",
    "heads": "heads",
    "match": "correspondence",
    "metrics": "metrics",
    "personalize": "personalize",
    "prompts": "prompts",
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
    "match",
    "metrics",
    "personalize",
    "prompts",
]
__getattr__, __dir__ = lazy(__name__, _HOMES, names=__all__)
