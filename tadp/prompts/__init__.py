"""Prompts: text for the backbone that is made from class names, in every form of the paper's Sec. 3 and 4.2.

    backbone(images, prompts.class_names(classes, count=len(images)))   # list[str], one prompt per image
    backbone(images, prompts.averaged_eos(classes, backbone))           # Conditioning, shared by all images

Prompts in words are lists of strings, and embeddings are a `Conditioning`; a backbone takes both. Captions come from
`tadp.Captioner`, whose `min_new_tokens` is the paper's minimum caption length (0, 20 or 40).
"""

from tadp.metrics import Agreement as Agreement
from tadp.prompts.embeddings import BATCH as BATCH
from tadp.prompts.embeddings import averaged_eos as averaged_eos
from tadp.prompts.embeddings import class_embeddings as class_embeddings
from tadp.prompts.name_templates import CLIP_TEMPLATES as CLIP_TEMPLATES
from tadp.prompts.oracle import agreement as agreement
from tadp.prompts.oracle import oracle as oracle
from tadp.prompts.oracle import oracle_classes as oracle_classes
from tadp.prompts.strings import class_names as class_names
from tadp.prompts.strings import nouns as nouns
from tadp.prompts.strings import null as null

__all__ = [
    "BATCH",
    "CLIP_TEMPLATES",
    "Agreement",
    "agreement",
    "averaged_eos",
    "class_embeddings",
    "class_names",
    "nouns",
    "null",
    "oracle",
    "oracle_classes",
]
