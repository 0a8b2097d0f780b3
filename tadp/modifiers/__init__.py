"""Caption modifiers, which adapt captions, and possibly the backbone, to a target domain such as watercolors.

    modifier = CaptionModifier.style("watercolor")
    modifier(["a dog on a sled"])          # ["a watercolor painting of a dog on a sled"]

    modifier = CaptionModifier.from_pretrained("my-watercolors")   # with a learned token, or a U-Net from DreamBooth
    with modifier.install(backbone):
        features = backbone(images, modifier(captions))

Source: TADP Sec. 4.3, where modifiers are called M(P).
"""

from tadp.modifiers.caption_templates import Kind as Kind
from tadp.modifiers.caption_templates import PaperDomain as PaperDomain
from tadp.modifiers.installation import Installation as Installation
from tadp.modifiers.modifier import CaptionModifier as CaptionModifier
from tadp.modifiers.steps import CONFIG_NAME as CONFIG_NAME

__all__ = ["CONFIG_NAME", "CaptionModifier", "Installation", "Kind", "PaperDomain"]
