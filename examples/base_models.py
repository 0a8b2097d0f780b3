"""Compare base models: levels, channels, parameters, counted FLOPs and memory at 512x512. Nothing is downloaded.

    python examples/base_models.py                 # the table of docs/base-models.md
    python examples/base_models.py --family sdxl   # one family
    python examples/base_models.py --levels        # the cost of a pass for some levels, as in docs/speed.md
    python examples/base_models.py --levels --rounds 2 --side 256   # the same with measured time
    python examples/base_models.py --fit           # what fits onto a small card, as in docs/small-gpu.md
    python examples/base_models.py --savings tadp-tiny --side 128   # run a model with each way to save memory
    python examples/base_models.py --measure sd1   # measure the memory of a real pass with random weights in float32
    python examples/base_models.py --measure flux --device cuda   # the same in bfloat16

Models are built from their public configurations (examples/base_models.json) without weights. FLOPs are counted on
PyTorch's meta device by torch.utils.flop_counter, which counts matrix products, convolutions and fused attention.
Memory is counted with fake tensors, as the largest number of bytes of live tensors after any operation.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from counting.fitting import CARDS_GB, WAYS, fitting_rows
from counting.memory import peak_bytes, real_pass
from counting.models import LEVELS, build, count, inputs, run, text_encoder
from counting.savings import savings_rows
from counting.timing import fewer_blocks, level_seconds
from torch.utils.flop_counter import FlopCounterMode

from tadp.diffusion.families import family_of

CONFIGS = Path(__file__).with_suffix(".json")
LARGE, SIDES_PX = ("sdxl", "sd35l", "flux"), (512, 1024)  # the rows of --fit


def measure(family: dict[str, Any], side_px: int) -> dict[str, Any]:
    """The structure and the cost of one family, for one square image with attention recorded at levels 1 and 2."""
    with torch.device("meta"):
        vae, denoiser = build(family)
        encoders = [text_encoder(config) for config in family["text"]]
        pixels, latents, text = inputs(family, vae, denoiser, side_px)
    layout = family_of(denoiser).layout(denoiser)
    with FlopCounterMode(display=False) as encoding, torch.no_grad():
        vae(pixels)
    with FlopCounterMode(display=False) as passing, torch.no_grad():
        maps = run(denoiser, latents, text, side_px)
    return {
        "levels": layout.taps,
        "channels": layout.channels,
        "strides": tuple(vae.reduction * reduction for reduction in layout.reduction),
        "attention": tuple(vae.reduction * layout.reduction[level] for level in layout.attention_levels),
        "tokens": family["tokens"],
        "tables": sum(buffer.numel() for part in (vae, denoiser) for buffer in part.buffers()),
        "parameters": {"denoiser": count(denoiser), "vae": count(vae), "text": sum(map(count, encoders))},
        "flops": {"vae": encoding.get_total_flops(), "denoiser": passing.get_total_flops()},
        "pass_bytes": peak_bytes(family, side_px, torch.float16),
        "maps_bytes": sum(level.numel() * 4 for level in maps),
    }


def level_flops(family: dict[str, Any], side_px: int, attention: tuple[int, ...]) -> list[float]:
    """GFLOP of a pass by the finest level that is asked for, level 0 first."""
    with torch.device("meta"):
        vae, denoiser = build(family)
        _, latents, text = inputs(family, vae, denoiser, side_px)
    levels = range(len(family_of(denoiser).layout(denoiser).channels))
    counted = []
    for finest in levels:
        with FlopCounterMode(display=False) as passing, torch.no_grad():
            run(denoiser, latents, text, side_px, levels=levels[finest:], attention=attention)
        counted.append(passing.get_total_flops() / 1e9)
    return counted


def level_row(family: dict[str, Any], side_px: int) -> str:
    """FLOPs of a pass by the finest level that is asked for: with attention at levels 1 and 2, and without."""
    costs, plain = (level_flops(family, side_px, attention) for attention in (LEVELS, ()))
    cells = [f"{costs[0]:,.0f}; {plain[0]:,.0f}"]
    cells += [
        f"{cost:,.0f} ({cost / costs[0]:.2f}); {rest:,.0f}" for cost, rest in zip(costs[1:], plain[1:], strict=True)
    ]
    return f"| {' | '.join([family['name'], *cells, *['none'] * (4 - len(cells))])} |"


def time_row(family: dict[str, Any], side_px: int, rounds: int) -> str:
    """Measured CPU time of a pass by the finest level that is asked for, and the share of FLOPs."""
    counted = level_flops(family, side_px, LEVELS)
    seconds = level_seconds(family, side_px, rounds)
    cells = [f"{seconds[0]:.1f} s; {counted[0]:,.0f} GFLOP"]
    for time, flops in zip(seconds[1:], counted[1:], strict=True):
        cells.append(f"{time / seconds[0]:.2f} ({flops / counted[0]:.2f})")
    return f"| {' | '.join([family['name'], *cells, *['none'] * (4 - len(cells))])} |"


def row(name: str, costs: dict[str, Any]) -> str:
    parameters, flops = costs["parameters"], costs["flops"]
    weights = 2 * (parameters["denoiser"] + parameters["vae"] + costs["tables"]) / 1e9
    cells = (
        name,
        ", ".join(map(str, costs["channels"])),
        ", ".join(map(str, costs["strides"])),
        ", ".join(map(str, costs["attention"])),
        str(costs["tokens"]),
        f"{parameters['denoiser'] / 1e6:,.0f} + {parameters['vae'] / 1e6:,.0f} + {parameters['text'] / 1e6:,.0f}",
        f"{flops['vae'] / 1e9:,.0f} + {flops['denoiser'] / 1e9:,.0f}",
        f"{weights:.1f} + {2 * parameters['text'] / 1e9:.1f} + {costs['pass_bytes'] / 1e9:.1f}",
        f"{costs['maps_bytes'] / 2**20:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    families = json.loads(CONFIGS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--family", choices=sorted(families), action="append", help="family to show; repeat it for several"
    )
    parser.add_argument(
        "--measure", choices=sorted(families), help="run a family and measure the memory, if there is enough"
    )
    parser.add_argument("--levels", action="store_true", help="show the cost of a pass for some levels")
    parser.add_argument(
        "--rounds", type=int, default=0, help="with --levels, number of measurements of CPU time, with one thread"
    )
    parser.add_argument("--fewer", type=int, default=1, help="with --rounds, divide the number of blocks by this")
    parser.add_argument("--fit", action="store_true", help="show what fits onto a small card at 512 and 1024 pixels")
    parser.add_argument("--savings", metavar="NAME", help="run a model with each way to save memory")
    parser.add_argument("--device", default="cpu", help="device for --measure and --savings")
    parser.add_argument("--side", type=int, default=512, help="side of the square image, in pixels")
    options = parser.parse_args(arguments)
    if options.measure:
        print(real_pass(families[options.measure], options.side, options.device))
        return
    if options.savings:
        for line in savings_rows(options.savings, options.device, side_px=options.side):
            print(line)
        return
    if options.fit:
        columns = ["model", "pixels", *WAYS, *(f"{card} GB" for card in CARDS_GB)]
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for key in options.family or LARGE:
            print("\n".join(fitting_rows(families[key], SIDES_PX)))
        return
    if options.levels:
        print("| model | all levels | from 1 on | from 2 on | only 3 |\n|---|---|---|---|---|")
        for key in options.family or families:
            if options.rounds:
                print(time_row(fewer_blocks(families[key], options.fewer), options.side, options.rounds), flush=True)
            else:
                print(level_row(families[key], options.side))
        return
    print(
        "| model | channels | strides | attention at | text tokens | parameters, M: denoiser + VAE encoder + text "
        "| GFLOP: VAE + denoiser | memory in 16 bits, GB: weights + those of text + a pass | maps, MiB |"
    )
    print(f"|{'---|' * 9}")
    for key in options.family or families:
        costs = measure(families[key], options.side)
        print(row(families[key]["name"], costs))
        if options.family:
            print("\n" + "\n".join(f"level {level}: {name}" for level, name in enumerate(costs["levels"])))


if __name__ == "__main__":
    main()
