"""Shared by the tests of `tadp.personalize`: a small model with a scheduler, and images."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from builders import build_folder

from tadp.modifiers import CaptionModifier
from tadp.personalize import RunOptions, dreambooth, learn_token

EPSILON = {
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,  # concerns only sampling
}
QUICK: dict[str, Any] = {
    "token": "<wash>", "initializer": "photo", "steps": 4, "batch_size": 2, "lr": 1e-2, "progress": False,
    "sample_every": 0,
}  # fmt: skip
TUNE: dict[str, Any] = {"steps": 3, "batch_size": 2, "lr": 1e-3, "progress": False, "sample_every": 0}


def learn(model: str | Path, images: Any, **settings: Any) -> CaptionModifier:
    """`learn_token`, with the fields of `RunOptions` among the other arguments."""
    return learn_token(model, images, **_with_options(settings))


def tune(model: str | Path, images: Any, **settings: Any) -> CaptionModifier:
    """`dreambooth`, with the fields of `RunOptions` among the other arguments."""
    return dreambooth(model, images, **_with_options(settings))


def _with_options(settings: dict[str, Any]) -> dict[str, Any]:
    names = {option.name for option in fields(RunOptions)}
    arguments = {name: value for name, value in settings.items() if name not in names}
    return arguments | {"options": RunOptions(**{name: value for name, value in settings.items() if name in names})}


def build_model(folder: Path, *, prediction: str = "epsilon", **options: Any) -> Path:
    """Save a model in Stable Diffusion's layout for images of 64 pixels, with a scheduler of this prediction type."""
    build_folder(folder, **options)
    (folder / "scheduler").mkdir()
    config = json.dumps(EPSILON | {"prediction_type": prediction})
    (folder / "scheduler" / "scheduler_config.json").write_text(config)
    return folder


def pictures(count: int = 3, *, seed: int = 0) -> list[np.ndarray]:
    """Random images of different heights, (H, W, 3), uint8."""
    rng = np.random.default_rng(seed)
    return [rng.integers(256, size=(64 + 8 * number, 80, 3), dtype=np.uint8) for number in range(count)]
