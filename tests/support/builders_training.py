"""Small training runs: random models and scenes of 64 pixels that train quickly. Puts examples/ on the path."""

import random
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from builders import build_backbone

from tadp.datasets import IGNORE_LABEL, RandomFlip, RenderedScenes
from tadp.tasks import TADPForSemanticSegmentation
from tadp.trainer.run_data import Kept
from tadp.trainer.training_batches import training_data
from tadp.trainer.training_loop import LoopSettings, fit
from tadp.training.schedules import Schedule

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

FLIP = [RandomFlip()]


@contextmanager
def own_training_state():
    """Reset Accelerate's state and all random generators, which training changes for the whole process."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    reset_accelerate()
    try:
        yield
    finally:
        reset_accelerate()
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def reset_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def make_options(out: Path, **changes) -> SimpleNamespace:
    """Options as `read_options` returns them, for a small run."""
    schedule = changes.pop("schedule", {})
    return SimpleNamespace(
        **(
            {
                "out": out, "cache": None, "data": "scenes", "seed": 3, "micro_batch": 4, "mixed_precision": "no",
                "model": "small", "untrained": False, "cache_latents": False, "text": "captions", "workers": 0,
                "captions_sha256": None, "ema": 0.0,
                "log_every": 1, "save_every": 2, "evaluate_every": 0, "gradient_checkpointing": False,
                "schedule": Schedule(**({"steps": 6, "batch": 4, "lr": 1e-2, "warmup_steps": 2} | schedule)),
            }
            | changes
        )
    )  # fmt: skip


def make_data(count: int = 10) -> Kept:
    data = RenderedScenes(count, seed=1, size=64)
    return Kept(data, captions=dict.fromkeys(data.image_ids, "a dog"))


def make_model(*, dropout: float = 0.1, classes: int = 13, **options) -> TADPForSemanticSegmentation:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = {"fpn_channels": 8, "channels": 8, "dropout": dropout, "norm": "group"}
        names = [str(k) for k in range(classes)]
        return TADPForSemanticSegmentation(build_backbone(), class_names=names, head_options=head, **options)


def loss(model, part):
    return model(**part.inputs, masks=part.batch.masks).loss


def labelled_pixels(batch):
    return int((batch.masks != IGNORE_LABEL).sum())


def train(options, *, model=None, data=None, loss=loss, weight=labelled_pixels, accelerator=None, **more):
    """Train once in this process."""
    accumulation = options.schedule.batch // options.micro_batch
    accelerator = accelerator or Accelerator(
        cpu=True, mixed_precision=options.mixed_precision, gradient_accumulation_steps=accumulation
    )
    accelerator.gradient_accumulation_steps = accumulation // accelerator.num_processes
    model = model or make_model()
    if data is None or isinstance(data, Kept):
        folder = (options.cache or options.out) / "encoded" if options.cache_latents else None
        data = training_data(
            model, data or make_data(), FLIP, seed=options.seed, folder=folder, accelerator=accelerator,
            batch_size=options.micro_batch,
        )  # fmt: skip
    names = ("data", "model", "untrained", "cache_latents", "text", "captions_sha256")
    settings = (
        "schedule", "seed", "micro_batch", "workers", "gradient_checkpointing", "ema", "log_every", "save_every",
        "evaluate_every",
    )  # fmt: skip
    return fit(
        model,
        data,
        loss=loss,
        weight=weight,
        settings=LoopSettings(output=options.out, **{name: getattr(options, name) for name in settings}),
        identity={name: getattr(options, name) for name in names},
        accelerator=accelerator,
        **more,
    )


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
