"""Counts of the classes that captions name and that their images show, with several definitions of a mention."""

import math
import statistics
from typing import Any

from tadp.language.class_names import VOC_CLASSES, VOC_DECOYS, VOC_SYNONYMS
from tadp.language.matching import mentions
from tadp.metrics import CaptionAlignment, caption_alignment

NAMES, WORDS, BEST, NOUNS = "names", "names and synonyms", "the same, without look-alikes", "the same, only nouns"
ORACLE = (1.0, 0.5)  # precision and recall of the oracle that BLIP-2 performs like (TADP Sec. 4.2)
MEASURES = ("precision", "recall", "macro_precision", "macro_recall")


def alignments(captions: list[str], present: list[set[str]], nouns: list[str] | None) -> dict[str, CaptionAlignment]:
    """The alignment for each definition of a mention: only names, then also the tables of synonyms and look-alikes."""
    full: dict[str, Any] = {"synonyms": VOC_SYNONYMS, "decoys": VOC_DECOYS}
    ways = [(NAMES, captions, {}), (WORDS, captions, {"synonyms": VOC_SYNONYMS}), (BEST, captions, full)]
    if nouns is not None:
        ways.append((NOUNS, nouns, full))
    return {way: caption_alignment(texts, present, classes=VOC_CLASSES, **tables) for way, texts, tables in ways}


def find_nouns(captions: list[str]) -> list[str]:
    from tadp import prompts

    return prompts.nouns(captions)


def noun_share(nouns: list[str]) -> float:
    """Share of the captions' nouns that name a class."""
    classes = [
        text[mention.start : mention.stop]
        for text in nouns
        for mention in mentions(text, (*VOC_CLASSES, *VOC_DECOYS), synonyms=VOC_SYNONYMS)
        if mention.name in VOC_CLASSES
    ]
    return sum(len(text.split()) for text in classes) / sum(len(text.split()) for text in nouns)


def count_tokens(captions: list[str], name: str) -> dict[str, float]:
    """CLIP tokens per caption, including the start and end tokens."""
    from transformers import CLIPTokenizer

    counts = [len(ids) for ids in CLIPTokenizer.from_pretrained(name)(captions, verbose=False)["input_ids"]]
    return {"mean": statistics.mean(counts), "max": max(counts), "over_77": sum(count > 77 for count in counts)}


def figures(results: dict[str, CaptionAlignment], tokens: dict[str, float] | None) -> dict[str, Any]:
    rows = {
        way: {
            **{measure: known(getattr(alignment, measure)) for measure in MEASURES},
            "classes": {name: vars(counts) for name, counts in alignment.classes.items()},
        }
        for way, alignment in results.items()
    }
    return {"images": len(results[NAMES].present), "alignment": rows, "tokens": tokens}


def known(value: float) -> float | None:
    return None if math.isnan(value) else value
