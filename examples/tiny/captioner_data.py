"""Training data of the captioner: images, masks and word ids of the cached scenes and their mirror images."""

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
OPENING_SHARE = 0.04  # share of plain short captions with each opening, so that prompts can be continued
# Share of long captions that repeat their details if they are short enough, so that the captioner can write many words
# without inventing anything.
REPEAT_SHARE = 0.3
CELL = 4  # side of a cell in the dense targets, in pixels


@dataclass(frozen=True)
class Batch:
    """Pixels in [-1, 1], (B, 3, H, W); targets of the vision tower; word ids, (B, L), 0 after the end."""

    pixels: Tensor
    classes: Tensor
    """The class of each cell, (B, H / 4, W / 4), int64; 0 is background."""
    colors: Tensor
    """The colour of the object in each cell, (B, H / 4, W / 4), int64; -100 for background."""
    present: Tensor
    """Whether each class is visible, (B, 12), float."""
    places: Tensor
    styles: Tensor
    words: Tensor


class CaptionData:
    """Scenes as arrays, so that a batch takes only a few index operations.

    Args:
        work: Working folder; its folder `scenes/` holds the cache.
        scenes: Number of cached scenes.
        styled: Number of additional scenes in each style except plain.
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
        """Draw random scenes, half of them mirrored."""
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
        texts = []
        for captions in (plain, [mirror(text) for text in plain]):
            if form == "short":
                texts.append([captions, *([opening + text for text in captions] for opening in OPENINGS)])
            else:
                texts.append([captions, [twice(text) for text in captions]])
        table = self.tokenizer.get_vocab()
        ids = np.zeros((len(texts[0]), 2, len(records), MAX_WORDS), np.uint8)
        for mirrored, alternatives in enumerate(texts):
            for alternative, captions in enumerate(alternatives):
                for row, text in enumerate(captions):
                    numbers = [table["[CLS]"], *(table[word] for word in split(text)), table["[SEP]"]]
                    ids[alternative, mirrored, row, : len(numbers)] = numbers
        return ids


def to_pixels(images: np.ndarray) -> Tensor:
    """Convert (B, H, W, 3), uint8, to (B, 3, H, W) in [-1, 1], like the saved image processor."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


if __name__ == "__main__":
    import sys

    for name in STYLES[1:]:
        styled_scenes(Path(sys.argv[1]) / "captioner" / "styled", name, int(sys.argv[2]))
