"""Is each layer of a pass on a CPU computed with the fastest routine that PyTorch offers?

    python examples/layer_speed.py --out docs/results/layers   # Stable Diffusion 1.5 at 512x512; minutes of one core
    python examples/layer_speed.py --size tiny                 # seconds, to check that it runs

It records which layers the VAE encoder and the U-Net run, with the sizes of their inputs. It then times each layer as
tadp runs it, in turn with the other public routines for the same numbers. Only CPU time is compared. Inputs and
weights are already in the layout that a routine takes, so layouts of a whole network can be compared, too.
"""

import argparse
import platform
from pathlib import Path

import torch
from benchmarking.layers import KINDS, Layer, layers_of
from benchmarking.routines import BOUND, DIFFERS, TADP, time_of
from benchmarking.variants import SIZES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="sd15", help="size of the networks (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of a routine, in turn (default: %(default)s)")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind of layer; repeat for several")
    parser.add_argument("--share", type=float, default=0.008, help="smallest share of the time that is shown")
    parser.add_argument("--out", type=Path, help="write the page OUT.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    layers = {layer: count for layer, count in layers_of(options.size).items() if layer.kind in (options.kind or KINDS)}
    with torch.inference_mode():
        times = {layer: time_of(layer, options.repeats) for layer in layers}
    report = _page(options, layers, times)
    print(report)
    if options.out:
        options.out.with_suffix(".md").write_text(report)


def _page(options: argparse.Namespace, layers: dict[Layer, int], times: dict[Layer, dict[str, float]]) -> str:
    total = sum(count * times[layer][TADP] for layer, count in layers.items())
    command = f"python examples/layer_speed.py --size {options.size} --repeats {options.repeats}"
    command += "".join(f' --kind "{kind}"' for kind in options.kind or ())
    lines = [
        "# The fastest routine for each layer",
        "",
        "Is each layer of a pass on a CPU computed with the fastest routine that PyTorch offers? The layers are those "
        "of the VAE encoder and the U-Net, "
        + ("in the size of Stable Diffusion 1.5" if options.size == "sd15" else "in a small size")
        + f", for one image of {SIZES[options.size][2]}x{SIZES[options.size][2]} pixels in float32.",
        "",
        f"Command: `{command}`; {_processor()}, torch {torch.__version__}, one thread, the best of {options.repeats} "
        "runs in CPU time. [Speed](../speed.md#on-a-cpu) explains the results.",
        "",
        "- *Share*: the layer's share of the time of all layers, as tadp runs them.",
        "- *Lag*: how much more time tadp's routine takes than the fastest one that needs neither a second copy of the "
        "weights nor another memory layout.",
        "- *packed*: with weights that were laid out for the routine beforehand, which keeps a second copy of them.",
        "- *channels_last*: with inputs and weights in PyTorch's memory layout of that name.",
        f"- *Differs*: the result differs from tadp's by more than {BOUND:.0e}, so the routine does not count.",
        "",
        "## By kind of layer",
        "",
        "| kind | share | lag | lag behind packed weights | lag behind channels_last |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for kind in options.kind or KINDS:
        members = {layer: count for layer, count in layers.items() if layer.kind == kind}
        own = sum(count * times[layer][TADP] for layer, count in members.items())
        cells = [kind, f"{own / total:.0%}"]
        for allowed in (_is_plain, _is_packed, _is_last):
            best = sum(
                count
                * min(
                    seconds
                    for name, seconds in times[layer].items()
                    if name == TADP or (allowed(name) and DIFFERS not in name)
                )
                for layer, count in members.items()
            )
            cells.append(f"{own / best - 1:.0%}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "## By layer",
        "",
        "| layer | share | GFLOP/s of tadp | relative time of other routines |",
        "|---|---|---|---|",
    ]
    for layer, count in sorted(layers.items(), key=lambda entry: -entry[1] * times[entry[0]][TADP]):
        own = times[layer][TADP]
        if count * own / total >= options.share:
            rest = ", ".join(f"{name} {value / own:.2f}" for name, value in times[layer].items() if name != TADP)
            rate = f"{layer.flops / own / 1e9:.0f}" if layer.flops else "-"
            lines.append(f"| {count} x {layer} | {count * own / total:.1%} | {rate} | {rest} |")
    return "\n".join(lines) + "\n"


def _is_packed(name: str) -> bool:
    return name.startswith("packed")


def _is_last(name: str) -> bool:
    return name.startswith("channels_last")


def _is_plain(name: str) -> bool:
    return not _is_packed(name) and not _is_last(name)


def _processor() -> str:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
