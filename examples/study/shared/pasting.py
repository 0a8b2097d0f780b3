"""Objects of one scene pasted into another, and texts that name them or not."""

from dataclasses import dataclass

import numpy as np

from .images import Images
from .settings import StopStudyError

SMALLEST = 0.02  # share of the image that a pasted object covers at least
NAMED, NOT_NAMED, ABSENT = "object named", "object not named", "absent object named"


@dataclass(frozen=True)
class Paste:
    """A scene with an object of another scene.

    Attributes:
        original: The scene, (H, W, 3), uint8.
        image: The scene with the object at the place that it had in its own scene, (H, W, 3), uint8.
        mask: Whether a pixel belongs to the object, (H, W), bool.
        name: Class of the object.
        texts: A text for each of `NAMED`, `NOT_NAMED` and `ABSENT`: the scene's caption, preceded by the object, by
            nothing, or by a class that is in neither picture.
    """

    original: np.ndarray
    image: np.ndarray
    mask: np.ndarray
    name: str
    texts: dict[str, str]


def paste(half: Images, number: int) -> Paste | None:
    """Paste the largest object of the next scene that has a class which this scene lacks; None if it is too small."""
    if not half.is_rendered:
        raise StopStudyError("only objects of rendered scenes can be pasted; leave out --data.")
    scene = half.data.scenes[number]
    donor = half.data.scenes[(number + 1) % len(half)]
    masks = {name: donor.mask == 1 + half.names.index(name) for name in donor.names if name not in scene.names}
    if not masks:
        return None
    name = max(masks, key=lambda candidate: int(masks[candidate].sum()))
    mask, caption = masks[name], scene.caption()
    if mask.mean() < SMALLEST:
        return None
    absent = next(other for other in np.roll(half.names, -number) if other not in (*scene.names, *donor.names))
    texts = {NAMED: f"{_article(name)} and {caption}", NOT_NAMED: caption, ABSENT: f"{_article(absent)} and {caption}"}
    return Paste(scene.image, np.where(mask[..., None], donor.image, scene.image), mask, name, texts)


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
