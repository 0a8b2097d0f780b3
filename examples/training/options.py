"""The command line of the training scripts."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from accelerate import Accelerator

from tadp.errors import Argument, TADPError
from tadp.trainer import processes
from tadp.trainer.run_plan import changed
from tadp.training.schedules import SCHEDULES, Schedule, get_schedule
from training.text_options import add_text_options, settle_text


def read_options(
    description: str, *, data: Iterable[str], scenes: Schedule, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Read the options. The result's `schedule` is a `Schedule` with all changes from the command line.

    Args:
        description: Docstring of the script.
        data: Names of the data sets.
        scenes: Default schedule for rendered scenes.
        arguments: The command line; None for that of this process.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_data(parser.add_argument_group("data"), data)
    _add_model(parser.add_argument_group("model"))
    add_text_options(parser.add_argument_group("text"), data)
    _add_schedule(parser.add_argument_group("schedule"))
    _add_run(parser.add_argument_group("run"))
    options = parser.parse_args(arguments)
    needs = {"schedule": f"a --schedule: {', '.join(SCHEDULES)}", "root": "its folder: --root DIR"}
    for name, what in needs.items():
        if options.data != "scenes" and getattr(options, name) is None:
            parser.error(f"--data {options.data} needs {what}")
    options.schedule = _schedule(options, scenes)
    if options.cache_latents is None:
        options.cache_latents = options.data == "scenes"
    options.tune = options.tune or ("nothing" if options.data == "scenes" else "all")
    settle_text(options)
    options.captions = options.captions or options.out / "captions.db"
    options.captions_sha256 = None  # set when the captions are there
    return options


def _add_data(group: argparse._ArgumentGroup, data: Iterable[str]) -> None:
    group.add_argument("--data", choices=tuple(data), default="scenes", help="data set; scenes are rendered")
    group.add_argument("--root", type=Path, help="folder of the data set; `help(tadp.datasets)` describes it")
    group.add_argument("--captions", type=Path, help="caption table; the captioner adds missing captions")
    group.add_argument("--captioner", default="tadp-tiny", help="'tadp-tiny', or any image-text-to-text model")
    group.add_argument("--skip-broken", action="store_true", help="replace images that cannot be read by others")
    group.add_argument("--train-scenes", type=int, default=1000, metavar="N", help="number of scenes for training")
    group.add_argument("--held-out-scenes", type=int, default=300, metavar="N", help="number of scenes for testing")


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", default="tadp-tiny", help="'tadp-tiny', a hub id, or a folder in diffusers layout")
    group.add_argument("--untrained", action="store_true", help="use a U-Net of the same shape with random weights")
    group.add_argument(
        "--tune",
        choices=("all", "lora", "nothing"),
        help="what to train of the U-Net; all by default, but nothing for scenes, which takes minutes on a CPU",
    )
    group.add_argument("--head-options", type=json.loads, metavar="JSON", help='such as {"channels": 64}')
    group.add_argument("--gradient-checkpointing", action="store_true", help="use less memory and more time")


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--schedule", choices=tuple(SCHEDULES), help="a schedule of the paper; see tadp.training.schedules"
    )
    for name, kind in (("steps", int), ("epochs", int), ("batch", int), ("lr", float), ("unet-scale", float)):
        group.add_argument(f"--{name}", type=kind, metavar="N", help=f"{name} to use instead of the schedule's own")


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--out", type=Path, default=Path("run"), help="folder of the run; call again to continue")
    group.add_argument("--seed", type=int, default=0, help="seed of the head, of the order of images, and of dropout")
    group.add_argument("--micro-batch", type=int, metavar="N", help="images at a time; gradients are summed")
    group.add_argument("--mixed-precision", choices=("no", "bf16"), default="no", help="precision of the training")
    group.add_argument("--processes", type=int, metavar="N", help="number of processes that must have been started")
    group.add_argument("--workers", type=int, default=0, metavar="N", help="number of processes that read images")
    group.add_argument(
        "--cache-latents",
        action=argparse.BooleanOptionalAction,
        help="encode images and captions only once, if at most flips change them; the default for scenes",
    )
    group.add_argument("--cache", type=Path, metavar="DIR", help="folder of what is encoded once (default: OUT)")
    group.add_argument("--log-every", type=int, default=10, metavar="STEPS", help="steps between lines of the record")
    group.add_argument("--save-every", type=int, default=500, metavar="STEPS", help="steps between checkpoints")
    group.add_argument("--evaluate-every", type=int, default=0, metavar="STEPS", help="0 evaluates only at the end")
    group.add_argument("--evaluate-images", type=int, metavar="N", help="held-out images to evaluate; all by default")
    group.add_argument("--flip-test", action="store_true", help="also predict the mirrored image, and average both")
    group.add_argument("--sheet", type=int, default=6, metavar="N", help="number of images on the sheet of predictions")


def _schedule(options: argparse.Namespace, scenes: Schedule) -> Schedule:
    schedule = get_schedule(options.schedule) if options.schedule else scenes
    return changed(schedule, **{k: getattr(options, k) for k in ("steps", "epochs", "batch", "lr", "unet_scale")})


def start(options: argparse.Namespace) -> Accelerator:
    """Make the accelerator for the processes, devices and precision that torchrun or `accelerate launch` set up."""
    accelerator, options.micro_batch = processes.start(
        options.schedule,
        seed=options.seed,
        micro_batch=options.micro_batch,
        mixed_precision=options.mixed_precision,
        processes=options.processes,
    )
    accelerator.print(processes.split_text(accelerator, micro_batch=options.micro_batch))
    return accelerator


def run(main: Callable[[], None]) -> None:
    """Call a script's main function. An expected error ends it with a message instead of a traceback."""
    try:
        main()
    except TADPError as error:
        sys.exit(f"{type(error).__name__}: {error.spelled(_as_option)}")


def _as_option(argument: Argument) -> str:
    """An argument of the library as an option of the scripts."""
    return f"--{'out' if argument.name == 'output' else argument.name.replace('_', '-')}"
