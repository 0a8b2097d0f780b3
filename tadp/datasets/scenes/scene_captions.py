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
    """Describe the visible objects and their place in a sentence.

    Args:
        visible: The visible objects, from left to right.
        shares: The share of the image's pixels that each of these objects covers, in [0, 1].
        background: The kind of place, a key of `BACKGROUNDS`.
        style: The scene's style, such as "plain" or "night".
        rng: Random number generator that draws one of many forms of the sentence; None gives the plain form.
    """
    objects = list(visible)
    place = BACKGROUNDS[background][0]
    if rng is None:
        phrases = [f"{_article(shown.color)} {shown.name}" for shown in objects]
        return _styled(_listed(phrases) + " " + place, style)
    objects = [objects[k] for k in rng.permutation(len(objects))] if rng.random() < 0.5 else objects
    share_of = dict(zip(visible, shares, strict=True))
    phrases = []
    for scene_object in objects:
        words = [_size_word(share_of[scene_object])] if rng.random() < 0.3 else []
        words += [scene_object.color] if rng.random() < 0.8 else []
        words += [scene_object.pattern] if scene_object.pattern != "plain" and rng.random() < 0.15 else []
        phrases.append(_article(" ".join([word for word in words if word] + [scene_object.name])))
    joiner = (" and ", " next to ", " with ")[rng.choice(3, p=(0.6, 0.25, 0.15))]
    text = _listed(phrases, joiner)
    if rng.random() < 0.9 or not objects:
        text = f"{text} {place}"
    opening = ("", "a picture of ", "a photo of ")[rng.choice(3, p=(0.7, 0.15, 0.15))] if style == "plain" else ""
    return _styled(opening + text, style)


def details(visible: Sequence[SceneObject], shares: Sequence[float], background: str) -> str:
    """Describe each object in a sentence or two: its size, distance and side."""
    sentences = []
    for scene_object, share in zip(visible, shares, strict=True):
        x = scene_object.x
        side = "on the left" if x < 0.36 else "on the right" if x > 0.64 else "in the middle"
        distance = "near" if scene_object.distance_m < 3.3 else "far"
        sentences.append(f"the {scene_object.name} is {_size_word(share) or 'medium'}, {distance} and {side}")
        if len(visible) <= 2:  # four objects must still fit into 77 tokens
            direction = "left" if scene_object.faces_left else "right"
            sentences.append(f"it is {scene_object.pattern} and faces {direction}")
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
