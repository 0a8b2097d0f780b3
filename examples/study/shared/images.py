"""The images of a study: what there is to see on them, what is said of them, and how they come in batches."""

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
from tadp.datasets.scenes import BACKGROUNDS

from .settings import Settings
from .sources import augmentation, open_data

MAX_DEPTH_M = {"scenes": 20.0, "nyu": 10.0}


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of a step, or of a test: pixels, or their latents, and the truth."""

    images: Tensor | None
    latents: Tensor | None
    truth: Tensor


class Images:
    """One half of the data, training or test.

    Args:
        settings: Of the study.
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
        self.names = [name for name in self.class_names if name != "background"]

    def __len__(self) -> int:
        count = len(self.data)
        return count if self.is_rendered or self.split == "train" else min(count, self.settings.test or count)

    @cached_property
    def samples(self) -> Sequence[Sample]:
        """Rendered scenes stay in memory; photographs are read when they are asked for."""
        return [self.data[number] for number in range(len(self))] if self.is_rendered else self.data

    @cached_property
    def present(self) -> list[list[str]]:
        """The classes in each image, by its mask."""
        found = []
        for number in range(len(self)):
            labels = np.unique(self.samples[number].mask)
            named = [self.class_names[label] for label in labels if label < len(self.class_names)]
            found.append([name for name in named if name != "background"])
        return found

    @property
    def places(self) -> list[str]:
        """The room or place of each image: of scenes the drawn one, of NYU Depth what its folder is called."""
        if self.is_rendered:
            return [self.data.scenes[number].layout.background for number in range(len(self))]
        ids = self.data.image_ids[: len(self)]
        return [one.split("/")[-2].rsplit("_", 1)[0].replace("_", " ") for one in ids]

    @property
    def all_places(self) -> Sequence[str]:
        """What places there are, in the training data too."""
        return (
            tuple(BACKGROUNDS)
            if self.is_rendered
            else [*Images(self.settings, "train", out=self.out, task=self.task).places, *self.places]
        )

    def captions(self, min_tokens: int) -> list[str]:
        """A caption an image; the captioner writes those that the table lacks."""
        path = self.out / f"captions-{self.split}-{min_tokens}.db"
        ids = self.data.image_ids[: len(self)]
        if path.exists():
            with CaptionTable.open(path) as table:
                if not table.missing(ids):
                    return [table[one] for one in ids]
        writer = tadp.Captioner.from_pretrained(self.settings.captioner, min_new_tokens=min_tokens)
        images = ((one, self.samples[number].image) for number, one in enumerate(ids))
        with CaptionTable.create(path, provenance=Provenance.of(writer)) as table:
            table.fill(images, writer, progress=True)
            return [table.get(one, "") for one in ids]  # of some it has nothing to say

    def truth(self, sample: Sample) -> np.ndarray:
        """The mask or the depth of an image."""
        label = sample.mask if self.task == "segmentation" else sample.depth_m
        if label is None:
            raise ValueError(f"{sample.image_id} has no label for {self.task}.")
        return label

    @cached_property
    def truths(self) -> Tensor:
        """Of all rendered scenes, (N, H, W)."""
        return torch.from_numpy(np.stack([self.truth(sample) for sample in self.samples]))

    def latents(self, backbone: tadp.TADPBackbone) -> Tensor:
        """Of all rendered scenes, encoded once."""
        if backbone.scale_latents in self._latents:
            return self._latents[backbone.scale_latents]
        path = self.out / f"latents-{self.split}-{'scaled' if backbone.scale_latents else 'unscaled'}.pt"
        if not path.exists():
            starts = tqdm(range(0, len(self), 16), desc=f"encoding {self.split}", leave=False)
            images = [sample.image for sample in self.samples]
            made = torch.cat([backbone.encode_image(images[start : start + 16]).cpu() for start in starts])
            with tadp.files.atomic.replace_file(path) as part:
                torch.save(made, part)
        made = self._latents[backbone.scale_latents] = torch.load(path, weights_only=True)
        return made

    def batch(self, numbers: Sequence[int], *, latents: Tensor | None, epoch: int, seed: int) -> Batch:
        """Images by number: rendered ones as they are, photographs through the paper's transforms."""
        rows = list(numbers)
        if latents is not None:
            return Batch(None, latents[rows], self.truths[rows])
        if self.is_rendered:
            pixels = np.stack([self.samples[row].image for row in rows])
            return Batch(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, None, self.truths[rows])
        augmented = Augmented(self.data, augmentation(self.settings), seed=seed)
        augmented.set_epoch(epoch)
        made = collate([replace(augmented[row], caption=None) for row in rows])
        truth = made.masks if self.task == "segmentation" else made.depth_m
        if truth is None:
            raise ValueError(f"{self.settings.data} has no labels for {self.task}.")
        return Batch(made.images, None, truth)
