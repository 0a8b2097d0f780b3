"""A small training run for test_training's processes: `python training_worker.py OUT [options]`.

Also the parts from which the tests build their own: random models and scenes of 64 pixels, quick to train.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from accelerate import Accelerator
from builders import build_backbone
from training.checkpoints import Checkpoints
from training.loop import fit
from training.model import training_data

from tadp.datasets import IGNORE_LABEL, RandomFlip, RenderedScenes
from tadp.schedules import Schedule
from tadp.tasks import TADPForSemanticSegmentation
from training.data import Kept

FLIP = [RandomFlip()]


def make_options(out: Path, **changes) -> SimpleNamespace:
    """What `read_options` would give, for a small run."""
    schedule = changes.pop("schedule", {})
    return SimpleNamespace(
        **(
            {
                "out": out, "cache": None, "data": "scenes", "seed": 3, "micro_batch": 4, "mixed_precision": "no",
                "model": "small", "untrained": False, "cache_latents": False, "text": "captions", "workers": 0,
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
    """One run in this process."""
    accumulation = options.schedule.batch // options.micro_batch
    accelerator = accelerator or Accelerator(
        cpu=True, mixed_precision=options.mixed_precision, gradient_accumulation_steps=accumulation
    )
    accelerator.gradient_accumulation_steps = accumulation // accelerator.num_processes
    model = model or make_model()
    data = training_data(model, data or make_data(), FLIP, options, accelerator) if data is None or isinstance(
        data, Kept
    ) else data
    return fit(model, data, loss=loss, weight=weight, options=options, accelerator=accelerator, **more)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in model.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--kill-in-step", type=int, help="the process kills itself in that step, before its end")
    parser.add_argument("--kill-while-saving", type=int, help="or while that step's checkpoint is half written")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    steps = 0

    def deadly(model, part):
        nonlocal steps
        steps += 1
        if asked.kill_in_step == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(model, part)

    finish = Checkpoints._finish

    def half_written(self, part, final, step):
        if asked.kill_while_saving == step:
            os.kill(os.getpid(), signal.SIGKILL)
        finish(self, part, final, step)

    Checkpoints._finish = half_written
    accelerator = Accelerator(cpu=True)
    model = train(
        make_options(asked.out, micro_batch=asked.micro_batch),
        model=make_model(dropout=asked.dropout),
        loss=deadly,
        accelerator=accelerator,
    )
    torch.save((accelerator.num_processes, weights(model)), asked.out / f"{accelerator.process_index}.pt")


if __name__ == "__main__":
    main()
