"""The command line of the study."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

from tadp.errors import TADPError

from .settings import CROPS_PX, DATA, QUICK, Settings, StopStudyError

HELP = {
    "model": 'base model: "tadp-tiny", a hub id or a folder',
    "captioner": "captioner that writes the captions",
    "data": "images to train and test on",
    "root": "folder of the data set",
    "background": "whether class names and oracles include 'background'; the default is the paper's: only for voc",
    "train": "number of scenes to train on",
    "test": "number of images to test on",
    "head_steps": "steps that train only the head at first, instead of the schedule's own (scenes only)",
    "steps": "steps of the normal schedule, instead of its own",
    "fast_steps": "steps of the fast schedule, instead of its own",
    "batch": "images per step",
    "lr": "learning rate of the head",
    "crop_px": "side of the training crops and of the prediction windows, in pixels",
}
DECIDING = ("quick", *(field.name for field in fields(Settings)), "seeds", "unet", "device", "micro_batch")


def read(description: str | None, arguments: Sequence[str] | None = None) -> tuple[Settings, argparse.Namespace]:
    """The settings of the runs, and how to carry them out: out, page, seeds, jobs, device and so on."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the runs; call again to continue")
    parser.add_argument("--page", type=Path, help="write PAGE.md, PAGE.json and PAGE.png (default: in OUT)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds per row")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes, each with one thread")
    parser.add_argument("--unet", choices=("frozen", "tuned", "both"), default="both", help="which U-Nets to run")
    parser.add_argument("--device", default="cpu", help="device of the models; cuda trains in bfloat16")
    parser.add_argument(
        "--micro-batch", type=int, metavar="N", help="images at a time; gradients are summed over a batch"
    )
    parser.add_argument("--quick", action="store_true", help="use a few images and steps, to check that it runs")
    parser.add_argument("--report", action="store_true", help="run nothing; write the page from the finished runs")
    parser.add_argument("--rewrite", action="store_true", help="run nothing; write the page again from its PAGE.json")
    for field in fields(Settings):
        if field.name == "background":
            parser.add_argument("--background", action=argparse.BooleanOptionalAction, help=HELP[field.name])
            continue
        kind = {"lr": float, "model": str, "captioner": str, "data": str, "root": str}.get(field.name, int)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            choices=DATA if field.name == "data" else None,
            help=HELP[field.name],
        )
    how = parser.parse_args(arguments)
    is_real = how.data not in (None, "scenes")
    if is_real and how.root is None:
        parser.error(f"--data {how.data} needs the data set's folder: --root DIR")
    base = (
        Settings(train=None, test=None, crop_px=CROPS_PX[how.data], background=how.data == "voc")
        if is_real
        else Settings()
    )
    base = QUICK if how.quick and not is_real else base
    changes = {name: getattr(how, name) for name in HELP if getattr(how, name) is not None}
    how.asked = {name: getattr(how, name) for name in DECIDING if getattr(how, name) != parser.get_default(name)}
    return replace(base, **changes), how


def run(main: Callable[[], None]) -> None:
    """Call a script's main function. An expected error ends it with a message instead of a traceback."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        main()
    except (TADPError, StopStudyError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
