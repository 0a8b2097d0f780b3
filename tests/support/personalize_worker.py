"""A small run for test_personalize_resume's process: `python personalize_worker.py MODEL OUT --kill-in-step 6`."""

import argparse
import os
import signal
from pathlib import Path

import torch
from builders_personalize import QUICK, pictures

import tadp.personalize.loop as loop
from tadp.personalize import learn_token


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kill-in-step", type=int, required=True, help="the process kills itself in that step")
    parser.add_argument("--kill-while-saving", action="store_true", help="while a checkpoint is half written, rather")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    check = loop._check

    def deadly(value, what, step, options, checkpoints):
        check(value, what, step, options, checkpoints)
        if step + 1 == asked.kill_in_step and what == "gradient":
            if asked.kill_while_saving:
                (asked.out / ".checkpoint.safetensors.1.2.part").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    loop._check = deadly
    learn_token(asked.model, pictures(), **QUICK | {"steps": 8, "checkpoint_every": 2}, output=asked.out)


if __name__ == "__main__":
    main()
