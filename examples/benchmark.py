"""How fast is the backbone, and how much memory does it take, next to diffusers and to the machine's limit?

    python examples/benchmark.py                 # Stable Diffusion 1.5's size, 512x512; ten minutes of one core
    python examples/benchmark.py --side 256      # a quarter of the time
    python examples/benchmark.py --size tiny     # takes seconds, to check that it runs
    python examples/benchmark.py --only "tadp, float32"   # only one row, and the one that it is compared with

Weights are random, because speed does not depend on them. All rows of a table run in turn in one process, every second
round in reverse order, and each is compared with diffusers in the same round. Only CPU time and peak memory in addition
to the weights are compared, so that other work on the machine changes little. With one thread, CPU time does not
include the time in which threads wait for each other.
"""

import argparse
import json
import platform
from pathlib import Path

import torch
from benchmarking.counting import CONVOLUTIONS
from benchmarking.measuring import Bench
from benchmarking.rows import NAMES, Group, chosen
from benchmarking.variants import SIZES

TITLE = "Speed and memory on a CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", choices=CONVOLUTIONS, default="sd15", help="size of the models (default: %(default)s)"
    )
    parser.add_argument("--side", type=int, help="side of the image in pixels (default: that of the size)")
    parser.add_argument("--rounds", type=int, default=2, help="number of measurements (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a pass (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="add the rows with torch.compile; takes minutes")
    parser.add_argument(
        "--only", choices=NAMES, action="append", metavar="NAME", help=f"run this row; repeat it for several: {NAMES}"
    )
    parser.add_argument("--title", default=TITLE, help="title of the page")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.side = options.side or SIZES[options.size][2]
    bench = Bench(options.size, options.side)
    lines, rows = _head(options), []
    for group in chosen(options.only, compiled=options.compile):
        measured = bench.measure(group, options.rounds)
        rows += measured
        lines += _table(options, group, measured)
        print("\n".join(_table(options, group, measured)), flush=True)
    if options.out:
        options.out.with_suffix(".md").write_text("\n".join(lines) + "\n")
        options.out.with_suffix(".json").write_text(json.dumps({"rows": rows}, indent=2) + "\n")


def _head(options: argparse.Namespace) -> list[str]:
    size = "the size of Stable Diffusion 1.5" if options.size == "sd15" else "a small size"
    command = (
        f"python examples/benchmark.py --size {options.size} --rounds {options.rounds} --threads {options.threads}"
    )
    command += f" --side {options.side}" if options.side != SIZES[options.size][2] else ""
    command += " --compile" if options.compile else ""
    command += "".join(f' --only "{name}"' for name in options.only or ())
    command += f' --title "{options.title}"' if options.title != TITLE else ""
    return [
        f"# {options.title}",
        "",
        "How fast does tadp's backbone process an image on a CPU, and how much memory does it take? Two networks run: "
        f"the VAE encoder and the U-Net. They have {size}, and random weights. The "
        "first row of each table is the *diffusers* library, in float32 with its fused attention, which returns no "
        "feature maps. All rows of a table run in turn in one process. Weights of the same shape share their memory.",
        "",
        f"Command: `{command}`; {_processor()}, torch {torch.__version__}. [Speed](../speed.md) explains the results.",
        "",
        "- *Speed*: how many times as fast as the first row, in CPU time. Higher is better. Figures are "
        + ("from one round." if options.rounds == 1 else f"medians of {options.rounds} rounds."),
        "- *Memory*: the highest memory use in addition to the weights, as a share of that of the first row. Lower is "
        "better.",
        "- *Error*: how much the feature maps differ from the same maps of the first row that returns them (the "
        "relative L2 difference, for the map where it is largest).",
        "- *Share of best rate*: the operations per second of the row, as a share of the best rate that single "
        "convolutions reached in the same minutes, with the same number format and memory layout. It counts both "
        "networks where both were measured.",
        "- *diffusers by hand* writes every attention probability to memory, as the paper's released code does.",
        "- *Stopped like DIFT* ends the pass of diffusers after the second up block, whose output DIFT takes "
        "(`up_ft_index=1`). *tadp, stopped at the same layer* returns the same map. tadp's own maps of levels 2 and 3 "
        "are complete before this layer.",
        "- *Attention*: tadp attaches attention at levels 1 and 2, where these are computed, unless the row says "
        "otherwise. `channels_last` is PyTorch's memory layout of that name.",
    ]


def _table(options: argparse.Namespace, group: Group, rows: list[dict]) -> list[str]:
    side = options.side // group.shrink
    images = "One image" if group.batch == 1 else f"{group.batch} images"
    work = "forward and backward pass of the U-Net" if group.trains else "no gradients"
    columns = ["variant", "speed, U-Net", "speed, VAE + U-Net", "memory, U-Net", "memory, VAE", "error"]
    keys = ["name", "unet_speed", "both_speed", "unet_memory", "vae_memory", "error"]
    used = [at for at, key in enumerate(keys) if any(row[key] is not None for row in rows)]
    columns = [columns[at] for at in used] + ["GFLOP, U-Net", "share of best rate"]
    lines = ["", f"## {group.title}", "", f"{images} of {side}x{side} pixels, {work}.", ""]
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        cells = [_shown(keys[at], row[keys[at]]) for at in used]
        cells += [f"{row['gflop']['extract']:,.0f}"]
        cells += [f"{row['share_of_best_rate']:.0%} of {row['best_rate_gflops']:.0f} GFLOP/s"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _shown(key: str, value: str | float | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:.1e}" if key == "error" else f"{value:.2f}"


def _processor() -> str:
    """The processor's name, and whether it has AMX, matrix instructions that make bfloat16 fast."""
    facts = Path("/proc/cpuinfo").read_text()
    names = [line.split(":")[1].strip() for line in facts.splitlines() if line.startswith("model name")]
    amx = f"{'with' if 'amx_bf16' in facts else 'without'} AMX (matrix instructions that make bfloat16 fast)"
    return f"{names[0] if names else platform.machine()} {amx}"


if __name__ == "__main__":
    main()
