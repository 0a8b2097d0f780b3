"""What the U-Net is told of each image: the texts of the paper's tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import tadp
from tadp import prompts
from tadp.text.conditioning import Conditioning


@dataclass(frozen=True)
class Text:
    """A text of a table.

    Attributes:
        kind: "averaged eos", "class embeddings", "class names", "captions", "nouns", "oracle", "others" (captions of
            other images), "empty", "places" (the averaged end token of the room or place, for depth).
        min_tokens: Of captions.
        precision, recall: Of the oracle.
    """

    kind: str
    min_tokens: int = 0
    precision: float = 1.0
    recall: float = 1.0

    @property
    def name(self) -> str:
        """For files."""
        tail = f"-{self.min_tokens}" if self.kind in ("captions", "nouns", "others") else ""
        if self.kind == "oracle":
            tail = f"-{self.precision:.2f}-{self.recall:.2f}"
        return self.kind.replace(" ", "-") + tail


class Said:
    """The text of every image of a data set.

    Args:
        texts: A string an image; or embeddings: one text for all, or several, of which `rows` says each image's.
        rows: See above.
    """

    def __init__(self, texts: Sequence[str] | Conditioning, rows: Sequence[int] | None = None):
        self.texts, self.rows = texts, rows

    def of(self, numbers: Sequence[int]) -> list[str] | Conditioning:
        """The text of some images, as a backbone takes it."""
        if not isinstance(self.texts, Conditioning):
            return [self.texts[number] for number in numbers]
        return self.texts if self.rows is None else self.texts.take([self.rows[number] for number in numbers])


def say(text: Text, backbone: tadp.TADPBackbone, data, *, seed: int) -> Said:
    """The text of all images of a data set.

    Args:
        text: Which.
        backbone: Its text encoder encodes what is no string.
        data: `images.Images`.
        seed: Of the oracle's draw; training and test data have different ones.
    """
    count = len(data)
    if text.kind == "averaged eos":
        return Said(prompts.averaged_eos(data.names, backbone))
    if text.kind == "class embeddings":
        return Said(prompts.class_embeddings(data.names, backbone))
    if text.kind == "class names":
        return Said(prompts.class_names(data.names, count=count))
    if text.kind == "places":
        kinds = sorted(set(data.all_places))
        return Said(prompts.averaged_eos(kinds, backbone).apart(), [kinds.index(one) for one in data.places])
    if text.kind == "oracle":
        told = prompts.oracle(data.present, data.names, precision=text.precision, recall=text.recall, seed=seed)
        return Said(told)
    if text.kind == "empty":
        return Said(prompts.null(count))
    captions = data.captions(text.min_tokens)
    if text.kind == "nouns":
        return Said(prompts.nouns(captions))
    if text.kind == "others":
        return Said(np.roll(captions, 1).tolist())
    if text.kind == "captions":
        return Said(captions)
    raise ValueError(f"no text {text.kind!r}.")
