"""Training data of the U-Net: latents, the classes in their cells, and texts in several mixes."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from scenes_cache import SceneCache
from torch import Tensor
from tqdm import tqdm
from train_vae import to_input
from training import autocast
from unet_model import CELLS

from tadp.datasets.scenes import CLASSES

BATCH = 48
DISTRACTOR_SHARE = 1 / 8  # share of last steps in which lists with absent classes are common


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of texts in a batch. The rest are sentences.

    Attributes:
        empty: Share of empty texts.
        lists: Share of lists of names.
        distractors: Share of lists that include names of absent classes.
        distractors_last: The same share in the last steps, `DISTRACTOR_SHARE` of all steps.
        all_names: Share of the lists that name every visible object; the others name some of them.
    """

    empty: float
    lists: float
    distractors: float
    distractors_last: float
    all_names: float


MIXES = {
    "sentences": Mix(empty=0.1, lists=0.12, distractors=0.06, distractors_last=0.4, all_names=0.0),
    "lists": Mix(empty=0.1, lists=0.24, distractors=0.18, distractors_last=0.18, all_names=0.6),
}


@torch.inference_mode()
def latent_cache(vae: AutoencoderKL, scenes: SceneCache, work: Path) -> tuple[Tensor, Tensor]:
    """Scaled latents, (N, 4, 16, 16), and the share of each class in each cell, (N, 13, 16, 16), computed only once."""
    path = work / f"latents-{len(scenes.images)}.pt"
    if not path.exists():
        vae.eval()
        latents, cells = [], []
        for start in tqdm(range(0, len(scenes.images), 100), desc="encoding scenes"):
            with autocast():
                mode = vae.encode(to_input(scenes.images[start : start + 100])).latent_dist.mode()
            latents.append((mode * vae.config["scaling_factor"]).half())
            masks = torch.from_numpy(scenes.masks[start : start + 100]).long()
            cells.append(
                F.avg_pool2d(
                    F.one_hot(masks, len(CLASSES) + 1).permute(0, 3, 1, 2).float(), masks.shape[-1] // CELLS
                ).half()
            )
        torch.save({"latents": torch.cat(latents), "cells": torch.cat(cells)}, path)
    cached = torch.load(path, weights_only=True)
    return cached["latents"], cached["cells"]


def draw_batch(records: list[dict], latents: Tensor, cells: Tensor, step: int, options: argparse.Namespace) -> dict:
    """All random choices of a step. They depend only on the seed and the step, so that a resumed run repeats them."""
    rng = np.random.default_rng((options.seed, step))
    picked = rng.integers(len(records), size=BATCH)
    mix, last = MIXES[options.mix], step >= (1 - DISTRACTOR_SHARE) * options.steps
    captions = [_caption(records[k], rng, mix, mix.distractors_last if last else mix.distractors) for k in picked]
    uniform, normal = rng.random(BATCH), rng.standard_normal(BATCH)
    # Features are extracted at t = 0, so low noise is drawn more often.
    kind = rng.choice(3, size=BATCH, p=(0.4, 0.2, 0.4))
    time_share = np.choose(kind, (1 / (1 + np.exp(-normal)), uniform, uniform**2))
    return {
        "captions": captions,
        "latents": latents[picked].float(),
        "cells": cells[picked].float(),
        "noise": torch.from_numpy(rng.standard_normal((BATCH, 4, CELLS, CELLS)).astype(np.float32)),
        "timesteps": torch.from_numpy(np.minimum(time_share * 1000, 999).astype(np.int64)),
    }


def _caption(record: dict, rng: np.random.Generator, mix: Mix, distractors: float) -> str:
    """A caption, its long form, a list of names, a list with absent names, or nothing."""
    draw = rng.random()
    if draw < mix.empty:
        return ""
    names = list(record["names"])
    if draw < mix.empty + distractors:
        absent = [name for name in CLASSES if name not in names]
        extra = rng.choice(absent, size=rng.integers(1, len(absent) + 1), replace=False)
        return " ".join(rng.permutation(names + list(extra)))
    if draw < mix.empty + distractors + mix.lists and names:
        # A share of 0 draws no number, so that the random numbers of the first run do not change.
        every = mix.all_names > 0 and rng.random() < mix.all_names
        return " ".join(rng.permutation(names)[: len(names) if every else rng.integers(1, len(names) + 1)])
    if draw > 0.9:
        return record["long"]
    return record["caption"] if draw > 0.85 else record["variants"][rng.integers(len(record["variants"]))]
