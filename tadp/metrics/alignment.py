"""A measure of how well captions name the classes in their images."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set, Sized
from dataclasses import dataclass

from tadp.errors import CaptionError
from tadp.files.checks import check_classes, check_present
from tadp.language.matching import Synonyms, mentions


@dataclass(frozen=True)
class Agreement:
    """How often captions mention a class and images show it, for one class or summed over all classes.

    Each image counts at most once per class.

    Attributes:
        mentioned: Number of captions that mention the class.
        present: Number of images that show the class.
        both: Number of images that show the class and whose caption mentions it.
    """

    mentioned: int
    present: int
    both: int

    @property
    def precision(self) -> float:
        """Share of mentions that are right, in [0, 1]; nan if no caption mentions the class."""
        return self.both / self.mentioned if self.mentioned else math.nan

    @property
    def recall(self) -> float:
        """Share of images showing the class whose caption mentions it, in [0, 1]; nan if no image shows it."""
        return self.both / self.present if self.present else math.nan


@dataclass(frozen=True)
class CaptionAlignment:
    """How well captions name the classes that their images show.

    Attributes:
        classes: The counts of each class, by class name.
        mentioned: For each caption, the names of the classes that it mentions, in the order of `classes`.
        present: For each image, the names of the classes that it shows, in the order of `classes`.
    """

    classes: dict[str, Agreement]
    mentioned: tuple[tuple[str, ...], ...]
    present: tuple[tuple[str, ...], ...]

    @property
    def overall(self) -> Agreement:
        """The counts summed over all classes (micro average), where frequent classes weigh more."""
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
        """Mean precision of the classes that are mentioned at least once."""
        return _mean([agreement.precision for agreement in self.classes.values()])

    @property
    def macro_recall(self) -> float:
        """Mean recall of the classes that at least one image shows."""
        return _mean([agreement.recall for agreement in self.classes.values()])


def caption_alignment(
    captions: Sequence[str],
    present: Sequence[Collection[str]],
    *,
    classes: Sequence[str] | None = None,
    synonyms: Synonyms | None = None,
    decoys: Sequence[str] = (),
) -> CaptionAlignment:
    """Measure precision and recall of the classes that captions mention, given the classes that images show.

    Mentions are found as in `tadp.language.matching.mentions`.

    Args:
        captions: The captions, one per image. "" mentions no class.
        present: For each image, the names of the classes that it shows; empty if it shows none.
        classes: All class names. None is all classes in `present`; a caption that names a class that no image shows
            then does not count as wrong.
        synonyms: Further words for a class, such as `tadp.language.class_names.VOC_SYNONYMS`. Plurals need not be
            listed. With None, only the class names count.
        decoys: Phrases that contain a class name but mean something else, such as "hot dog" for the class "dog".

    Raises:
        TypeError: If a caption is not a string, or `captions` is a single string.
        CaptionError: If `captions` is empty, or their number is not that of the images.
        ValueError: If an image shows a class that is not in `classes`, or a class name is listed twice.

    Source:
        The two axes of TADP Sec. 4.2 and Tab. S2, where precision and recall are set rather than measured.

    Example:
        >>> from tadp.language.class_names import VOC_SYNONYMS
        >>> captions = ["two women and a dog", "a car by a train station"]
        >>> alignment = caption_alignment(captions, [{"person", "sofa"}, {"car"}], synonyms=VOC_SYNONYMS)
        >>> alignment.mentioned, alignment.precision, round(alignment.recall, 2)
        ((('person',), ('car',)), 1.0, 0.67)
        >>> alignment = caption_alignment(captions, [{"person"}, {"car"}], classes=["person", "dog", "car"])
        >>> alignment.classes["dog"].precision, alignment.classes["person"].recall
        (0.0, 0.0)
    """
    _check(captions, present)
    if classes is not None:
        classes = check_classes(classes)
    shown = check_present(present, classes)
    names = tuple(dict.fromkeys(name for names in shown for name in sorted(names)) if classes is None else classes)
    by_image = tuple(tuple(name for name in names if name in image) for image in shown)
    by_caption = []
    for caption in captions:
        words = {mention.name for mention in mentions(caption, (*names, *decoys), synonyms=synonyms)} if names else ()
        by_caption.append(tuple(name for name in names if name in words))
    captions_with = Counter(name for caption_names in by_caption for name in caption_names)
    images_with = Counter(name for image_names in by_image for name in image_names)
    both = Counter(name for left, right in zip(by_caption, by_image, strict=True) for name in left if name in right)
    counts = {name: Agreement(captions_with[name], images_with[name], both[name]) for name in names}
    return CaptionAlignment(counts, tuple(by_caption), by_image)


def _check(captions: Sequence[str], present: Sequence[Collection[str]]) -> None:
    if isinstance(captions, str):
        raise TypeError("captions must be a list of strings, one per image; got a single string. Pass [caption].")
    for name, value in (("captions", captions), ("present", present)):
        # A mapping would yield its ids, and an iterator can only be read once.
        if isinstance(value, Mapping | Set) or not isinstance(value, Sized):
            kind = type(value).__name__
            raise TypeError(f"{name} must be a list with one entry per image, both in the same order; got {kind}.")
    for number, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise TypeError(f"captions must be strings; got {type(caption).__name__} as caption {number}.")
    if len(captions) != len(present):
        raise CaptionError(
            f"there must be one caption per image, in order; got {len(captions)} captions and the classes of "
            f"{len(present)} images."
        )
    if not captions:
        raise CaptionError("no captions, so there is nothing to measure; pass one caption per image.")


def _mean(values: Sequence[float]) -> float:
    """The mean of the values that are not nan; nan if there are no such values."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
