"""What the captioner is trained on: images, masks and word ids of the cached scenes and their mirror images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from captioner_text import MAX_WORDS, OPENINGS, Facts, build_tokenizer, mirror, split, twice
from scenes_cache import open_cache, styled_scenes
from torch import Tensor

from tadp.datasets.scenes import STYLES

Form = Literal["short", "long"]
OPENING_SHARE = 0.04  # each, of plain short captions, so that a prompt has a continuation
REPEAT_SHARE = (
    0.3  # of long captions that are short enough say their details twice, so that many words never mean inventions
)
CELL = 4  # pixels a side of a cell in the dense targets


@dataclass(frozen=True)
class Batch:
    """Pixels in [-1, 1] (B, 3, H, W); targets of the vision tower; word ids (B, L), 0 after the end."""

    pixels: Tensor
    classes: Tensor
    """(B, H / 4, W / 4), int64: 0 is background."""
    colors: Tensor
    """The same, the colour of the object there; -100 on background."""
    present: Tensor
    """(B, 12), float: which classes are visible."""
    places: Tensor
    styles: Tensor
    words: Tensor


class CaptionData:
    """Scenes with everything as arrays, so that a batch is a few index operations.

    Args:
        work: The working folder; `scenes/` in it holds the cache.
        scenes: Number of cached scenes.
        styled: Number of scenes rendered besides in each style but plain.
    """

    def __init__(self, work: Path, *, scenes: int, styled: int):
        cache = open_cache(work / "scenes", scenes, seed=0)
        extra = [styled_scenes(work / "captioner" / "styled", style, styled) for style in STYLES[1:]]
        self.images = np.concatenate([cache.images, *(part.images for part in extra)])
        self.masks = np.concatenate([cache.masks, *(part.masks for part in extra)])[
            :, CELL // 2 :: CELL, CELL // 2 :: CELL
        ]
        self.masks = np.ascontiguousarray(self.masks)
        records = cache.records + [record for part in extra for record in part.records]
        self.tokenizer = build_tokenizer(records)
        facts = [Facts.parse(record) for record in records]
        self.present = np.stack([fact.present for fact in facts])
        self.color_of = np.stack([fact.color_of for fact in facts])
        self.places = np.array([fact.place for fact in facts])
        self.styles = np.array([STYLES.index(record["style"]) for record in records])
        self.words = {form: self._words(records, form) for form in ("short", "long")}

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rng: np.random.Generator, size: int, *, form: Form) -> Batch:
        """Draw scenes, half of them mirrored."""
        index = rng.integers(len(self), size=size)
        mirrored = rng.random(size) < 0.5
        images, masks = self.images[index], self.masks[index]
        images[mirrored] = images[mirrored, :, ::-1]
        masks[mirrored] = masks[mirrored, :, ::-1]
        alternative = self._alternative(rng, index, form)
        words = self.words[form][alternative, mirrored.astype(int), index]
        words = words[:, : int((words > 0).sum(1).max())]
        colors = np.take_along_axis(self.color_of[index], masks.reshape(size, -1), axis=1).reshape(masks.shape)
        return Batch(
            pixels=to_pixels(images),
            classes=torch.from_numpy(masks.astype(np.int64)),
            colors=torch.from_numpy(colors),
            present=torch.from_numpy(self.present[index]),
            places=torch.from_numpy(self.places[index]),
            styles=torch.from_numpy(self.styles[index]),
            words=torch.from_numpy(words.astype(np.int64)),
        )

    def _alternative(self, rng: np.random.Generator, index: np.ndarray, form: Form) -> np.ndarray:
        draw = rng.random(len(index))
        if form == "long":
            return (draw < REPEAT_SHARE).astype(int)
        opened = np.where(draw < OPENING_SHARE, 1, np.where(draw < 2 * OPENING_SHARE, 2, 0))
        return np.where(self.styles[index] == 0, opened, 0)

    def _words(self, records: list[dict], form: Form) -> np.ndarray:
        """Word ids (alternative, mirrored, scene, MAX_WORDS), uint8."""
        plain = [record["caption" if form == "short" else "long"] for record in records]
        turned = [mirror(text) for text in plain]
        texts = []
        for side in (plain, turned):
            if form == "short":
                texts.append([side, *([opening + text for text in side] for opening in OPENINGS)])
            else:
                texts.append([side, [twice(text) for text in side]])
        table = self.tokenizer.get_vocab()
        ids = np.zeros((len(texts[0]), 2, len(records), MAX_WORDS), np.uint8)
        for mirrored, alternatives in enumerate(texts):
            for alternative, captions in enumerate(alternatives):
                for row, text in enumerate(captions):
                    numbers = [table["[CLS]"], *(table[word] for word in split(text)), table["[SEP]"]]
                    ids[alternative, mirrored, row, : len(numbers)] = numbers
        return ids


def to_pixels(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) in [-1, 1], as the saved image processor does it."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


if __name__ == "__main__":
    import sys

    for name in STYLES[1:]:
        styled_scenes(Path(sys.argv[1]) / "captioner" / "styled", name, int(sys.argv[2]))
