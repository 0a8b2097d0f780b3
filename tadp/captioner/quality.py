"""Captions with their problems (empty, a loop, too long for the text encoder), and the warnings about them."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from tadp.datasets.scenes.scene import is_rendered
from tadp.errors import ImageError
from tadp.images.reading import ImageLike
from tadp.language.repetition import is_looping
from tadp.text.clip_tokenizer import TokenCounter

_NAMED = 10  # most images that a warning lists


@dataclass(frozen=True)
class Caption:
    """A caption of an image, with what is wrong with it, if anything.

    Attributes:
        text: The caption.
        problem: "empty" if the caption has no word; "looping" if it repeats itself endlessly, as
            `tadp.language.repetition.is_looping` decides; "broken" if the model computed NaN or infinity for this
            image, and the text is ""; None if nothing is wrong.
        retried: Whether this is the second try, because the first caption was empty or repeated itself endlessly.
        tokens: Number of tokens of the caption in the text encoder, including start and end; None if they were not
            counted.
        fits: Whether the text encoder takes that many tokens; None if they were not counted.
    """

    text: str
    problem: Literal["empty", "looping", "broken"] | None = None
    retried: bool = False
    tokens: int | None = None
    fits: bool | None = None


def checked(text: str, *, retried: bool = False) -> Caption:
    """Make a caption of a text and detect its problem."""
    if not any(letter.isalnum() for letter in text):
        return Caption(text, "empty", retried)
    return Caption(text, "looping" if is_looping(text) else None, retried)


def better(first: Caption, second: Caption) -> Caption:
    """Choose between two tries. A loop is better than an empty caption; if both fail alike, keep the first."""
    if second.problem is None or (first.problem == "empty" and second.problem == "looping"):
        return second
    return replace(first, retried=True)


def counted(captions: list[Caption], counter: TokenCounter) -> list[Caption]:
    """Add the number of the text encoder's tokens to captions."""
    if not captions:
        return []
    counts = counter.count_tokens([caption.text for caption in captions])
    return [
        replace(caption, tokens=count, fits=count <= counter.max_length)
        for caption, count in zip(captions, counts, strict=True)
    ]


def refuse_broken(captions: list[Caption], images: Sequence[ImageLike], *, who: str) -> None:
    """Refuse captions that the model could not compute.

    Raises:
        ImageError: If the model computed NaN or infinity for an image.
    """
    broken = _named([number for number, caption in enumerate(captions) if caption.problem == "broken"], images)
    if broken:
        raise ImageError(
            f"{who} computed NaN or infinity for {broken}, so no caption can be written. In float16 a model can "
            "overflow; use float32 or bfloat16."
        )


def troubles(captions: list[Caption], images: Sequence[ImageLike], *, who: str, retry: bool) -> Iterator[str]:
    """Yield one warning per kind of problem in captions, with the affected images.

    Args:
        captions: All captions of one call of the captioner.
        images: The captioned images. The warnings contain their file names.
        who: The subject of the warnings, such as "the captioner 'tadp-tiny'".
        retry: Whether there was a second try for captions with a problem.
    """

    def named(flags: Iterable[bool | None]) -> str:
        return _named([number for number, flag in enumerate(flags) if flag], images)

    again = "also on a second try. " if retry else "and retry is off. "
    again += "Pass another prompt, num_beams=5, or a temperature."
    if empty := named(caption.problem == "empty" for caption in captions):
        yield f"{who} returned an empty caption for {empty}, {again}"
    if looping := named(caption.problem == "looping" for caption in captions):
        yield f"{who} repeated itself endlessly in the caption for {looping}, {again}"
    if replaced := named(caption.retried and caption.problem is None for caption in captions):
        yield (
            f"{who} first returned an unusable caption for {replaced} (empty, or the same words again and again); "
            "the caption from a second try is used."
        )
    if long := named(caption.fits is False for caption in captions):
        most = max(caption.tokens or 0 for caption in captions)
        yield (
            f"{who} returned a longer caption for {long} than the text encoder takes, up to {most} tokens. Lower "
            "max_new_tokens, or cut it: backbone.encode_text(captions, truncate=True)."
        )


def _named(numbers: list[int], images: Sequence[ImageLike]) -> str:
    """Name images as in "image 1 (cat.png), 5 (counted from 0)". A single image has no number; no image gives ""."""
    if numbers and len(images) == 1:
        return Path(image).name if isinstance(image := images[0], str | Path) else "the image"
    names = [
        f"{number} ({Path(image).name})" if isinstance(image := images[number], str | Path) else str(number)
        for number in numbers[:_NAMED]
    ]
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"image {', '.join(names)}{more} (counted from 0)" if names else ""


def warn_unless_scenes(pictures: Iterable[Image.Image]) -> None:
    """Warn once per process if a picture is not a rendered scene, because tadp-tiny's captioner knows only these."""
    if not all(is_rendered(np.asarray(picture)) for picture in pictures):
        _warn_about_tiny()


@cache
def _warn_about_tiny() -> None:
    warnings.warn(
        "the captioner 'tadp-tiny' knows only rendered scenes, and describes any other picture as if it were one. For "
        "photographs, choose another captioner, such as 'blip2'.",
        stacklevel=4,
    )
