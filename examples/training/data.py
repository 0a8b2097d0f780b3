"""Data sets with captions from a table, which the captioner fills once."""

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

TRAIN_SEED, HELD_OUT_SEED = 101, 102  # tadp-tiny was trained on seed 0 and selected on seed 1
Captions = Mapping[str, str]
Open = Callable[[Captions | None], "Kept | Joined | object"]


class Kept:
    """Samples of another data set, read on first access and then kept in memory.

    Args:
        data: The data set, with `image_ids` and class names.
        captions: Captions by image id; None for samples without captions.
    """

    def __init__(self, data: RenderedScenes, *, captions: Captions | None):
        self.class_names, self.box_class_names, self.room_names = (
            data.class_names,
            data.box_class_names,
            data.room_names,
        )
        self.image_ids = data.image_ids
        self._data = data
        self._texts = [None] * len(data) if captions is None else [captions[image_id] for image_id in self.image_ids]
        self._samples: list[Sample | None] = [None] * len(data)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self._samples[index]
        if sample is None:
            sample = self._samples[index] = replace(self._data[index], caption=self._texts[index])
        return sample


class Joined(ConcatDataset):
    """Several data sets with the same classes, joined."""

    def __init__(self, parts: Sequence):
        super().__init__(parts)
        self.class_names = self.box_class_names = parts[0].class_names
        self.image_ids = [image_id for part in parts for image_id in part.image_ids]
        self.image_paths = {image_id: path for part in parts for image_id, path in part.image_paths.items()}


def scenes(count: int, *, seed: int, style: Style = "plain") -> Open:
    """Rendered scenes, kept in memory."""
    return lambda captions: Kept(RenderedScenes(count, seed=seed, style=style), captions=captions)


def with_captions(openers: Sequence[Open], options: argparse.Namespace, accelerator: Accelerator) -> list:
    """Open data sets with captions. Missing captions are made first and kept in the table.

    Args:
        openers: Functions that open a data set with given captions, or without any for None.
        options: Options of the run: the table (`captions`), the captioner that fills it, and whether the text is
            captions at all (`text`). `captions_sha256` is set to the fingerprint of the first data set's captions, so
            that a run does not continue with other captions.
        accelerator: The accelerator. Only its main process makes captions.
    """
    if options.text != "captions":
        return [opener(None) for opener in openers]
    if accelerator.is_main_process:
        for opener in openers:
            _fill(opener(None), options.captions, options.captioner, accelerator.device)
    accelerator.wait_for_everyone()
    table = CaptionTable.open(options.captions)
    data: list = [opener(table) for opener in openers]
    options.captions_sha256 = fingerprint(table, data[0].image_ids)
    return data


def fingerprint(captions: Captions, image_ids: Sequence[str]) -> str:
    """A hash of the captions of these images, independent of their order and of the table's file."""
    pairs = sorted((image_id, captions[image_id]) for image_id in image_ids)
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def captioner_of(options: argparse.Namespace) -> str | None:
    """The captioner named in the table, or None if there is not exactly one."""
    if options.text != "captions":
        return None
    with CaptionTable.open(options.captions) as table:
        names = {provenance.captioner if provenance else None for provenance in table.provenances}
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
    """All samples, one by one. A data set may lack an iterator of its own."""
    return (data[index] for index in range(len(data)))


def mean_depths(data: Sequence[Sample], *, farthest_m: float) -> tuple[float, np.ndarray | None]:
    """The mean of all known depths below the maximum and, if all images have one size, the mean at each pixel."""
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
