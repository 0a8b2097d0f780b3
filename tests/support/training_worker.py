"""A small training run for test_training's processes: `python training_worker.py OUT [options]`."""

import argparse
import os
import signal
from pathlib import Path

import torch
from accelerate import Accelerator
from builders_training import loss, make_model, make_options, train, weights
from training.checkpoints import Checkpoints


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
