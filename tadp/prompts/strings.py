"""Prompts that are strings: the empty one, class names, the nouns of captions."""

from collections.abc import Callable, Sequence
from typing import Literal

from tadp.errors import MissingDataError
from tadp.features import Names
from tadp.files.checks import check_choice, check_classes, needs
from tadp.text.encoder import check_captions

_Tag = Callable[[str], Sequence[tuple[str, str]]]


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

    The prompts are `tadp.language.name_spans.Names`: strings that record where each name ends. So `AttentionMaps.pool`
    does not mistake two neighbouring names, such as "hot" and "dog", for a third, "hot dog". The text encoder may
    do so. In a prompt that was changed, or read from a file, which is a plain string, `pool` may, too.

    Args:
        classes: The class names. Each "_" becomes a space.
        count: Number of images, because a backbone takes one prompt per image; 1 by default.

    Returns:
        The same prompt `count` times.

    Raises:
        ValueError: If `classes` is empty, a name is empty or occurs twice, or `count` is below 1.
        TypeError: If a class name is not a string.

    Source:
        TADP Eq. 3.

    Example:
        >>> class_names(["dog", "dining_table"], count=2)
        ['dog dining table', 'dog dining table']
    """
    return [Names(check_classes(classes))] * _checked_count(count)


def nouns(captions: str | Sequence[str], *, tagger: Literal["pattern", "nltk"] = "pattern") -> list[str]:
    """Return the nouns of each caption, in the order of the caption and each once. The paper calls this TADP(NO).

    A caption without nouns becomes "", the empty prompt.

    Args:
        captions: One caption, or a list of captions.
        tagger: The tagger that finds nouns. "pattern" is textblob's `PatternTagger`, which needs no download. "nltk" is
            NLTK's perceptron tagger, which the paper uses. As in the paper's released code, it only finds common nouns
            (the tags NN and NNS), so "Paris" is left out.

    Returns:
        One string per caption, its nouns separated by spaces.

    Raises:
        MissingExtraError: If textblob or NLTK is not installed.
        TypeError: If a caption is not a string.
        CaptionError: If `captions` is empty.
        OptionError: If `tagger` is neither "pattern" nor "nltk".
        MissingDataError: If the data of NLTK's tokenizer and tagger is not on this machine. The message says how to
            download it.

    Source:
        TADP Sec. 4.2; `get_nouns` of its released code.

    Example:
        >>> nouns(["a dog and a cat next to a red dog", "running fast"])
        ['dog cat', '']
    """
    check_choice(tagger, ("pattern", "nltk"), name="tagger")
    texts = check_captions(captions)
    with needs("nouns need textblob and nltk", install="pip install 'tadp[nouns]'"):
        tag, kinds = _nltk() if tagger == "nltk" else _pattern()
    return [" ".join(_nouns(tag(text), kinds)) for text in texts]


def _pattern() -> tuple[_Tag, tuple[str, ...]]:
    from textblob.en.taggers import PatternTagger

    return PatternTagger().tag, ("NN", "NNS", "NNP", "NNPS")


def _nltk() -> tuple[_Tag, tuple[str, ...]]:
    from nltk import pos_tag, word_tokenize

    def tag(text: str) -> Sequence[tuple[str, str]]:
        try:
            return pos_tag(word_tokenize(text))
        except LookupError as error:
            raise MissingDataError(
                'tagger="nltk" needs the NLTK data "punkt_tab" and "averaged_perceptron_tagger_eng"; at least '
                "one is not installed. Run: python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng"
            ) from error

    return tag, ("NN", "NNS")


def _nouns(tagged: Sequence[tuple[str, str]], kinds: tuple[str, ...]) -> list[str]:
    words = [word for word, tag in tagged if tag in kinds and any(letter.isalnum() for letter in word)]
    return list(dict.fromkeys(words))


def _checked_count(count: int) -> int:
    if not isinstance(count, int):
        raise TypeError(f"count must be the number of images; got {type(count).__name__}. Pass count=len(images).")
    if count < 1:
        raise ValueError(f"count must be 1 or more, as there is one prompt per image; got count={count}.")
    return count
