"""Data sets with captions from a table that the captioner fills once."""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import ConcatDataset

import tadp
from tadp.captions import CaptionTable, Provenance
from tadp.datasets import IGNORE_LABEL, RenderedScenes, Sample
from tadp.datasets.scenes import Style

TRAIN_SEED, HELD_OUT_SEED = 101, 102  # tadp-tiny was trained on seed 0, and chosen by seed 1
Captions = Mapping[str, str]
Open = Callable[[Captions | None], "Kept | Joined | object"]


class Kept:
    """Samples of another data set, read when they are first asked for, and kept in memory.

    Args:
        data: With `image_ids`, and the names of classes it may have.
        captions: A caption an image, by its id; None takes captions away.
    """

    def __init__(self, data: RenderedScenes, *, captions: Captions | None):
        self.class_names, self.box_class_names = data.class_names, data.box_class_names
        self.image_ids = data.image_ids
        self._data = data
        self._texts = [None] * len(data) if captions is None else [captions[one] for one in self.image_ids]
        self._samples: list[Sample | None] = [None] * len(data)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self._samples[index]
        if sample is None:
            sample = self._samples[index] = replace(self._data[index], caption=self._texts[index])
        return sample


class Joined(ConcatDataset):
    """Several data sets of the same classes, as one."""

    def __init__(self, parts: Sequence):
        super().__init__(parts)
        self.class_names = self.box_class_names = parts[0].class_names
        self.image_ids = [image_id for part in parts for image_id in part.image_ids]
        self.image_paths = {image_id: path for part in parts for image_id, path in part.image_paths.items()}


def scenes(count: int, *, seed: int, style: Style = "plain") -> Open:
    """Rendered scenes, kept in memory."""
    return lambda captions: Kept(RenderedScenes(count, seed=seed, style=style), captions=captions)


def with_captions(opened: Sequence[Open], options: argparse.Namespace, accelerator: Accelerator) -> list:
    """Each data set with its captions; those that the table lacks are made first, and kept in it.

    Args:
        opened: Functions from captions, or None, to a data set.
        options: `captions` is the table, `captioner` who fills it; `text` says whether there are to be any. What the
            first data set is told is noted in `captions_sha256`, so that a run does not go on with other captions.
        accelerator: Captions are made by one process.
    """
    if options.text != "captions":
        return [one(None) for one in opened]
    if accelerator.is_main_process:
        for one in opened:
            _fill(one(None), options.captions, options.captioner, accelerator.device)
    accelerator.wait_for_everyone()
    table = CaptionTable.open(options.captions)
    found: list = [one(table) for one in opened]
    options.captions_sha256 = fingerprint(table, found[0].image_ids)
    return found


def fingerprint(captions: Captions, image_ids: Sequence[str]) -> str:
    """Of what is said of these images, wherever it is kept and in whatever order."""
    said = sorted((image_id, captions[image_id]) for image_id in image_ids)
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def captioner_of(options: argparse.Namespace) -> str | None:
    """Who made the captions, as the table says; None if it does not, or there are none."""
    if options.text != "captions":
        return None
    with CaptionTable.open(options.captions) as table:
        names = {one.captioner if one else None for one in table.provenances}
    return names.pop() if len(names) == 1 else None


def _fill(data, path: Path, name: str, device: torch.device) -> None:
    if path.exists():
        with CaptionTable.open(path) as table:
            if not table.missing(data.image_ids):
                return
    captioner = tadp.Captioner.from_pretrained(name, device=str(device))
    images = getattr(data, "image_paths", None) or ((sample.image_id, sample.image) for sample in data)
    with CaptionTable.create(path, provenance=Provenance.of(captioner)) as table:
        table.fill(images, captioner, progress=True)


def largest_class(data: Sequence[Sample], count: int) -> int:
    """The class with the most pixels."""
    totals = np.zeros(count, np.int64)
    for sample in samples(data):
        totals += np.bincount(sample.mask[sample.mask != IGNORE_LABEL], minlength=count)
    return int(totals.argmax())


def samples(data: Sequence[Sample]) -> Iterator[Sample]:
    """One after another; a data set's own iteration may be missing."""
    return (data[index] for index in range(len(data)))


def mean_depths(data: Sequence[Sample], *, farthest_m: float) -> tuple[float, np.ndarray | None]:
    """The mean of all known depths below the farthest; and for images of one size, the mean of each pixel's."""
    total = count = None
    is_one_size = True
    overall, pixels = 0.0, 0
    for sample in samples(data):
        known = np.isfinite(sample.depth_m) & (sample.depth_m > 0) & (sample.depth_m < farthest_m)
        depth = np.where(known, sample.depth_m, 0).astype(np.float64)
        overall, pixels = overall + depth.sum(), pixels + known.sum()
        if total is None or count is None:
            total, count = np.zeros_like(depth), np.zeros(depth.shape)
        is_one_size = is_one_size and depth.shape == total.shape
        if is_one_size:
            total, count = total + depth, count + known
    mean = float(overall / pixels)
    if total is None or count is None or not is_one_size:
        return mean, None
    return mean, np.where(count > 0, total / np.maximum(count, 1), mean).astype(np.float32)
