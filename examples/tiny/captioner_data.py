"""What the captioner is trained on: images, masks and word ids of the cached scenes and their mirror images."""

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scenes_cache import SIZE, SceneCache, open_cache
from torch import Tensor
from transformers import BertTokenizer

from tadp.datasets.scenes import BACKGROUNDS, CLASSES, COLORS, STYLES, Scenes, Style

Form = Literal["short", "long"]
FIRST_STYLED = 40_000  # styled scenes beyond the cache: seed 0 again, but no index twice
OPENINGS = ("a photo of ", "a picture of ")
OPENING_SHARE = 0.04  # each, of plain short captions, so that a prompt has a continuation
REPEAT_SHARE = (
    0.3  # of long captions that are short enough say their details twice, so that many words never mean inventions
)
LONGEST = 76  # words a text encoder of 77 tokens can take
MAX_WORDS = 128
CELL = 4  # pixels a side of a cell in the dense targets
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SWAPPED = {"left": "right", "right": "left"}


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
                texts.append([side, [_twice(text) for text in side]])
        table = self.tokenizer.get_vocab()
        ids = np.zeros((len(texts[0]), 2, len(records), MAX_WORDS), np.uint8)
        for mirrored, alternatives in enumerate(texts):
            for alternative, captions in enumerate(alternatives):
                for row, text in enumerate(captions):
                    numbers = [table["[CLS]"], *(table[word] for word in split(text)), table["[SEP]"]]
                    ids[alternative, mirrored, row, : len(numbers)] = numbers
        return ids


@dataclass(frozen=True)
class Facts:
    """What a caption says, as numbers."""

    present: np.ndarray
    color_of: np.ndarray
    """(13,): the colour of class k at k; -100 where there is none."""
    place: int

    @classmethod
    def parse(cls, record: dict) -> "Facts":
        """Read the plain caption of a record."""
        words = split(record["caption"])
        color_of = np.full(len(CLASSES) + 1, -100, np.int64)
        for before, word in pairwise(words):
            if word in CLASSES:
                color_of[CLASSES.index(word) + 1] = list(COLORS).index(before)
        present = np.array([name in record["names"] for name in CLASSES], np.float32)
        phrases = [phrase for phrase, *_ in BACKGROUNDS.values()]
        return cls(present, color_of, next(k for k, phrase in enumerate(phrases) if record["caption"].endswith(phrase)))


def styled_scenes(folder: Path, style: Style, count: int) -> SceneCache:
    """Scenes of one style, with captions, rendered on the first call."""
    start = FIRST_STYLED + STYLES.index(style) * count
    stem = folder / f"{style}-{start}-{count}"
    if not stem.with_suffix(".jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = Scenes(10_000_000, seed=0, size=SIZE, style=style)
        images, masks = np.empty((count, SIZE, SIZE, 3), np.uint8), np.empty((count, SIZE, SIZE), np.uint8)
        lines = []
        for row in range(count):
            scene = source[start + row]
            images[row], masks[row] = scene.image, scene.mask
            record = {
                "names": scene.names,
                "style": style,
                "caption": scene.caption(),
                "long": scene.caption(long=True),
            }
            lines.append(json.dumps(record))
        np.save(f"{stem}-images.npy", images)
        np.save(f"{stem}-masks.npy", masks)
        stem.with_suffix(".jsonl").write_text("\n".join(lines))
    records = [json.loads(line) for line in stem.with_suffix(".jsonl").read_text().splitlines()]
    return SceneCache(np.load(f"{stem}-images.npy"), np.load(f"{stem}-masks.npy"), records)


def build_tokenizer(records: list[dict]) -> BertTokenizer:
    """A tokenizer whose vocabulary is every word the captions can hold."""
    words = {word for record in records for text in (record["caption"], record["long"]) for word in split(text)}
    words |= {word for opening in OPENINGS for word in split(opening)} | set(CLASSES) | set(COLORS)
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *sorted(words)))}
    return BertTokenizer(vocab=vocabulary, model_max_length=MAX_WORDS)


def to_pixels(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) in [-1, 1], as the saved image processor does it."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def split(text: str) -> list[str]:
    """Words and punctuation."""
    return re.findall(r"[a-z]+|[.,]", text)


def mirror(text: str) -> str:
    """The caption of the mirrored scene: objects in the opposite order, left and right swapped."""
    first, *details = text.split(". ")
    opening = re.match(r"(a watercolor painting of |a comic style painting of |a dark night photo of )?", first).group()
    listed, place = re.match(r"(.*?) ((?:on|in) .*)", first[len(opening) :]).groups()
    phrases = re.split(r", | and ", listed)[::-1]
    listed = ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]
    tail = [line for line in details if line.startswith("there ")]
    starts = [number for number, line in enumerate(details) if line.startswith("the ")]
    ends = [*starts[1:], len(details) - len(tail)]
    turned = [line for a, b in reversed(list(zip(starts, ends, strict=False))) for line in details[a:b]]
    turned = [" ".join(_SWAPPED.get(word, word) for word in line.split(" ")) for line in turned]
    return ". ".join([f"{opening}{listed} {place}", *turned, *tail])


def _twice(text: str) -> str:
    """The long caption with its details said again, where that fits."""
    details = text[text.index(". ") :]
    return text + details if len(split(text + details)) <= LONGEST else text


if __name__ == "__main__":
    import sys

    for name in STYLES[1:]:
        styled_scenes(Path(sys.argv[1]) / "captioner" / "styled", name, int(sys.argv[2]))
