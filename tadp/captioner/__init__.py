"""From images to words: any image-text-to-text model of transformers behind one call.

    captioner = Captioner.from_pretrained("tadp-tiny")
    captions = captioner(["one.jpg", "two.png"])   # list[str], one an image

BLIP, BLIP-2, GIT, PaliGemma, LLaVA, Qwen-VL, SmolVLM and their like load the same way. A captioner stands beside a
backbone and is never a part of it, so no `state_dict` holds one.
"""

from tadp.captioner.captioner import INSTRUCTION as INSTRUCTION
from tadp.captioner.captioner import Captioner as Captioner
from tadp.captioner.decoding import Decoding as Decoding
from tadp.captioner.quality import Caption as Caption

__all__ = ["INSTRUCTION", "Caption", "Captioner", "Decoding"]
