"""What the tests of personalize share: a small model with a scheduler, and images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from builders import build_folder

EPSILON = {
    "_class_name": "PNDMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,  # of sampling alone
}
QUICK: dict[str, Any] = {
    "token": "<wash>", "initializer": "photo", "steps": 4, "batch_size": 2, "lr": 1e-2, "progress": False,
    "sample_every": 0,
}  # fmt: skip
TUNE: dict[str, Any] = {"steps": 3, "batch_size": 2, "lr": 1e-3, "progress": False, "sample_every": 0}


def build_model(folder: Path, *, prediction: str = "epsilon", **options: Any) -> Path:
    """A folder like Stable Diffusion's, trained on 64 pixels, whose scheduler says what it predicts."""
    build_folder(folder, **options)
    (folder / "scheduler").mkdir()
    config = json.dumps(EPSILON | {"prediction_type": prediction})
    (folder / "scheduler" / "scheduler_config.json").write_text(config)
    return folder


def pictures(count: int = 3, *, seed: int = 0) -> list[np.ndarray]:
    """Noise of several shapes, (H, W, 3), uint8."""
    rng = np.random.default_rng(seed)
    return [rng.integers(256, size=(64 + 8 * number, 80, 3), dtype=np.uint8) for number in range(count)]
