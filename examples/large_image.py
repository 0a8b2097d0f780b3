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

OPENING = """\
To save memory, the features of a large image can be computed tile by tile (`backbone.tiled`). How much do these
features differ from those of a single [pass](../concepts.md#glossary) over the whole image, and how much memory do
tiles save? Both were measured with [`tadp-tiny`](../tadp-tiny.md). [Large images](../large-images.md) says what follows
from this."""
ABOUT_SEAMS = """
## Seams

The maps of tiles are compared with those of a single pass, on {canvases} images of {side}x{side} pixels. Each image
consists of [rendered scenes](../concepts.md#glossary) next to each other. The caption is always the same. There is one
table for the feature maps of each [level](../concepts.md#glossary), and one for the attention maps of level 1.

- *Tile* is the side of a tile, *overlap* is how far neighbouring tiles overlap, and *tiles* is their number per
  image.
- *Difference* is the relative L2 difference of the maps; lower is better. *Near borders* is over the cells within
  {near} px of a tile's border, and *elsewhere* over all other cells (`-` if every cell is near a border).
- *Seam* is how much the map changes across the borders of tiles, divided by how much the map of the single pass
  changes at the same places. Above 1, there is a seam.
"""
ABOUT_MEMORY = """
## Memory

*Peak* is the memory in addition to the model's, in float32, with tiles of {tile} px that overlap by 128 px. Freed
memory goes back to the system at once, because what the C library keeps of it differs between runs. *Result* is the
part of the peak that holds the returned feature and attention maps. *Finest map* gives the channels, height and
width of the map at level 0. A single pass is only measured up to four megapixels.

| image, px | method | peak, MB | result, MB | finest map |
|---|---|---|---|---|
"""


def page(options: argparse.Namespace, errors: list[dict[str, float]], peaks: list[dict[str, Any]]) -> str:
    sizes = f"--tiles {' '.join(map(str, options.tiles))} --memory {' '.join(options.memory)}"
    sizes = f"--side {options.side} --canvases {options.canvases} {sizes}"
    text = f"# Tiles: seams and memory\n\n{OPENING}\n\nCommand: `python examples/large_image.py {sizes}`; "
    text += f"seed {SEED}, {platform.machine()}, one thread, torch {torch.__version__}.\n"
    text += ABOUT_SEAMS.format(side=options.side, canvases=options.canvases, near=NEAR_PX)
    for name, stride in LEVELS.items():
        text += f"\n{name.capitalize()} (stride {stride}):\n\n"
        text += "| tile, px | overlap, px | tiles | difference, all cells | near borders | elsewhere | seam |\n"
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
    peaks, errors = measure_memory(options), measure_seams(options)
    print(text := page(options, errors, peaks), end="")
    if options.out is not None:
        options.out.with_suffix(".md").write_text(text)
        results = json.dumps({"seams": errors, "memory": peaks}, indent=1).replace("NaN", "null") + "\n"
        options.out.with_suffix(".json").write_text(results)


if __name__ == "__main__":
    main()
