"""The words by which captions name a domain, for the domains of the paper and for your own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tadp.errors import CaptionError

_ART = (
    "painting", "drawing", "illustration", "depiction", "rendering", "sketch", "artwork", "art", "print", "doodle",
)  # fmt: skip
# Pictures of any kind. They stay unless a word of the domain is next to them: "a foggy photo of".
PICTURES = (
    "image", "picture", "photo", "photograph", "portrait", "view", "scene", "shot", "page", "strip", "panel", "cover",
    "poster", "footage", "still", "version", "style", "effect",
)  # fmt: skip
# Places, objects and people named after their purpose or subject. The lists are not complete; they have frequent ones.
_PLACES = (
    "shop", "store", "club", "convention", "festival", "fair", "museum", "library", "class", "course", "workshop",
    "collection", "collector", "artist", "fan", "rack", "shelf", "stand",
)  # fmt: skip
_PAINTING_SUPPLIES = (
    "set", "box", "kit", "palette", "pan", "paint", "brush", "paintbrush", "paint brush", "pen", "pencil", "crayon",
    "marker", "paper", "pad", "tube", "supplies", "painter",
)  # fmt: skip
_AFTER_NIGHT = (
    "club", "stand", "gown", "dress", "shirt", "cap", "light", "lamp", "table", "market", "bus", "train", "shift",
    "school", "owl", "heron", "vision", "goggles", "watch", "watchman", "guard",
)  # fmt: skip
_AFTER_FOG = ("light", "lamp", "horn", "machine")
_AFTER_DARK = (
    "blue", "brown", "green", "red", "grey", "gray", "pink", "purple", "orange", "hair", "haired", "skin",
    "skinned", "eyes", "wood", "wooden", "colored", "coloured", "suit", "jacket", "shirt", "dress", "coat",
)  # fmt: skip


@dataclass(frozen=True)
class Domain:
    """A kind of image, such as watercolors or photographs at night, and the words by which captions name it.

    Plurals in -s are recognised too.

    Attributes:
        name: Name of the domain in plain words, such as "watercolor".
        nouns: Nouns that name the domain, before another noun or on their own, such as "watercolor", "comic strip" or
            "night".
        adjectives: Adjectives that name the domain before a noun, such as "foggy" or "dark".
        media: Words for kinds of picture in the domain, such as "drawing". They are removed where they introduce the
            content ("a drawing of a dog"), and kept where they are an object ("a man holds a drawing").
        prepositions: First words of phrases that place the picture in the domain, such as "in" (a comic) or "at"
            (night).
        settings: Nouns that may follow a word of the domain in a phrase of place or time, such as "day" in "on a foggy
            day".
        keep: Phrases that contain a word of the domain but do not name it, such as "dark hair".
        compounds: Names of objects and places that contain a word of the domain, such as "comic book store" or "night
            club". No rule changes them.
    """

    name: str
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    prepositions: tuple[str, ...] = ("in",)
    settings: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    compounds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.nouns or self.adjectives) or not all((*self.nouns, *self.adjectives, *self.media)):
            raise CaptionError("a domain must have at least one word, and no empty ones; pass nouns=('watercolor',).")

    @property
    def words(self) -> frozenset[str]:
        """All single words in the domain's nouns, adjectives and media, including plurals."""
        phrases = (*self.nouns, *self.adjectives, *self.media)
        singles = {word for phrase in phrases for word in re.split(r"[\s-]+", phrase.lower())}
        return frozenset(singles | {f"{word}s" for word in singles} | {f"{word}es" for word in singles})

    def named_in(self, caption: str) -> bool:
        """Whether a caption names the domain with one of its nouns or adjectives. A medium without them does not count.

        Example:
            >>> [DOMAINS["watercolor"].named_in(text) for text in ("two watercolors", "a drawing of a cat")]
            [True, False]
        """
        return bool(re.search(any_of((*self.nouns, *self.adjectives)), self.mask_kept(caption), re.IGNORECASE))

    def without(self, caption: str) -> str:
        """Return a caption without the domain's words and media. The rest need not be grammatical.

        Example:
            >>> DOMAINS["comic"].without("a comic book and a book").split()
            ['a', 'and', 'a', 'book']
        """
        own = any_of((*self.nouns, *self.adjectives, *self.media))
        return unmask(re.sub(own, " ", self.mask_kept(caption), flags=re.IGNORECASE), caption, self.keep)

    def medium_in(self, caption: str) -> bool:
        """Whether a caption has a word for a medium of the domain: a drawing, an illustration."""
        return bool(self.media and re.search(any_of(self.media), caption, re.IGNORECASE))

    def mask_kept(self, caption: str) -> str:
        """Mask the phrases of `keep` in a caption, so that no rule matches their words. The length stays."""
        return mask(caption, self.keep)


