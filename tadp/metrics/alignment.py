"""How well captions name what is in their images."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Sized
from dataclasses import dataclass

from tadp.errors import CaptionError
from tadp.files.checks import check_classes, check_present
from tadp.language.matching import Synonyms, mentions


@dataclass(frozen=True)
class Agreement:
    """Mentions of a class, or of all, counted over images; an image counts once a class.

    Attributes:
        mentioned: Captions that mention it.
        present: Images that show it.
        both: Images that show it and whose caption mentions it.
    """

    mentioned: int
    present: int
    both: int

    @property
    def precision(self) -> float:
        """Share of mentions that are right, in [0, 1]; nan without a mention."""
        return self.both / self.mentioned if self.mentioned else math.nan

    @property
    def recall(self) -> float:
        """Share of what is there that is mentioned, in [0, 1]; nan if it never is there."""
        return self.both / self.present if self.present else math.nan


@dataclass(frozen=True)
class CaptionAlignment:
    """How well captions name the classes in their images.

    Attributes:
        classes: For each class, its counts.
        mentioned: For each caption, the classes it mentions, in the order of `classes`.
        present: For each image, the classes that are there, in the order of `classes`.
    """

    classes: dict[str, Agreement]
    mentioned: tuple[tuple[str, ...], ...]
    present: tuple[tuple[str, ...], ...]

    @property
    def overall(self) -> Agreement:
        """The counts of all classes together (micro average): a frequent class weighs more."""
        counts = self.classes.values()
        return Agreement(sum(c.mentioned for c in counts), sum(c.present for c in counts), sum(c.both for c in counts))

    @property
    def precision(self) -> float:
        """Share of all mentions that are right, in [0, 1]."""
        return self.overall.precision

    @property
    def recall(self) -> float:
        """Share of all classes in all images that are mentioned, in [0, 1]."""
        return self.overall.recall

    @property
    def macro_precision(self) -> float:
        """Mean precision of the classes that are mentioned at all."""
        return _mean([one.precision for one in self.classes.values()])

    @property
    def macro_recall(self) -> float:
        """Mean recall of the classes that are there at all."""
        return _mean([one.recall for one in self.classes.values()])


def caption_alignment(
    captions: Sequence[str],
    present: Sequence[Collection[str]],
    *,
    classes: Sequence[str] | None = None,
    synonyms: Synonyms | None = None,
    decoys: Sequence[str] = (),
) -> CaptionAlignment:
    """Precision and recall of the classes that captions mention, as `tadp.language.matching.mentions` finds them.

    Args:
        captions: One an image. "" mentions nothing.
        present: For each image, the names of the classes in it; none is possible.
        classes: All names there are. None: those that are present somewhere, so that a caption is not blamed for
            naming a class that no image shows.
        synonyms: Further words for a class, such as `tadp.language.class_names.VOC_SYNONYMS`; plurals are found by
            themselves. None: the names alone.
        decoys: Phrases that hold a class's name and mean something else: "hot dog" is no dog.

    Raises:
        TypeError: If a caption is not a string, or `captions` is a single one.
        CaptionError: If there is not one caption an image, or there are none.
        ValueError: If a class is present that `classes` does not have, or a name is a class twice.

    Source:
        The two axes of TADP Sec. 4.2 and Tab. S2, where they are set, not measured.

    Example:
        >>> from tadp.language.class_names import VOC_SYNONYMS
        >>> captions = ["two women and a dog", "a car by a train station"]
        >>> found = caption_alignment(captions, [{"person", "sofa"}, {"car"}], synonyms=VOC_SYNONYMS)
        >>> found.mentioned, found.precision, round(found.recall, 2)
        ((('person',), ('car',)), 1.0, 0.67)
        >>> everything = caption_alignment(captions, [{"person"}, {"car"}], classes=["person", "dog", "car"])
        >>> everything.classes["dog"].precision, everything.classes["person"].recall
        (0.0, 0.0)
    """
    _check(captions, present)
    if classes is not None:
        classes = check_classes(classes)
    shown = check_present(present, classes)
    names = tuple(dict.fromkeys(name for names in shown for name in sorted(names)) if classes is None else classes)
    there = tuple(tuple(name for name in names if name in image) for image in shown)
    said = []
    for caption in captions:
        found = {one.name for one in mentions(caption, (*names, *decoys), synonyms=synonyms)} if names else set()
        said.append(tuple(name for name in names if name in found))
    mentioned = Counter(name for one in said for name in one)
    images = Counter(name for one in there for name in one)
    both = Counter(name for left, right in zip(said, there, strict=True) for name in left if name in right)
    counts = {name: Agreement(mentioned[name], images[name], both[name]) for name in names}
    return CaptionAlignment(counts, tuple(said), there)


def _check(captions: Sequence[str], present: Sequence[Collection[str]]) -> None:
    if isinstance(captions, str):
        raise TypeError("captions are a list of strings, one an image; got a single string. Pass [caption].")
    for what, given in (("captions", captions), ("present", present)):
        if isinstance(given, Mapping) or not isinstance(given, Sized):  # which would give ids, or can be read once
            kind = type(given).__name__
            raise TypeError(f"{what} is a list, one entry an image, in the same order as the other; got a {kind}.")
    for number, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise TypeError(f"caption {number} is of type {type(caption).__name__}; captions are strings.")
    if len(captions) != len(present):
        raise CaptionError(
            f"{len(captions)} captions for the classes of {len(present)} images; there must be one an image, in order."
        )
    if not captions:
        raise CaptionError("no captions, so there is nothing to measure; give one an image.")


def _mean(values: Sequence[float]) -> float:
    """The mean of what is not nan; nan if nothing is left."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
