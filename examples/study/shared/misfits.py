"""Texts that fit an image and texts that do not, for the paper's Appendix A."""

from .images import Images


def _caption(half: Images, number: int) -> str:
    return half.captions(0)[number]


def _half_caption(half: Images, number: int) -> str:
    """The caption without its first object: "a cat on grass" for "a red bus and a cat on grass"."""
    return _caption(half, number).split(" and ", 1)[-1]


def _other_caption(half: Images, number: int) -> str:
    """The caption of the next scene that shares no class with this one."""
    numbers = [(number + step) % len(half) for step in range(1, len(half))]
    unlike = (other for other in numbers if not {*half.present[other]} & {*half.present[number]})
    return _caption(half, next(unlike, number))


WORDS = {"fitting": _caption, "one object missing": _half_caption, "wrong": _other_caption, "none": lambda *_: ""}
