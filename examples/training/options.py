"""The command line of the training scripts, and what follows from it before anything is loaded."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from tadp.errors import TADPError
from tadp.tasks import PROMPT_MODES
from tadp.training.schedules import SCHEDULES, Schedule, get_schedule


class StopTraining(RuntimeError):  # noqa: N818  it is no mistake of the program
    """The run cannot go on; the message says why, and what is kept."""


def read_options(
    description: str, *, data: Iterable[str], scenes: Schedule, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """What was asked for. `schedule` is a `Schedule` with what was given to change of it.

    Args:
        description: The script's own docstring.
        data: Names of data sets.
        scenes: The schedule for rendered scenes, when none is named.
        arguments: The command line; None is this process's own.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_data(parser.add_argument_group("data"), data)
    _add_model(parser.add_argument_group("model"))
    _add_schedule(parser.add_argument_group("schedule"))
    _add_run(parser.add_argument_group("run"))
    options = parser.parse_args(arguments)
    if options.schedule is None and options.data != "scenes":
        parser.error(f"--data {options.data} needs a --schedule: {', '.join(SCHEDULES)}")
    if options.root is None and options.data != "scenes":
        parser.error(f"--data {options.data} needs its folder: --root DIR")
    options.schedule = _schedule(options, scenes)
    if options.cache_latents is None:
        options.cache_latents = options.data == "scenes"
    options.tune = options.tune or ("nothing" if options.data == "scenes" else "all")
    options.captions = options.captions or options.out / "captions.db"
    options.captions_sha256 = None  # until there are captions
    return options


def _add_data(group: argparse._ArgumentGroup, data: Iterable[str]) -> None:
    group.add_argument("--data", choices=tuple(data), default="scenes", help="scenes are rendered, nothing is loaded")
    group.add_argument("--root", type=Path, help="the data set's folder, as `help(tadp.datasets)` says")
    group.add_argument("--captions", type=Path, help="caption table; if it is not there (.db) the captioner makes it")
    group.add_argument("--captioner", default="tadp-tiny", help="'tadp-tiny', or any image-text-to-text model")
    group.add_argument("--skip-broken", action="store_true", help="take another image for one that cannot be read")
    group.add_argument("--train-scenes", type=int, default=1000, metavar="N")
    group.add_argument("--held-out-scenes", type=int, default=300, metavar="N")


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", default="tadp-tiny", help="'tadp-tiny', a hub id, or a folder in diffusers layout")
    group.add_argument("--untrained", action="store_true", help="a U-Net of the same shape with random weights")
    group.add_argument(
        "--tune",
        choices=("all", "lora", "nothing"),
        help="what of the U-Net trains; all by default, for scenes nothing, which a CPU has done in minutes",
    )
    group.add_argument("--text", choices=PROMPT_MODES, default="captions", help="what the U-Net is told")
    group.add_argument("--head-options", type=json.loads, metavar="JSON", help='such as {"channels": 64}')
    group.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--schedule", choices=tuple(SCHEDULES), help="the paper's settings, see tadp.training.schedules")
    for name, kind in (("steps", int), ("epochs", int), ("batch", int), ("lr", float), ("unet-scale", float)):
        group.add_argument(f"--{name}", type=kind, metavar="N", help=f"in place of the schedule's {name}")


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--out", type=Path, default=Path("run"), help="a second run with the same folder goes on")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--micro-batch", type=int, metavar="N", help="images at once on a device; gradients are summed")
    group.add_argument("--mixed-precision", choices=("no", "bf16"), default="no")
    group.add_argument("--processes", type=int, metavar="N", help="stop if there are not so many")
    group.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read images")
    group.add_argument(
        "--cache-latents",
        action=argparse.BooleanOptionalAction,
        help="encode images once, where at most flips change them; the default for scenes",
    )
    group.add_argument("--cache", type=Path, metavar="DIR", help="where latents are kept; in OUT by default")
    group.add_argument("--log-every", type=int, default=10, metavar="STEPS")
    group.add_argument("--save-every", type=int, default=500, metavar="STEPS")
    group.add_argument("--evaluate-every", type=int, default=0, metavar="STEPS", help="0: at the end alone")
    group.add_argument("--evaluate-images", type=int, metavar="N", help="of those that are held out; all by default")
    group.add_argument("--flip-test", action="store_true", help="predict the mirrored image too, and average")
    group.add_argument("--sheet", type=int, default=6, metavar="N", help="images on the sheet of predictions")


def _schedule(options: argparse.Namespace, scenes: Schedule) -> Schedule:
    schedule = get_schedule(options.schedule) if options.schedule else scenes
    given = {name: getattr(options, name) for name in ("batch", "lr", "unet_scale")}
    changes = {name: value for name, value in given.items() if value is not None}
    if options.steps or options.epochs:
        changes |= {"steps": options.steps, "epochs": options.epochs}
    if "lr" in changes and schedule.min_lr:
        changes["min_lr"] = schedule.min_lr * changes["lr"] / schedule.lr
    return replace(schedule, **changes)


def start(options: argparse.Namespace) -> Accelerator:
    """Processes, devices and precision, as torchrun or `accelerate launch` set them up.

    Raises:
        StopTraining: If there are not as many processes as asked for, or the batch cannot be split.
    """
    accelerator = Accelerator(mixed_precision=options.mixed_precision, cpu=not torch.cuda.is_available())
    count = accelerator.num_processes
    if options.processes not in (None, count):
        raise StopTraining(
            f"{count} process(es) started, not {options.processes}. Start with python -m torch.distributed.run "
            f"--nproc_per_node {options.processes}; accelerate launch --cpu starts one, whatever it is told."
        )
    options.micro_batch = options.micro_batch or max(options.schedule.batch // count, 1)
    at_once = options.micro_batch * count
    if options.schedule.batch % at_once:
        raise StopTraining(
            f"a batch of {options.schedule.batch} cannot be split into {count} process(es) x {options.micro_batch} "
            "images; give another --batch or --micro-batch."
        )
    accelerator.gradient_accumulation_steps = options.schedule.batch // at_once
    accelerator.print(
        f"{count} process(es) x {options.micro_batch} images x {accelerator.gradient_accumulation_steps} accumulated = "
        f"{options.schedule.batch} a step, on {accelerator.device}, {options.mixed_precision} mixed precision"
    )
    set_seed(options.seed)  # the same head in all processes
    return accelerator


def run(main: Callable[[], None]) -> None:
    """Call a script's main; what tadp can explain ends it with the explanation rather than a traceback."""
    try:
        main()
    except (TADPError, StopTraining) as error:
        sys.exit(f"{type(error).__name__}: {error}")
