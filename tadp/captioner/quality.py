"""A caption and how it went: empty, a loop, too long for the text encoder; and the words to say so."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tadp.images.reading import ImageLike
from tadp.language.repetition import is_looping
from tadp.text.clip_tokenizer import TokenCounter

_NAMED = 10  # images that a sentence lists


@dataclass(frozen=True)
class Caption:
    """What a captioner said about an image, and how that went.

    Attributes:
        text: The caption.
        problem: "empty" if it has no word, "looping" if it goes round in circles
            (`tadp.language.repetition.is_looping`).
        retried: Whether a second try was made, because the first one was empty or a loop.
        tokens: Its length in the text encoder's tokens, start and end included; None if nobody has counted.
        fits: Whether that is within what the text encoder takes; None if nobody has counted.
    """

    text: str
    problem: Literal["empty", "looping"] | None = None
    retried: bool = False
    tokens: int | None = None
    fits: bool | None = None


def checked(text: str, *, retried: bool = False) -> Caption:
    """A caption with what is wrong with it."""
    if not any(letter.isalnum() for letter in text):
        return Caption(text, "empty", retried)
    return Caption(text, "looping" if is_looping(text) else None, retried)


def better(first: Caption, second: Caption) -> Caption:
    """Which of two tries to keep: a loop says more than nothing, and the first one is what was asked for."""
    if second.problem is None or (first.problem == "empty" and second.problem == "looping"):
        return second
    return replace(first, retried=True)


def counted(captions: list[Caption], counter: TokenCounter) -> list[Caption]:
    """The same captions with their lengths in the text encoder's tokens."""
    if not captions:
        return []
    counts = counter.count_tokens([caption.text for caption in captions])
    return [
        replace(caption, tokens=count, fits=count <= counter.max_length)
        for caption, count in zip(captions, counts, strict=True)
    ]


def troubles(captions: list[Caption], images: Sequence[ImageLike], *, who: str, retry: bool) -> Iterator[str]:
    """A sentence a kind of trouble, with the images it befell.

    Args:
        captions: All of a call.
        images: What they are captions of, to name files.
        who: The subject of the sentences.
        retry: Whether second tries were made.
    """

    def named(flags: Iterable[bool | None]) -> str:
        return _named([number for number, flag in enumerate(flags) if flag], images)

    again = "also when asked once again. " if retry else "and retry is off. "
    again += "Pass another prompt, num_beams=5, or a temperature."
    if empty := named(one.problem == "empty" for one in captions):
        yield f"{who} had nothing to say about {empty}, {again}"
    if looping := named(one.problem == "looping" for one in captions):
        yield f"{who} went round in circles about {looping}, {again}"
    if mended := named(one.retried and one.problem is None for one in captions):
        yield (
            f"{who} said nothing of use about {mended} at first (nothing, or the same words again and again); it was "
            "asked once more, and the second answer was taken."
        )
    if long := named(one.fits is False for one in captions):
        most = max(one.tokens or 0 for one in captions)
        yield (
            f"{who} said more about {long} than the text encoder takes, up to {most} tokens. Lower max_new_tokens, or "
            "cut it: backbone.encode_text(captions, truncate=True)."
        )


def _named(numbers: list[int], images: Sequence[ImageLike]) -> str:
    """Which images, as in "image 1 (cat.png), 5 (counted from 0)"; nothing for none, no number for the only one."""
    if numbers and len(images) == 1:
        return Path(image).name if isinstance(image := images[0], str | Path) else "the image"
    names = [
        f"{number} ({Path(image).name})" if isinstance(image := images[number], str | Path) else str(number)
        for number in numbers[:_NAMED]
    ]
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"image {', '.join(names)}{more} (counted from 0)" if names else ""
