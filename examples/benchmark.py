"""How fast is the backbone, and how much memory does it take, compared with diffusers by hand?

    python examples/benchmark.py                 # Stable Diffusion 1.5's size, 512x512, about ten minutes on two cores
    python examples/benchmark.py --size tiny     # takes seconds, to check that it runs
    python examples/benchmark.py --only "tadp, float32"   # only one row

Weights are random, because speed does not depend on them. "Diffusers by hand" runs the same networks like the paper's
released code: float32, contiguous, with every attention probability written to memory. Each variant and this baseline
run in turn, in separate processes, so that a change in the machine's speed affects both. CPU time and peak memory in
addition to the weights are compared in each round.
"""

import argparse
import json
import os
import platform
from pathlib import Path

import torch
from benchmarking.counting import CONVOLUTIONS, best_convolution_rate, count_flops, relative_error
from benchmarking.measuring import compare
from benchmarking.variants import COMPILED, EXACT, SIZES, VARIANTS

TITLE = "Speed and memory on a CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", choices=CONVOLUTIONS, default="sd15", help="size of the models (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of a pass (default: all cores)")
    parser.add_argument("--compile", action="store_true", help="add two rows with torch.compile; takes minutes")
    names = [variant.name for variant in VARIANTS + COMPILED]
    parser.add_argument(
        "--only", choices=names, action="append", help="run this row and the exact one; repeat it for several"
    )
    parser.add_argument("--title", default=TITLE, help="title of the page")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    flops = count_flops(options.size)
    variants = VARIANTS + COMPILED if options.compile or options.only else VARIANTS
    variants = [variant for variant in variants if variant == EXACT or variant.name in (options.only or names)]
    rows = [compare(options.size, variant, options.rounds, options.threads) for variant in variants]
    reference = rows[0]["maps"]
    for row, variant in zip(rows, variants, strict=True):
        row["error"] = relative_error(row.pop("maps"), reference)
        rate = best_convolution_rate(options.size, variant.dtype, variant.memory_format)
        row["share_of_best_rate"] = sum(flops.values()) / (row["encode_seconds"] + row["extract_seconds"]) / rate
        row["best_rate_gflops"] = rate
    report = _markdown(options, flops, rows)
    print(report)
    if options.out:
        options.out.with_suffix(".md").write_text(report)
        options.out.with_suffix(".json").write_text(json.dumps({"gflop": flops, "rows": rows}, indent=2) + "\n")


def _markdown(options: argparse.Namespace, flops: dict[str, float], rows: list[dict]) -> str:
    side = SIZES[options.size][2]
    size = "the size of Stable Diffusion 1.5" if options.size == "sd15" else "a small size"
    counted = " and ".join(f"{value:,.0f} GFLOP in the {name}" for name, value in flops.items())
    command = (
        f"python examples/benchmark.py --size {options.size} --rounds {options.rounds} --threads {options.threads}"
    )
    command += " --compile" if options.compile else ""
    command += "".join(f' --only "{name}"' for name in options.only or ())
    command += f' --title "{options.title}"' if options.title != TITLE else ""
    names = " ".join(row["name"] for row in rows)
    variant = "the number format is float32 or bfloat16" if "bfloat16" in names else "the number format is float32"
    variant += ". `channels_last` is PyTorch's memory layout of that name" if "channels_last" in names else ""
    variant += ". *Compiled* means that `torch.compile` was used" if "compiled" in names else ""
    lines = [
        f"# {options.title}",
        "",
        "How fast does tadp's backbone process an image on a CPU, and how much memory does it take? Two networks run: "
        "the VAE encoder and the U-Net. They are compared with *diffusers by hand*, which runs the same networks in "
        f"float32 with the diffusers library, as the paper's released code does. The networks have {size}, and random "
        f"weights, which do not change the speed. An image of {side}x{side} pixels takes {counted}.",
        "",
        f"Command: `{command}`; {_processor()}, torch {torch.__version__}. [Speed](../speed.md) explains the results.",
        "",
        f"- *Variant*: {variant}.",
        "- *Speed*: how many times as fast as diffusers by hand, in CPU time and in brackets in wall time. Higher is "
        "better. Figures are " + ("from one round." if options.rounds == 1 else f"medians of {options.rounds} rounds."),
        "- *Memory*: the highest memory use in addition to the weights, as a share of that of diffusers by hand. Lower "
        "is better.",
        "- *Error*: how much the feature maps differ from those of the first row (the relative L2 difference, for the "
        "map where it is largest).",
        "- *Share of best rate*: the operations per second of both networks, as a share of the best rate that single "
        "convolutions reached on this machine with the same number format and memory layout.",
        "",
        "| variant | speed, U-Net | speed, VAE + U-Net | memory, U-Net | memory, VAE | error | share of best rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            row["name"],
            f"{row['unet_cpu']:.2f} ({row['unet_wall']:.2f})",
            f"{row['both_cpu']:.2f} ({row['both_wall']:.2f})",
            f"{row['unet_memory']:.2f}",
            f"{row['vae_memory']:.2f}",
            f"{row['error']:.1e}",
            f"{row['share_of_best_rate']:.0%} of {row['best_rate_gflops']:.0f} GFLOP/s",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _processor() -> str:
    """The processor's name, and whether it has AMX, matrix instructions that make bfloat16 fast."""
    facts = Path("/proc/cpuinfo").read_text()
    names = [line.split(":")[1].strip() for line in facts.splitlines() if line.startswith("model name")]
    amx = f"{'with' if 'amx_bf16' in facts else 'without'} AMX (matrix instructions that make bfloat16 fast)"
    return f"{names[0] if names else platform.machine()} {amx}"


if __name__ == "__main__":
    main()
