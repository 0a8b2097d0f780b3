"""Time and memory of a function relative to another one, each in its own process, in turn."""

import argparse
import gc
import multiprocessing as mp
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def compare(
    options: argparse.Namespace, make: Callable[..., Any], reference: Any, settings: Any, *, times: int = 1
) -> dict[str, Any]:
    """Run a row and its reference in turn. Time and memory are medians of the ratios row / reference."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tadp.backbone"])
    pipes, processes = [], []
    for own in (reference, settings):
        pipe, end = context.Pipe()
        processes.append(context.Process(target=worker, args=(options, make, own, end)))
        processes[-1].start()
        pipes.append(pipe)
    rounds = []
    for _ in range(times * options.rounds):
        figures = []
        for pipe in pipes:
            pipe.send("run")
            figures.append(pipe.recv())
        rounds.append(figures)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send("stop")
        process.join()
    ratios = {name: [own[name] / first[name] for first, own in rounds] for name in ("seconds", "memory")}
    return {name: statistics.median(values) for name, values in ratios.items()} | {
        "rounds": [first["seconds"] / own["seconds"] for first, own in rounds],
        "measured": rounds[-1][1],
    }


def worker(options: argparse.Namespace, make: Callable[..., Any], settings: Any, pipe: Any) -> None:
    """Answer each "run" with the figures of one call."""
    torch.set_num_threads(options.threads)
    before = _resident("VmRSS")
    function = make(options, settings)
    function()
    while pipe.recv() == "run":
        pipe.send(measure(function, options, before))


def measure(function: Callable[[], Any], options: argparse.Namespace, before: int) -> dict[str, float]:
    """Seconds of a call (of the CPU, or of the clock on a GPU), and the largest memory in bytes."""
    gc.collect()
    if options.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        return {"seconds": time.perf_counter() - start, "memory": torch.cuda.max_memory_allocated()}
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of resident memory
    start = time.process_time()
    function()
    return {"seconds": time.process_time() - start, "memory": _resident("VmHWM") - before}


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
