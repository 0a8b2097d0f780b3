"""A small training run that test_training starts as a process: `python training_worker.py OUT [options]`."""

import argparse
import os
import signal
from pathlib import Path

import torch
from accelerate import Accelerator
from builders_training import loss, make_model, make_options, train, weights

from tadp.trainer.checkpoints import Checkpoints


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--kill-in-step", type=int, help="kill the process during this step")
    parser.add_argument("--kill-while-saving", type=int, help="kill it while this step's checkpoint is half written")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = 0

    def loss_or_kill(model, part):
        nonlocal steps
        steps += 1
        if options.kill_in_step == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(model, part)

    finish = Checkpoints._finish

    def finish_or_kill(self, part, final, step):
        if options.kill_while_saving == step:
            os.kill(os.getpid(), signal.SIGKILL)
        finish(self, part, final, step)

    Checkpoints._finish = finish_or_kill
    accelerator = Accelerator(cpu=True)
    model = train(
        make_options(options.out, micro_batch=options.micro_batch),
        model=make_model(dropout=options.dropout),
        loss=loss_or_kill,
        accelerator=accelerator,
    )
    torch.save((accelerator.num_processes, weights(model)), options.out / f"{accelerator.process_index}.pt")


if __name__ == "__main__":
    main()
