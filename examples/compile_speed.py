"""How long does it take to compile a backbone, and how much faster are a pass and a training step afterwards?

    python examples/compile_speed.py                 # Stable Diffusion 1.5's size; an hour or more of one core
    python examples/compile_speed.py --size tiny --task pass --way "backbone.compile()"   # a minute or two

Weights are random. Each way runs in a process of its own with an empty compile cache (cold start), and then in another
process with the cache of the first (warm start), where the compiled backbone and the same backbone without compilation
run in turn. All figures are CPU time, so that other work on the machine changes little.
"""

import argparse
import json
import multiprocessing as mp
import tempfile
from pathlib import Path

import torch
from benchmarking.compiling import PASSES, SIZES, STEPS, worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="sd15", help="size of the model (default: %(default)s)")
    parser.add_argument("--side", type=int, default=256, help="side of the image in pixels (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="number of measurements (default: %(default)s)")
    parser.add_argument("--task", choices=("pass", "step"), action="append", help="only this table")
    parser.add_argument("--way", choices=PASSES, action="append", help="only this row; repeat it for several")
    parser.add_argument("--backend", default="inductor", help="backend of torch.compile (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    options = parser.parse_args()
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for task in options.task or ("pass", "step"):
        ways = [name for name in (PASSES if task == "pass" else STEPS) if name in (options.way or PASSES)]
        tables[task] = {}
        for way in ways:
            tables[task][way] = measure(task, way, options)
            print(f"{task}, {way}: {tables[task][way]}", flush=True)
            if options.out:
                options.out.with_suffix(".md").write_text(markdown(options, tables))
                options.out.with_suffix(".json").write_text(json.dumps(tables, indent=2) + "\n")


def measure(task: str, way: str, options: argparse.Namespace) -> dict[str, float]:
    """The CPU seconds of a cold and of a warm start, and how many times as fast the compiled backbone is."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["benchmarking.compiling"])
    with tempfile.TemporaryDirectory() as cache:
        figures = []
        for rounds in (0, options.rounds):
            own_end, worker_end = context.Pipe()
            arguments = (task, way, options.size, options.side, rounds, options.backend, cache, worker_end)
            process = context.Process(target=worker, args=arguments)
            process.start()
            worker_end.close()  # so that a worker that fails ends this script, too
            figures.append(own_end.recv())
            process.join()
    cold, warm = figures
    return {"cold": cold["start"], "warm": warm["start"], "speed": warm["speed"], "error": warm["error"]}


def markdown(options: argparse.Namespace, tables: dict[str, dict[str, dict[str, float]]]) -> str:
    command = f"python examples/compile_speed.py --size {options.size} --side {options.side} --rounds {options.rounds}"
    command += "".join(f" --task {task}" for task in options.task or ())
    command += "".join(f' --way "{way}"' for way in options.way or ())
    names = {
        "sd15": "the size of Stable Diffusion 1.5",
        "two-levels": "the two finest levels of Stable Diffusion 1.5, with one layer per block",
    }
    size = names.get(options.size, "a small size")
    lines = [
        "# Compiling a backbone",
        "",
        f"How long does it take to compile the U-Net, and what does it gain on a CPU? The U-Net has {size}, random "
        f"weights, which do not change the speed, and attached attention. It runs in float32, on one image of "
        f"{options.side}x{options.side} pixels.",
        "",
        f"Command: `{command}`; one thread, torch {torch.__version__}. [Speed](../speed.md#compiled) explains the "
        "results.",
        "",
        "- *Cold start*: CPU seconds that the first call takes in addition to a call that is not compiled, with an "
        "empty compile cache. *Warm start*: the same in a new process, with the cache of the first.",
        f"- *Speed*: how many times as fast as without compilation, in CPU time; median of {options.rounds} rounds.",
        "- *Error*: the relative L2 difference from the result without compilation, where it is largest.",
    ]
    titles = {"pass": "A pass without gradients", "step": "A training step: forward and backward pass"}
    for task, rows in tables.items():
        lines += ["", f"## {titles[task]}", "", "| way | cold start, s | warm start, s | speed | error |"]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| `{way}` | {row['cold']:.0f} | {row['warm']:.0f} | {row['speed']:.2f} | {row['error']:.1e} |"
            for way, row in rows.items()
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
