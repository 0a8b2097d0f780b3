"""How captions name a domain: the words of each domain of the paper, or of any other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tadp.errors import CaptionError

_ART = (
    "painting", "drawing", "illustration", "depiction", "rendering", "sketch", "artwork", "art", "print", "doodle",
)  # fmt: skip
# Pictures of any kind. They are left alone, unless a word of the domain stands with them: "a foggy photo of".
PICTURES = (
    "image", "picture", "photo", "photograph", "portrait", "view", "scene", "shot", "page", "strip", "panel", "cover",
    "poster", "footage", "still", "version", "style", "effect",
)  # fmt: skip
_DARK_THINGS = (
    "blue", "brown", "green", "red", "grey", "gray", "pink", "purple", "orange", "hair", "haired", "skin",
    "skinned", "eyes", "wood", "wooden", "colored", "coloured", "suit", "jacket", "shirt", "dress", "coat",
)  # fmt: skip


@dataclass(frozen=True)
class Domain:
    """The words by which captions name a domain. Plurals in -s are understood.

    Attributes:
        name: As a person would say it: "watercolor".
        nouns: Name it, before a noun or on their own: "watercolor", "comic strip", "night".
        adjectives: Name it before a noun: "foggy", "dark".
        media: Kinds of picture of that domain, dropped where they introduce what is shown ("a drawing of a dog"), kept
            where they are a thing ("a man holds a drawing").
        prepositions: What a phrase begins with that places the picture in the domain: "in" a comic, "at" night.
        settings: What may follow a domain word in a phrase of place or time: "on a foggy day".
        keep: Phrases with a word of the domain that do not name it: "dark hair".
    """

    name: str
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    prepositions: tuple[str, ...] = ("in",)
    settings: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.nouns or self.adjectives) or not all((*self.nouns, *self.adjectives, *self.media)):
            raise CaptionError("a domain has at least one word, and no empty ones; pass e.g. nouns=('watercolor',).")

    @property
    def words(self) -> frozenset[str]:
        """Every single word that belongs to the domain's naming, plurals included."""
        phrases = (*self.nouns, *self.adjectives, *self.media)
        singles = {word for phrase in phrases for word in re.split(r"[\s-]+", phrase.lower())}
        return frozenset(singles | {f"{word}s" for word in singles} | {f"{word}es" for word in singles})

    def named_in(self, caption: str) -> bool:
        """Whether a caption names the domain, by a noun or an adjective of it; a medium alone does not.

        Example:
            >>> [DOMAINS["watercolor"].named_in(text) for text in ("two watercolors", "a drawing of a cat")]
            [True, False]
        """
        return bool(re.search(any_of((*self.nouns, *self.adjectives)), self.mask_kept(caption), re.IGNORECASE))

    def medium_in(self, caption: str) -> bool:
        """Whether a caption has a word for a medium of the domain: a drawing, an illustration."""
        return bool(self.media and re.search(any_of(self.media), caption, re.IGNORECASE))

    def mask_kept(self, caption: str) -> str:
        """The caption, with the phrases to keep written so that no rule meets their words; as long as before."""
        if not self.keep:
            return caption
        return re.sub(any_of(self.keep), lambda match: "\0" * len(match[0]), caption, flags=re.IGNORECASE)


def any_of(phrases: Sequence[str]) -> str:
    """A pattern for any of some phrases as whole words, the longest first, plurals included.

    Example:
        >>> re.findall(any_of(["comic", "comic strip"]), "a comic strip, comics, a comical dog")
        ['comic strip', 'comics']
    """
    if not phrases:
        return r"(?!)"
    escaped = [r"[\s-]+".join(map(re.escape, re.split(r"[\s-]+", phrase))) for phrase in phrases]
    return rf"(?<!\w)(?:{'|'.join(sorted(escaped, key=len, reverse=True))})(?:e?s)?(?!\w)"


DOMAINS = {
    "watercolor": Domain(
        "watercolor",
        nouns=("watercolor", "watercolour", "water color", "water colour", "aquarelle"),
        media=_ART,
        prepositions=("in", "with"),
    ),
    "comic": Domain(
        "comic",
        nouns=("comic", "comic book", "comic strip", "comic page", "cartoon", "manga", "anime", "graphic novel"),
        media=_ART,
    ),
    "night": Domain(
        "night",
        nouns=("night", "nighttime", "night time", "dark", "darkness"),
        adjectives=("dark",),
        prepositions=("at", "in", "by", "on", "during", "through", "under"),
        settings=("time",),
        keep=tuple(f"dark {word}" for word in _DARK_THINGS),
    ),
    "foggy": Domain(
        "foggy",
        nouns=("fog", "mist", "haze"),
        adjectives=("foggy", "misty", "hazy"),
        prepositions=("in", "on", "through", "with", "under", "during"),
        settings=("day", "morning", "evening", "weather", "condition"),
    ),
    "dashcam": Domain(
        "dashcam",
        nouns=("dashcam", "dash cam", "dash camera", "dashboard camera"),
        prepositions=("from", "through", "by", "on"),
    ),
}


def domain_of(domain: str | Domain | Sequence[str]) -> Domain:
    """A domain by its name, itself, or made of any words.

    Raises:
        CaptionError: If the name is unknown.

    Example:
        >>> domain_of(["woodcut", "linocut"]).named_in("woodcuts of a town")
        True
    """
    if isinstance(domain, Domain):
        return domain
    if not isinstance(domain, str):
        words = tuple(domain)
        return Domain(" or ".join(words), nouns=words, media=_ART)
    if domain not in DOMAINS:
        raise CaptionError(
            f"unknown domain {domain!r}; there are {', '.join(DOMAINS)}. Pass a list of its words, or a Domain."
        )
    return DOMAINS[domain]
