"""Whether captions name the visible objects, and nothing else."""

from collections.abc import Sequence

import tadp
from tadp.datasets.scenes import CLASSES, Scene, Scenes

TEST_SEED = 102


def caption_quality(captioner: tadp.Captioner, test: Sequence[Scene], plain: list[str], count: int) -> dict:
    """The share of visible objects that are named, and of named objects that are visible, for each style."""
    results = {"plain": _precision_recall(test, plain)}
    for style in ("watercolor", "comic", "night"):
        scenes = list(Scenes(count, seed=TEST_SEED, style=style))
        results[style] = _precision_recall(scenes, captioner([scene.image for scene in scenes]))
    return results


def _precision_recall(scenes: Sequence[Scene], captions: list[str]) -> dict[str, float]:
    named = [set(class_words(caption).split()) for caption in captions]
    present = [set(scene.names) for scene in scenes]
    right = sum(len(a & b) for a, b in zip(named, present, strict=True))
    return {"recall": right / sum(map(len, present)), "precision": right / max(sum(map(len, named)), 1)}


def class_words(caption: str) -> str:
    """The class names in a caption, without colours, places and grammar, as an oracle would give them."""
    return " ".join(word for word in caption.replace(",", " ").split() if word in CLASSES)
