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
        "How fast are a pass and a training step on a GPU, and how much memory do they take? The networks have "
        + ("the size of Stable Diffusion 1.5. " if options.size == "sd15" else "a small size. ")
        + "Their weights are random, which changes neither time nor memory. "
        + f"A batch has {options.batch} images of {side}x{side} pixels.",
        "",
        f"Command: `python examples/gpu_cost.py {command}`; {name}, torch {torch.__version__}; medians of "
        f"{options.rounds} rounds.",
        "",
        "- *Held* is the memory that stays allocated between calls: weights, inputs and the state of the optimizer.",
        "- *Extra* is how much more is allocated at the peak of a call. A GPU needs the sum of both.",
        "",
        "## A pass",
        "",
        "A pass runs the VAE encoder and the U-Net once. *Diffusers by hand* runs the same networks with only "
        "the diffusers library, and like the paper's released code it writes every attention probability to memory. "
        "In the format *TensorFloat-32*, a GPU rounds float32 numbers before it multiplies them, which is faster. "
        "*Error* is the relative L2 difference of tadp's feature maps from its maps in float32, for the map where it "
        "is largest. `channels_last` is PyTorch's memory layout of that name.",
        "",
        "| variant | images per second | held, GB | extra, GB | error |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in passes.items():
        error = "-" if row["error"] is None else f"{row['error']:.1e}"
        lines.append(f"| {name.replace('plain,', 'diffusers by hand,')} | {shown(row, options)} | {error} |")
    lines += [
        "",
        "## A training step",
        "",
        "A step is a forward pass, a backward pass and an update by AdamW of a segmentation model (U-Net and head) "
        "with 150 classes. It starts from stored latents, so it does not run the VAE encoder. Gradients "
        "count as extra. *Batch in 4 parts* means that the gradients of four parts of the batch are computed one after "
        "another and summed, which saves no memory here in addition to gradient checkpointing. "
        "[Small GPU](../small-gpu.md#measured) explains the results.",
        "",
        "| what is trained, and how | images per second | held, GB | extra, GB |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {shown(row, options)} |" for name, row in steps.items()]
    return "\n".join(lines) + "\n"


def shown(row: dict[str, Any], options: argparse.Namespace) -> str:
    rate = f"{options.batch / row['seconds']:.3g}"
    if row["held"] is None:
        return f"{rate} | - | -"
    return f"{rate} | {row['held'] / 1e9:.2f} | {(row['peak'] - row['held']) / 1e9:.2f}"
