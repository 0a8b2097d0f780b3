"""Prompts that are strings: the empty one, class names, the nouns of captions."""

from collections.abc import Sequence

from tadp.features import Names
from tadp.files.checks import check_classes, needs
from tadp.text.encoder import check_captions


def null(count: int) -> list[str]:
    """Return the empty prompt for each of `count` images.

    Raises:
        ValueError: If `count` is below 1.

    Source:
        TADP Fig. 2, "null".
    """
    return [""] * _checked_count(count)


def class_names(classes: Sequence[str], *, count: int = 1) -> list[str]:
    """Return all class names in one prompt, separated by spaces, for each of `count` images.

    The text encoder may read two neighbouring names as a third: "hot" and "dog" as "hot dog". `AttentionMaps.pool` does
    not, because the prompts are `tadp.features.Names`, strings that record where each name ends. A prompt that was
    changed, or read from a file, is a plain string, and neighbouring names may be joined again.

    Args:
        classes: Class names of a data set; "_" becomes a space.
        count: Number of images, since a backbone takes one prompt per image.

    Raises:
        ValueError: If there are no classes, one is empty or occurs twice, or `count` is below 1.
        TypeError: If a class is not a string.

    Source:
        TADP Eq. 3.

    Example:
        >>> class_names(["dog", "dining_table"], count=2)
        ['dog dining table', 'dog dining table']
    """
    return [Names(check_classes(classes))] * _checked_count(count)


def nouns(captions: str | Sequence[str]) -> list[str]:
    """Return the nouns of each caption, each once, in their order: the paper's TADP(NO).

    The paper tags with NLTK, whose tagger must be downloaded; this function uses textblob's `PatternTagger`, which
    needs no download. A caption without nouns becomes "", the empty prompt.

    Raises:
        MissingExtraError: If textblob is not installed.
        TypeError: If a caption is not a string.
        CaptionError: If there are no captions.

    Source:
        TADP Sec. 4.2; `get_nouns` of its released code.

    Example:
        >>> nouns(["a dog and a cat next to a red dog", "running fast"])
        ['dog cat', '']
    """
    with needs("nouns need textblob", install="pip install 'tadp[nouns]'"):
        from textblob.en.taggers import PatternTagger
    tagger = PatternTagger()
    return [" ".join(_nouns(tagger.tag(text))) for text in check_captions(captions)]


def _nouns(tagged: Sequence[tuple[str, str]]) -> list[str]:
    words = [word for word, tag in tagged if tag.startswith("NN") and any(letter.isalnum() for letter in word)]
    return list(dict.fromkeys(words))


def _checked_count(count: int) -> int:
    if not isinstance(count, int):
        raise TypeError(f"count must be the number of images; got {type(count).__name__}. Pass count=len(images).")
    if count < 1:
        raise ValueError(f"count must be 1 or more, as there is one prompt per image; got count={count}.")
    return count
