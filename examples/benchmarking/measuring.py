"""Time and memory of a variant and of diffusers by hand, which run in turn in separate processes."""

import gc
import multiprocessing as mp
import resource
import time
from functools import partial
from pathlib import Path

import torch

from benchmarking.variants import PLAIN, Variant, build, encode, extract


def worker(size: str, variant: Variant, threads: int, pipe) -> None:
    """Build the networks, then answer each "run" with the figures of one pass."""
    torch.set_num_threads(threads)
    backbone, image, text = build(size, variant)
    text = text.to(dtype=variant.dtype)
    pipe.send(sum(p.numel() * p.element_size() for p in backbone.parameters()))
    while pipe.recv() == "run":
        with torch.inference_mode():
            encoding, latents = _measure(partial(encode, backbone, variant, image))
            extracting, maps = _measure(partial(extract, backbone, variant, latents, text))
        pipe.send({"encode": encoding, "extract": extracting, "maps": [level.float() for level in maps]})


def _measure(function) -> tuple[dict[str, float], object]:
    """CPU seconds, wall seconds, and peak bytes in addition to those before the call."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of resident memory
    before = _status("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    figures = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return figures | {"peak": _status("VmHWM") - before}, result


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(size: str, variant: Variant, rounds: int, threads: int) -> dict:
    """Run a variant and diffusers by hand in turn, and return medians of the ratios by hand / variant."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tadp.backbone"])  # imported only once; no pass runs in this process
    pipes, processes = [], []
    for contender in (PLAIN, variant):
        own_end, worker_end = context.Pipe()
        process = context.Process(target=worker, args=(size, contender, threads, worker_end))
        process.start()
        pipes.append(own_end)
        processes.append(process)
        own_end.recv()
    results = []
    for number in range(rounds + 1):  # the first round is a warm-up
        row = []
        for pipe in pipes:
            pipe.send("run")
            row.append(pipe.recv())
        if number:
            results.append(row)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send("stop")
        process.join()
    return _ratios(variant, results)


def _ratios(variant: Variant, results: list) -> dict:
    def median(values: list[float]) -> float:
        return float(torch.tensor(values, dtype=torch.float64).median())

    def ratio(time_of) -> float:
        return median([time_of(plain) / time_of(ours) for plain, ours in results])

    return {
        "name": variant.name,
        "unet_cpu": ratio(lambda figures: figures["extract"]["cpu"]),
        "unet_wall": ratio(lambda figures: figures["extract"]["wall"]),
        "both_cpu": ratio(lambda figures: figures["encode"]["cpu"] + figures["extract"]["cpu"]),
        "both_wall": ratio(lambda figures: figures["encode"]["wall"] + figures["extract"]["wall"]),
        "unet_memory": median([ours["extract"]["peak"] / plain["extract"]["peak"] for plain, ours in results]),
        "vae_memory": median([ours["encode"]["peak"] / plain["encode"]["peak"] for plain, ours in results]),
        "encode_seconds": median([ours["encode"]["wall"] for _, ours in results]),
        "extract_seconds": median([ours["extract"]["wall"] for _, ours in results]),
        "maps": results[-1][1]["maps"],
    }
