"""The time and memory of a call on a GPU, and their page."""

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarking.variants import SIZES


def allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def measure(function: Callable[[], Any], options: argparse.Namespace) -> dict[str, Any]:
    """The median seconds of a call and, on a GPU, the bytes held between calls and the peak during a call."""
    gpu = options.device.startswith("cuda")
    synchronize = torch.cuda.synchronize if gpu else lambda: None
    function(), function()
    gc.collect()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if gpu else None
    seconds = []
    for _ in range(options.rounds):
        synchronize()
        start = time.perf_counter()
        function()
        synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if gpu else None
    return {"seconds": statistics.median(seconds), "held": held, "peak": peak}


def page(options: argparse.Namespace, passes: dict[str, dict], steps: dict[str, dict]) -> str:
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.machine()
    side, command = SIZES[options.size][2], f"--size {options.size} --batch {options.batch} --rounds {options.rounds}"
    command += " --compile" if options.compile else ""
    lines = [
        "# Time and memory on a GPU",
        "",
        f"Command: `python examples/gpu_cost.py {command}`; {name}, torch {torch.__version__}. {options.batch} images "
        f"of {side}x{side} at a time; medians of {options.rounds} rounds. Memory is in GB (10^9 bytes), as counted "
        "by torch's allocator. Held: what stays allocated between calls, which is weights, inputs and the state of the "
        "optimizer. Extra: how much more is allocated at the peak of a call.",
        "",
        "One pass through the VAE encoder and the U-Net. Plain: an implementation that writes out every attention "
        "probability, like the released code. Difference: the relative L2 difference of tadp's maps from its maps in "
        "float32, for the level where it is largest.",
        "",
        "| variant | images per second | held | extra | difference |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in passes.items():
        error = "" if row["error"] is None else f"{row['error']:.1e}"
        lines.append(f"| {name} | {shown(row, options)} | {error} |")
    lines += ["", "A training step that starts from latents. AdamW's moving averages count as held.", ""]
    lines += ["| training | images per second | held | extra |", "|---|---|---|---|"]
    lines += [f"| {name} | {shown(row, options)} |" for name, row in steps.items()]
    return "\n".join(lines) + "\n"


def shown(row: dict[str, Any], options: argparse.Namespace) -> str:
    rate = f"{options.batch / row['seconds']:.3g}"
    if row["held"] is None:
        return f"{rate} | - | -"
    return f"{rate} | {row['held'] / 1e9:.2f} | {(row['peak'] - row['held']) / 1e9:.2f}"
