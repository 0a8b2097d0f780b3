"""What tiles change and how much memory they take: seams compared with a single pass, and peak memory.

    python examples/large_image.py                        # takes half a minute
    python examples/large_image.py --canvases 8 --memory 1000x750 2000x1500 4000x3000 --out docs/results/tiles

A canvas consists of rendered scenes next to each other, each at the 128 pixels that `tadp-tiny` was trained on.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
from tiling.memory import TILE_PX, measure_memory
from tiling.seams import LEVELS, NEAR_PX, SEED, measure_seams

ABOUT_SEAMS = """
The tables give the relative L2 difference between tiles and a single pass, as a mean over {canvases} canvases of
{side}x{side} pixels. "All" is over all cells, "near" over cells within {near} px of a tile's border, and "away" over
the rest. "Step" is the difference between the two cells at a border, relative to that in the single pass.
"""
ABOUT_MEMORY = """
Peak memory in addition to the model's, measured in a new process in float32, with tiles of {tile} px and an overlap
of 128:

| image | method | peak, MB | of which the result, MB | finest map |
|---|---|---|---|---|
"""


def page(options: argparse.Namespace, errors: list[dict[str, float]], peaks: list[dict[str, Any]]) -> str:
    sizes = f"--tiles {' '.join(map(str, options.tiles))} --memory {' '.join(options.memory)}"
    sizes = f"--side {options.side} --canvases {options.canvases} {sizes}"
    text = f"# Tiles: seams and memory\n\nCommand: `python examples/large_image.py {sizes}`; seed {SEED}, "
    text += f"{platform.machine()}, one thread, torch {torch.__version__}.\n"
    text += ABOUT_SEAMS.format(side=options.side, canvases=options.canvases, near=NEAR_PX)
    for name in LEVELS:
        text += f"\n{name.capitalize()}:\n\n| tile, px | overlap, px | tiles | all | near | away | step |\n"
        text += f"{'|---' * 7}|\n"
        for row in errors:
            cells = [f"{row[key]:.0f}" for key in ("tile_px", "overlap_px", "tiles")]
            cells += [f"{row[f'{name} {key}']:.2f}".replace("nan", "-") for key in ("all", "near", "away", "step")]
            text += f"| {' | '.join(cells)} |\n"
    text += ABOUT_MEMORY.format(tile=TILE_PX)
    for peak in peaks:
        sizes_mb = f"{peak['peak_mb']:.0f} | {peak['result_mb']:.0f}"
        text += f"| {peak['image']} | {peak['way']} | {sizes_mb} | {peak['finest']} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--side", type=int, default=512, help="side of a canvas, a multiple of 128 (default: %(default)s)"
    )
    parser.add_argument("--canvases", type=int, default=1, help="number of canvases (default: %(default)s)")
    parser.add_argument("--tiles", type=int, nargs="+", default=[128, 256], help="sides of the tiles, in pixels")
    parser.add_argument("--memory", nargs="*", default=["1000x750"], help="sizes of the images, as WIDTHxHEIGHT")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    errors, peaks = measure_seams(options), measure_memory(options)
    print(text := page(options, errors, peaks), end="")
    if options.out is not None:
        options.out.with_suffix(".md").write_text(text)
        results = json.dumps({"seams": errors, "memory": peaks}, indent=1).replace("NaN", "null") + "\n"
        options.out.with_suffix(".json").write_text(results)


if __name__ == "__main__":
    main()
