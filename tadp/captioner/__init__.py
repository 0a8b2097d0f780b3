"""Captions of images from any image-text-to-text model of transformers, with one call.

    captioner = Captioner.from_pretrained("tadp-tiny")
    captions = captioner(["one.jpg", "two.png"])   # list[str], one caption per image

BLIP, BLIP-2, GIT, PaliGemma, LLaVA, Qwen-VL, SmolVLM and similar models are loaded in the same way. A captioner is
never a submodule of a backbone, so a backbone's `state_dict` never contains a captioner.
"""

from tadp.captioner.captioner import Captioner as Captioner
from tadp.captioner.decoding import Decoding as Decoding
from tadp.captioner.model_files import INSTRUCTION as INSTRUCTION
from tadp.captioner.quality import Caption as Caption

__all__ = ["INSTRUCTION", "Caption", "Captioner", "Decoding"]