def mask(caption: str, phrases: Sequence[str]) -> str:
    """Replace phrases of a caption with null characters, so that its length stays."""
    return re.sub(any_of(phrases), lambda match: "\0" * len(match[0]), caption, flags=re.IGNORECASE)


def unmask(masked: str, caption: str, phrases: Sequence[str]) -> str:
    """Put the phrases of the caption back into a text that was made from its masked form."""
    kept = iter(re.findall(any_of(phrases), caption, re.IGNORECASE))
    return re.sub("\0+", lambda match: next(kept, match[0]), masked)


def any_of(phrases: Sequence[str]) -> str:
    """Return a regular expression that matches any of the phrases as whole words, longest first, including plurals.

    Example:
        >>> re.findall(any_of(["comic", "comic strip"]), "a comic strip, comics, a comical dog")
        ['comic strip', 'comics']
    """
    if not phrases:
        return r"(?!)"
    escaped = [r"[\s-]+".join(map(re.escape, re.split(r"[\s-]+", phrase))) for phrase in phrases]
    return rf"(?<!\w)(?:{'|'.join(sorted(escaped, key=len, reverse=True))})(?:e?s)?(?!\w)"


def _compounds(nouns: Sequence[str], heads: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{noun} {head}" for noun in nouns for head in heads)


_WATERCOLOR = ("watercolor", "watercolour", "water color", "water colour", "aquarelle")
_COMIC = ("comic", "comic book", "comic strip", "comic page", "cartoon", "manga", "anime", "graphic novel")
DOMAINS = {
    "watercolor": Domain(
        "watercolor",
        nouns=_WATERCOLOR,
        media=_ART,
        prepositions=("in", "with"),
        compounds=_compounds(_WATERCOLOR, (*_PAINTING_SUPPLIES, *_PLACES)),
    ),
    "comic": Domain("comic", nouns=_COMIC, media=_ART, compounds=_compounds((*_COMIC, "comics"), _PLACES)),
    "night": Domain(
        "night",
        nouns=("night", "nighttime", "night time", "dark", "darkness"),
        adjectives=("dark",),
        prepositions=("at", "in", "by", "on", "during", "through", "under"),
        settings=("time",),
        keep=tuple(f"dark {word}" for word in _AFTER_DARK),
        compounds=_compounds(("night",), _AFTER_NIGHT),
    ),
    "foggy": Domain(
        "foggy",
        nouns=("fog", "mist", "haze"),
        adjectives=("foggy", "misty", "hazy"),
        prepositions=("in", "on", "through", "with", "under", "during"),
        settings=("day", "morning", "evening", "weather", "condition"),
        compounds=_compounds(("fog",), _AFTER_FOG),
    ),
    "dashcam": Domain(
        "dashcam",
        nouns=("dashcam", "dash cam", "dash camera", "dashboard camera"),
        prepositions=("from", "through", "by", "on"),
    ),
}


def domain_of(domain: str | Domain | Sequence[str]) -> Domain:
    """Return a `Domain`, given its name, a `Domain`, or a list of the nouns that name it.

    Raises:
        CaptionError: If `domain` is a name that is not in `DOMAINS`.
        TypeError: If `domain` is neither a name, nor a `Domain`, nor a list of strings.

    Example:
        >>> domain_of(["woodcut", "linocut"]).named_in("woodcuts of a town")
        True
    """
    if isinstance(domain, Domain):
        return domain
    if not isinstance(domain, str):
        if not isinstance(domain, Sequence) or not all(isinstance(word, str) for word in domain):
            raise TypeError(f"domain must be a name, a Domain, or a list of nouns; got {domain!r}.")
        words = tuple(domain)
        return Domain(" or ".join(words), nouns=words, media=_ART, compounds=_compounds(words, _PLACES))
    if domain not in DOMAINS:
        raise CaptionError(
            f"unknown domain {domain!r}; there are {', '.join(DOMAINS)}. Pass a list of its words, or a Domain."
        )
    return DOMAINS[domain]
