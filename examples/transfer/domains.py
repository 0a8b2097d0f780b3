"""Source and targets of each task: rendered scenes in other styles, or the paper's data sets."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detection
import numpy as np
import segmentation

from tadp.cross_domain import images_of
from tadp.datasets import Comic2k, DarkZurich, NighttimeDriving, RenderedScenes, Sample, Watercolor2k
from tadp.errors import TrainingError
from tadp.images import list_images, to_pil
from tadp.language.class_names import VOC_CLASSES
from tadp.modifiers import PaperDomain
from tadp.trainer.run_data import Open, scenes
from tadp.training.schedules import Schedule

SCRIPTS: dict[str, Any] = {"detection": detection, "segmentation": segmentation}
DOMAINS: dict[str, tuple[PaperDomain, ...]] = {"detection": ("watercolor", "comic"), "segmentation": ("night",)}
SCHEDULES = {
    "detection": Schedule(steps=160, batch=8, lr=2e-3, warmup_steps=30),
    "segmentation": Schedule(steps=240, batch=16, lr=2e-3, warmup_steps=30),
}
SOURCES = {"detection": ("voc", "VOCdevkit"), "segmentation": ("cityscapes", "cityscapes")}
PAPER_SCHEDULES = {"detection": "voc-detection-10-epochs", "segmentation": "cityscapes-40k"}
METRICS = {"detection": ("AP", "AP50"), "segmentation": ("mIoU",)}  # as in the paper
SEEDS = {"watercolor": 103, "comic": 104, "night": 105}  # of the test scenes
UNLABELLED_SEEDS = {"watercolor": 203, "comic": 204, "night": 205}
POOL = 100  # unlabelled scenes that each seed draws from
IMAGES = 10


@dataclass(frozen=True)
class Target:
    """A data set to test on. `open` takes captions by image id, or None for no captions."""

    name: str
    domain: PaperDomain
    open: Open


def targets(task: str, options: argparse.Namespace, *, root: Path | None) -> list[Target]:
    """The data sets that a task is tested on: the paper's, in the folder `root`, or rendered scenes if it is None."""
    if root is None:
        return [
            Target(domain, domain, scenes(options.held_out_scenes, seed=SEEDS[domain], style=domain))
            for domain in DOMAINS[task]
        ]
    if task == "detection":
        kinds: dict[str, Callable] = {"watercolor": Watercolor2k, "comic": Comic2k}
        return [Target(f"{domain}2k", domain, _voc_labels(kinds[domain], root / domain)) for domain in DOMAINS[task]]
    return [
        Target("dark-zurich", "night", lambda captions: DarkZurich(root / "dark_zurich", captions=captions)),
        Target(
            "nighttime-driving",
            "night",
            lambda captions: NighttimeDriving(root / "NighttimeDrivingTest", captions=captions),
        ),
    ]


def unlabelled(domain: PaperDomain, *, seed: int, root: Path | None) -> list:
    """Ten unlabelled pictures of a target domain that no model is tested on. Each seed draws different ones.

    Raises:
        TrainingError: If the pictures of the night are missing.
    """
    if root is None:
        return images_of(RenderedScenes(POOL, seed=UNLABELLED_SEEDS[domain], style=domain), count=IMAGES, seed=seed)
    if domain == "night":
        folder = root / "dark_zurich" / "rgb_anon" / "train" / "night"
        if not folder.is_dir():
            raise TrainingError(
                f"tokens and DreamBooth U-Nets of the night are learned from {folder}, which does not exist. "
                "Unpack Dark Zurich's rgb_anon/train/night, or leave them out: --modifiers null simple nearby unrelated"
            )
        return images_of(_Pictures(folder), count=IMAGES, seed=seed)
    kind = {"watercolor": Watercolor2k, "comic": Comic2k}[domain]
    return images_of(kind(root / domain, split="train"), count=IMAGES, seed=seed)


def _voc_labels(kind: Callable, root: Path) -> Open:
    return lambda captions: kind(root, class_names=VOC_CLASSES, captions=captions)


class _Pictures:
    """All images below a folder, as samples without labels."""

    def __init__(self, folder: Path):
        self.paths = list_images(folder)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        return Sample(np.asarray(to_pil(path).convert("RGB")), path.name)
