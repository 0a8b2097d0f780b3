"""Words that fit an image, and words that do not: the texts of the paper's Appendix A."""

from .images import Images


def _caption(half: Images, number: int) -> str:
    return half.captions(0)[number]


def _half_caption(half: Images, number: int) -> str:
    """The caption without its first object: "a red bus and a cat on grass" to "a cat on grass"."""
    return _caption(half, number).split(" and ", 1)[-1]


def _other_caption(half: Images, number: int) -> str:
    """Of the next scene that shares no class with this one."""
    others = (
        other
        for step in range(1, len(half))
        if not {*half.present[other := (number + step) % len(half)]} & {*half.present[number]}
    )
    return _caption(half, next(others, number))


WORDS = {"fitting": _caption, "one object missing": _half_caption, "wrong": _other_caption, "none": lambda *_: ""}
