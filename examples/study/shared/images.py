"""The images of a study: their labels, captions and latents, and their batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import tadp
from tadp.captions import CaptionTable, Provenance
from tadp.datasets import Augmented, Sample, collate
from tadp.drawing.overlays import BACKGROUND

from .settings import Settings
from .sources import augmentation, open_data

MAX_DEPTH_M = {"scenes": 20.0, "nyu": 10.0}


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of a training step or of a test: either pixels or latents, and the ground truth."""

    images: Tensor | None
    latents: Tensor | None
    truth: Tensor


class Images:
    """One half of the data, for training or for testing.

    Args:
        settings: Settings of the study.
        split: "train" or "test".
        out: Folder of the captions and latents.
        task: "segmentation" or "depth".
    """

    def __init__(self, settings: Settings, split: str, *, out: Path, task: str):
        self.settings, self.split, self.out, self.task = settings, split, out, task
        self.is_rendered = settings.data == "scenes"
        self.data = open_data(settings, split)
        self.class_names: tuple[str, ...] = getattr(self.data, "class_names", ())
        self._latents: dict[bool, Tensor] = {}
        self.names = [name for name in self.class_names if name != BACKGROUND]
        self.prompted = [*[BACKGROUND] * settings.background, *self.names]  # names in texts of class names

    def __len__(self) -> int:
        count = len(self.data)
        return count if self.is_rendered or self.split == "train" else min(count, self.settings.test or count)

    @cached_property
    def samples(self) -> Sequence[Sample]:
        """The labelled images. Rendered scenes stay in memory; photographs are read on access."""
        return [self.data[number] for number in range(len(self))] if self.is_rendered else self.data

    @cached_property
    def labelled(self) -> list[list[str]]:
        """The classes in each image, according to its mask, including "background"."""
        labels = (np.unique(self.samples[number].mask) for number in range(len(self)))
        return [[self.class_names[k] for k in own if k < len(self.class_names)] for own in labels]

    @property
    def present(self) -> list[list[str]]:
        """The classes in each image, according to its mask, without "background"."""
        return [[name for name in names if name != BACKGROUND] for names in self.labelled]

    @property
    def places(self) -> list[str]:
        """The place of each image: the drawn background of a scene, or the room in NYU Depth."""
        if self.is_rendered:
            return [self.data.scenes[number].layout.background for number in range(len(self))]
        return self.data.rooms[: len(self)]

    def captions(self, min_tokens: int) -> list[str]:
        """One caption per image. The captioner writes those that are missing in the table."""
        path = self.out / f"captions-{self.split}-{min_tokens}.db"
        ids = self.data.image_ids[: len(self)]
        if path.exists():
            with CaptionTable.open(path) as table:
                if not table.missing(ids):
                    return [table[image_id] for image_id in ids]
        writer = tadp.Captioner.from_pretrained(self.settings.captioner, min_new_tokens=min_tokens)
        images = ((image_id, self.samples[number].image) for number, image_id in enumerate(ids))
        with CaptionTable.create(path, provenance=Provenance.of(writer)) as table:
            table.fill(images, writer, progress=True)
            return [table.get(image_id, "") for image_id in ids]  # a captioner may give no caption for an image

    def truth(self, sample: Sample) -> np.ndarray:
        """The ground truth of an image: its mask or its depth."""
        label = sample.mask if self.task == "segmentation" else sample.depth_m
        if label is None:
            raise ValueError(f"{sample.image_id} has no label for {self.task}.")
        return label

    @cached_property
    def truths(self) -> Tensor:
        """The ground truth of all rendered scenes, (N, H, W)."""
        return torch.from_numpy(np.stack([self.truth(sample) for sample in self.samples]))

    def latents(self, backbone: tadp.TADPBackbone) -> Tensor:
        """The latents of all rendered scenes, encoded once."""
        if backbone.scale_latents in self._latents:
            return self._latents[backbone.scale_latents]
        path = self.out / f"latents-{self.split}-{'scaled' if backbone.scale_latents else 'unscaled'}.pt"
        if not path.exists():
            starts = tqdm(range(0, len(self), 16), desc=f"encoding {self.split}", leave=False)
            images = [sample.image for sample in self.samples]
            encoded = torch.cat([backbone.encode_image(images[start : start + 16]).cpu() for start in starts])
            with tadp.files.atomic.replace_file(path) as part:
                torch.save(encoded, part)
        latents = self._latents[backbone.scale_latents] = torch.load(path, weights_only=True)
        return latents

    def batch(self, numbers: Sequence[int], *, latents: Tensor | None, epoch: int, seed: int) -> Batch:
        """Images by number: rendered ones unchanged, photographs after the paper's transforms."""
        rows = list(numbers)
        if latents is not None:
            return Batch(None, latents[rows], self.truths[rows])
        if self.is_rendered:
            pixels = np.stack([self.samples[row].image for row in rows])
            return Batch(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, None, self.truths[rows])
        augmented = Augmented(self.data, augmentation(self.settings), seed=seed)
        augmented.set_epoch(epoch)
        batch = collate([replace(augmented[row], caption=None) for row in rows])
        truth = batch.masks if self.task == "segmentation" else batch.depth_m
        if truth is None:
            raise ValueError(f"{self.settings.data} has no labels for {self.task}.")
        return Batch(batch.images, None, truth)
