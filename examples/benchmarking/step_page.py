"""The page that examples/training_step.py writes."""

import argparse
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarking.variants import STEP_SIZES

FULL = "U-Net trained"
HOOKS = "diffusers with hooks, no attention"


def page(options: argparse.Namespace, steps: dict[str, dict[str, Any]], passes: dict[str, dict[str, Any]]) -> str:
    """The report, in Markdown."""
    side, on_gpu = STEP_SIZES[options.size][2], options.device.startswith("cuda")
    command = f"--size {options.size} --batch {options.batch} --rounds {options.rounds}"
    command += f" --device {options.device}" if on_gpu else f" --threads {options.threads}"
    command += "".join(f' --only "{name}"' for name in options.only or ())
    first = f"*{FULL}* or *{HOOKS}*"
    size = {"sd15": "the size", "half": "half the width", "fifth": "a fifth of the width"}.get(
        options.size, "a small part of the width"
    )
    lines = [
        "# The cost of a training step",
        "",
        f"Which choices make a training step faster or smaller? The networks have {size} of Stable Diffusion 1.5 and "
        f"random weights. A step takes {options.batch} image{'s' * (options.batch > 1)} of {side}x{side} pixels.",
        "",
        f"Command: `python examples/training_step.py {command}`; {_machine(options)}, torch {torch.__version__}.",
        "",
        f"- *Images per second* are relative to {first}, measured in {'time' if on_gpu else 'CPU time'}. Higher "
        "is better. Figures are medians of the rounds in brackets.",
        "- *Memory* is the largest memory during a step, with weights, gradients and the state of the optimizer, "
        f"relative to {first}. Lower is better.",
        "",
    ]
    if steps:
        lines += [
            "## A step",
            "",
            "A step is a forward pass, a backward pass and an update by AdamW of a segmentation model with 150 "
            "classes. It starts from stored latents and stored text, except where images are encoded in every step.",
            "",
            "| what is trained, and how | images per second | memory |",
            "|---|---|---|",
            *(_row(name, figures) for name, figures in steps.items()),
            "",
        ]
    if passes:
        lines += [
            "## Forward and backward of the U-Net",
            "",
            "*Diffusers with hooks* runs diffusers' U-Net, with its fused attention, and reads the same four maps with "
            "hooks. It returns no attention.",
            "",
            "| variant | images per second | memory |",
            "|---|---|---|",
            *(_row(name, figures) for name, figures in passes.items()),
        ]
    return "\n".join(lines) + "\n"


def _row(name: str, figures: dict[str, Any]) -> str:
    rounds = ", ".join(f"{value:.2f}" for value in figures["rounds"])
    return f"| {name} | {1 / figures['seconds']:.2f} ({rounds}) | {figures['memory']:.2f} |"


def _machine(options: argparse.Namespace) -> str:
    if options.device.startswith("cuda"):
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{options.threads} thread{'s' * (options.threads > 1)} of an {name}"
