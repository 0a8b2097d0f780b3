"""The texts for the U-Net in the paper's tables, one for each image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import tadp
from tadp import prompts
from tadp.drawing.overlays import BACKGROUND
from tadp.features import Names
from tadp.text.conditioning import Conditioning


@dataclass(frozen=True)
class Text:
    """A kind of text in a table.

    Attributes:
        kind: "averaged eos", "class embeddings", "class names", "captions", "nouns", "oracle", "others" (captions of
            other images), "empty", or "places" (the averaged end token of the room or place, for depth).
        min_tokens: Minimum length of captions, in tokens.
        precision: Precision of the oracle.
        recall: Recall of the oracle.
    """

    kind: str
    min_tokens: int = 0
    precision: float = 1.0
    recall: float = 1.0

    @property
    def name(self) -> str:
        """The name of the text, as a part of file names."""
        tail = f"-{self.min_tokens}" if self.kind in ("captions", "nouns", "others") else ""
        if self.kind == "oracle":
            tail = f"-{self.precision:.2f}-{self.recall:.2f}"
        return self.kind.replace(" ", "-") + tail


class ImageTexts:
    """The text of every image of a data set.

    Args:
        texts: One string per image, or embeddings.
        rows: Row of the embeddings for each image; None if all images share the same text.
    """

    def __init__(self, texts: Sequence[str] | Conditioning, rows: Sequence[int] | None = None):
        self.texts, self.rows = texts, rows

    def of(self, numbers: Sequence[int]) -> list[str] | Conditioning:
        """The texts of some images, in the form that a backbone takes."""
        if not isinstance(self.texts, Conditioning):
            return [self.texts[number] for number in numbers]
        return self.texts if self.rows is None else self.texts.take([self.rows[number] for number in numbers])


def make_texts(text: Text, backbone: tadp.TADPBackbone, data, *, seed: int) -> ImageTexts:
    """Make the texts of all images of a data set.

    Args:
        text: The kind of text.
        backbone: The backbone, whose text encoder makes the embeddings.
        data: The images, an `images.Images`.
        seed: Seed of the oracle's mistakes; use different ones for training and test data.
    """
    count = len(data)
    if text.kind == "averaged eos":
        return ImageTexts(prompts.averaged_eos(data.prompted, backbone))
    if text.kind == "class embeddings":
        return ImageTexts(prompts.class_embeddings(data.prompted, backbone))
    if text.kind == "class names":
        return ImageTexts(prompts.class_names(data.prompted, count=count))
    if text.kind == "places":
        kinds = list(data.data.room_names)
        return ImageTexts(prompts.averaged_eos(kinds, backbone).apart(), [kinds.index(place) for place in data.places])
    if text.kind == "oracle":
        levels = {"precision": text.precision, "recall": text.recall}
        named = prompts.oracle_classes(data.present, data.names, **levels, seed=seed)
        # "background" is named exactly if it is there, whatever the precision and recall, as in the paper's code
        first = [[name for name in data.prompted[:1] if name == BACKGROUND and name in own] for own in data.labelled]
        return ImageTexts([Names([*own, *names]) for own, names in zip(first, named, strict=True)])
    if text.kind == "empty":
        return ImageTexts(prompts.null(count))
    captions = data.captions(text.min_tokens)
    if text.kind == "nouns":
        return ImageTexts(prompts.nouns(captions))
    if text.kind == "others":
        return ImageTexts(np.roll(captions, 1).tolist())
    if text.kind == "captions":
        return ImageTexts(captions)
    raise ValueError(f"unknown kind of text: {text.kind!r}.")
