"""The command line of the study."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

from tadp.errors import TADPError

from .settings import CROPS_PX, DATA, QUICK, Settings, StopStudyError

DECIDING = ("quick", *(field.name for field in fields(Settings)), "seeds", "unet", "device", "micro_batch")


def read(description: str | None, arguments: Sequence[str] | None = None) -> tuple[Settings, argparse.Namespace]:
    """Settings of the runs, and how to go about them: out, page, seeds, jobs, device and so on."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the runs; call again to go on")
    parser.add_argument("--page", type=Path, help="write PAGE.md, PAGE.json and PAGE.png; in OUT by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, each with one thread")
    parser.add_argument("--unet", choices=("frozen", "tuned", "both"), default="both", help="what of the table to run")
    parser.add_argument("--device", default="cpu", help="cuda computes in bfloat16")
    parser.add_argument("--micro-batch", type=int, metavar="N", help="images at once; gradients are summed")
    parser.add_argument("--quick", action="store_true", help="a few images and steps, to see that it runs")
    parser.add_argument("--report", action="store_true", help="write the page from the runs that are there; run none")
    for field in fields(Settings):
        kind = {"lr": float, "model": str, "captioner": str, "data": str, "root": str}.get(field.name, int)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=kind, choices=DATA if field.name == "data" else None
        )
    how = parser.parse_args(arguments)
    is_real = how.data not in (None, "scenes")
    if is_real and how.root is None:
        parser.error(f"--data {how.data} needs the data set's folder: --root DIR")
    base = Settings(train=None, test=None, crop_px=CROPS_PX[how.data]) if is_real else Settings()
    base = QUICK if how.quick and not is_real else base
    given = {one.name: getattr(how, one.name) for one in fields(Settings) if getattr(how, one.name) is not None}
    how.asked = {name: getattr(how, name) for name in DECIDING if getattr(how, name) != parser.get_default(name)}
    return replace(base, **given), how


def run(main: Callable[[], None]) -> None:
    """Call a script's main; what can be explained ends it with the explanation rather than a traceback."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        main()
    except (TADPError, StopStudyError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
