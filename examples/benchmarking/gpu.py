"""The time and memory of a call on a GPU, its share of time per kind of kernel, and the page."""

import argparse
import gc
import platform
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarking.variants import SIZES


def allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def measure(function: Callable[[], Any], options: argparse.Namespace) -> dict[str, Any]:
    """The median seconds of a call and, on a GPU, the bytes held between calls and the peak during a call."""
    gpu = options.device.startswith("cuda")
    synchronize = torch.cuda.synchronize if gpu else lambda: None
    if gpu:  # on a CPU, only to see that it runs
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


def limited(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of a run; none if it does not fit into the GPU."""
    try:
        return run()
    except torch.OutOfMemoryError:
        return {"held": None, "peak": None}


KERNELS = {  # the first kind whose expression is found in a kernel's name; on a CPU, in an operator's name
    "attention": "flash|fmha|scaled_dot_product",
    "convolution": "conv|fprop|dgrad|wgrad|winograd",
    "matrix product": "gemm|addmm|::mm|bmm|linear|cutlass|nvjet|cublas",
    "norm": "norm|moments|welford",
    "layout and copies": "nchw|nhwc|transpose|copy|cat|memcpy|memset|clone",
    "optimizer": "adam|multi_tensor|foreach",
    "arithmetic on elements": "elementwise|vectorized|silu|gelu|softmax|add|mul|triton|reduce|upsample",
    "other": "",
}


def share_by_kind(function: Callable[[], Any], options: argparse.Namespace) -> dict[str, Any]:
    """The share of time of each kind of kernel in a call, and how much of the call's time kernels take in all."""
    gpu = options.device.startswith("cuda")
    seconds = measure(function, options)["seconds"]
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as profiler:
        function()
        if gpu:
            torch.cuda.synchronize()
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        kind = next(kind for kind, pattern in KERNELS.items() if re.search(pattern, event.key, re.IGNORECASE))
        times[kind] += event.self_device_time_total if gpu else event.self_cpu_time_total
    total = sum(times.values())
    return {"busy": total / 1e6 / seconds} | {kind: time / total for kind, time in times.most_common()}


def page(options: argparse.Namespace, results: dict[str, dict[str, dict]], savings: list[str]) -> str:
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.machine()
    side, command = SIZES[options.size][2], f"--size {options.size} --batch {options.batch} --rounds {options.rounds}"
    command += f" --batches {' '.join(map(str, options.batches))}" if options.batches != [16, 32, 64] else ""
    command += " --compile" * options.compile + (f" --savings {options.savings}" if options.savings else "")
    lines = [
        "# Time and memory on a GPU",
        "",
        "How fast are a pass and a training step on a GPU, and how much memory do they take? The networks have "
        + ("the size of Stable Diffusion 1.5. " if options.size == "sd15" else "a small size. ")
        + "Their weights are random, which changes neither time nor memory. "
        + f"A batch has {options.batch} images of {side}x{side} pixels, unless a row says otherwise.",
        "",
        f"Command: `python examples/gpu_cost.py {command}`; {name}, torch {torch.__version__}; medians of "
        f"{options.rounds} rounds.",
        "",
        "- *Held* is the memory that stays allocated between calls: weights, inputs and the state of the optimizer.",
        "- *Extra* is how much more is allocated at the peak of a call. A GPU needs the sum of both.",
        "",
        "## Batch size",
        "",
        "A pass in bfloat16 with texts that were encoded once. A row without figures did not fit.",
        "",
        "| images in a batch | images per second | held, GB | extra, GB |",
        "|---|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {size} | {shown(row)} |" for size, row in results["batches"].items()]
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
    lines += [f"| {name} | {shown(row)} |" for name, row in results["steps"].items()]
    lines += [
        "",
        "## Kinds of kernels",
        "",
        "The share of the time of all kernels, in bfloat16. *Busy* is the time of all kernels as a share of the time "
        "of the call; in the rest, the GPU waits.",
        "",
        f"| call | busy | {' | '.join(KERNELS)} |",
        f"|{'---|' * (len(KERNELS) + 2)}",
    ]
    for name, row in results["kernels"].items():
        lines.append(f"| {name} | {row['busy']:.0%} | {' | '.join(f'{row.get(kind, 0):.0%}' for kind in KERNELS)} |")
    lines += [
        "",
        "## A pass",
        "",
        "A pass runs the VAE encoder and the U-Net once. *Diffusers by hand* runs the same networks with only "
        "the diffusers library, and like the paper's released code it writes every attention probability to memory. "
        "*Diffusers with hooks* takes the maps with hooks and records no attention. "
        "In the format *TensorFloat-32*, a GPU rounds float32 numbers before it multiplies them, which is faster. "
        "*Error* is the relative L2 difference of tadp's feature maps from its maps in float32, for the map where it "
        "is largest. `channels_last` is PyTorch's memory layout of that name.",
        "",
        "| variant | images per second | held, GB | extra, GB | error |",
        "|---|---|---|---|---|",
    ]
    for name, row in results["passes"].items():
        lines.append(f"| {name} | {shown(row)} | {'-' if row['error'] is None else format(row['error'], '.1e')} |")
    if savings:
        lines += [
            "",
            "## Ways to save memory",
            "",
            f"The arguments of `from_pretrained` that save memory, with {options.savings} and one image. *Difference* "
            "is the relative L2 difference of the map where it is largest from the maps with only `dtype`.",
            "",
            *savings,
        ]
    return "\n".join(lines) + "\n"


def shown(row: dict[str, Any]) -> str:
    rate = f"{row['batch'] / row['seconds']:.3g}" if "seconds" in row else "-"
    numbers = () if row["held"] is None else (row["held"] / 1e9, (row["peak"] - row["held"]) / 1e9)
    return " | ".join([rate, *([f"{number:.2f}" for number in numbers] or "--")])
