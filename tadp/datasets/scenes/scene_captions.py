"""Captions of a rendered scene."""

from collections.abc import Sequence

import numpy as np

from tadp.datasets.scenes.backdrops import BACKGROUNDS
from tadp.datasets.scenes.scene_objects import SceneObject


def sentence(
    visible: Sequence[SceneObject],
    shares: Sequence[float],
    background: str,
    style: str,
    rng: np.random.Generator | None,
) -> str:
    """What is visible, and where; with a generator in one of many forms.

    Args:
        visible: The objects, left to right.
        shares: The share of the image's pixels that each covers.
        background: A name of `BACKGROUNDS`.
        style: The scene's style.
        rng: Source of the form; None for the plain sentence.
    """
    items = list(visible)
    place = BACKGROUNDS[background][0]
    if rng is None:
        phrases = [f"{_article(item.color)} {item.name}" for item in items]
        return _styled(_listed(phrases) + " " + place, style)
    items = [items[k] for k in rng.permutation(len(items))] if rng.random() < 0.5 else items
    share_of = dict(zip(visible, shares, strict=True))
    phrases = []
    for item in items:
        words = [_size_word(share_of[item])] if rng.random() < 0.3 else []
        words += [item.color] if rng.random() < 0.8 else []
        words += [item.pattern] if item.pattern != "plain" and rng.random() < 0.15 else []
        phrases.append(_article(" ".join([w for w in words if w] + [item.name])))
    joiner = (" and ", " next to ", " with ")[rng.choice(3, p=(0.6, 0.25, 0.15))]
    text = _listed(phrases, joiner)
    if rng.random() < 0.9 or not items:
        text = f"{text} {place}"
    opening = ("", "a picture of ", "a photo of ")[rng.choice(3, p=(0.7, 0.15, 0.15))] if style == "plain" else ""
    return _styled(opening + text, style)


def details(visible: Sequence[SceneObject], shares: Sequence[float], background: str) -> str:
    """A sentence or two on each object: size, distance and side."""
    sentences = []
    for item, share in zip(visible, shares, strict=True):
        side = "on the left" if item.x < 0.36 else "on the right" if item.x > 0.64 else "in the middle"
        distance = "near" if item.distance_m < 3.3 else "far"
        sentences.append(f"the {item.name} is {_size_word(share) or 'medium'}, {distance} and {side}")
        if len(visible) <= 2:  # so that four objects still fit 77 tokens
            sentences.append(f"it is {item.pattern} and faces {'left' if item.faces_left else 'right'}")
    if len(visible) <= 3:
        sentences.append(f"there is {'nothing else' if visible else 'nothing'} {BACKGROUNDS[background][0]}")
    return "".join(f". {sentence}" for sentence in sentences)


def _size_word(share: float) -> str:
    return "small" if share < 0.03 else "big" if share > 0.1 else ""


def _article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _listed(phrases: list[str], joiner: str = " and ") -> str:
    if not phrases:
        return "nothing"
    return ", ".join(phrases[:-1]) + joiner + phrases[-1] if len(phrases) > 1 else phrases[0]


def _styled(text: str, style: str) -> str:
    return {
        "plain": text,
        "watercolor": f"a watercolor painting of {text}",
        "comic": f"a comic style painting of {text}",
        "night": f"a dark night photo of {text}",
    }[style]
