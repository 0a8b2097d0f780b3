"""What tiles change, and what memory they take: seams against a single pass, and peaks in fresh processes.

python examples/large_image.py                        # half a minute
python examples/large_image.py --canvases 8 --memory 1000x750 2000x1500 4000x3000 --out docs/results/tiles
"""

import argparse
import json
import platform
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tadp
from tadp.datasets.scenes import Scenes
from tadp.tiles import TileGrid, grid

SCENE_PX, NEAR_PX, SEED, TILE_PX = 128, 32, 31, 512
SINGLE_PX = 4e6  # beyond so many pixels, a single pass takes minutes
CAPTION = "a dog, a cat and a tree on grass"
LEVELS = {"level 0": 8, "level 1": 16, "level 2": 32, "level 3": 64, "attention at level 1": 16}  # strides
ABOUT_SEAMS = """
Relative L2 difference between tiles and a single pass of {side}x{side} canvases, mean over {canvases}: over all cells;
over those within {near} px of a tile's border; over the others. Step: how far apart the two cells at a border are, as a
multiple of the single pass's.
"""
ABOUT_MEMORY = """
Peak memory above the model's, in a fresh process, float32, tiles of {tile} px with an overlap of 128:

| image | way | peak, MB | of it the result, MB | finest map |
|---|---|---|---|---|
"""


def canvas(number: int, side_px: int) -> np.ndarray:
    """Rendered scenes side by side, at the 128 pixels that `tadp-tiny` was trained on."""
    count = side_px // SCENE_PX
    scenes = Scenes((number + 1) * count**2, seed=SEED)[number * count**2 :]
    rows = [np.concatenate([scene.image for scene in scenes[k * count : (k + 1) * count]], 1) for k in range(count)]
    return np.concatenate(rows, 0)


def borders(tiles: TileGrid) -> list[int]:
    """Where tiles begin or end inside the image: in a square, the same for rows and columns."""
    ends = {start + tiles.tile_size[0] for start in tiles.tops}
    return sorted(one for one in {*tiles.tops} | ends if 0 < one < tiles.image_size[0])


def is_near(cells: int, stride: int, lines: list[int]) -> torch.Tensor:
    near = ((torch.arange(cells)[:, None] + 0.5) * stride - torch.tensor(lines)).abs().min(dim=1).values <= NEAR_PX
    return near[:, None] | near


def step(one: torch.Tensor, stride: int, lines: list[int]) -> float:
    """Mean distance between the two cells at a border, down and across."""
    at = torch.tensor([line // stride for line in lines])
    down, across = one[:, :, at] - one[:, :, at - 1], one[..., at] - one[..., at - 1]
    return float(torch.cat([both.norm(dim=1).flatten() for both in (down, across)]).mean())


def compare(image: np.ndarray, backbone: tadp.TADPBackbone, single: tadp.Features, **sides: int) -> dict[str, float]:
    tiles = grid(image.shape[:2], **sides)
    features = backbone.tiled(image, CAPTION, **sides)
    lines = borders(tiles)
    row: dict[str, float] = {**sides, "tiles": len(tiles)}
    pairs = [*zip(features.maps, single.maps, strict=True), (features.attention.at(1), single.attention.at(1))]
    for (name, stride), (got, expected) in zip(LEVELS.items(), pairs, strict=True):
        near = is_near(got.shape[2], stride, lines)
        for where, mask in (("all", near | True), ("near", near), ("away", ~near)):
            row[f"{name} {where}"] = float((got - expected)[..., mask].norm() / expected[..., mask].norm())
        row[f"{name} step"] = step(got, stride, lines) / step(expected, stride, lines)
    return row


@torch.no_grad()
def measure_seams(options: argparse.Namespace) -> list[dict[str, float]]:
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", attach_attention=(), record_attention=(1,))
    rows: list[list[dict[str, float]]] = []
    for number in range(options.canvases):
        image = canvas(number, options.side)
        single = backbone(image, CAPTION)
        sides = [{"tile_px": tile, "overlap_px": overlap} for tile in options.tiles for overlap in range(0, tile, 64)]
        rows.append([compare(image, backbone, single, **one) for one in sides])
    return [{key: float(np.mean([one[key] for one in same])) for key in same[0]} for same in zip(*rows, strict=True)]


def status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


@torch.no_grad()
def peak(width: int, height: int, way: str) -> dict[str, Any]:
    """In a fresh process: peak above what was there before, and the result's size, in MB."""
    torch.set_num_threads(1)
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    image = np.random.default_rng(SEED).integers(0, 256, (height, width, 3), dtype=np.uint8)
    backbone(image[:64, :64], CAPTION)  # what is loaded late
    before = status_mb("VmRSS")
    features = backbone.tiled(image, CAPTION, tile_px=TILE_PX) if way == "tiles" else backbone(image, CAPTION)
    kept = [*features.maps, *(features.attention.at(level) for level in features.attention.levels)]
    size = {"peak_mb": status_mb("VmHWM") - before, "result_mb": sum(one.nbytes for one in kept) / 1e6}
    return {"image": f"{width}x{height}", "way": way, **size, "finest": "x".join(map(str, kept[0].shape[1:]))}


def measure_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    sizes = [[int(side) for side in size.split("x")] for size in options.memory]
    runs = [(w, h, way) for w, h in sizes for way in ("single pass", "tiles") if way == "tiles" or w * h <= SINGLE_PX]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
        return [fresh.submit(peak, *run).result() for run in runs]


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
    for p in peaks:
        text += f"| {p['image']} | {p['way']} | {p['peak_mb']:.0f} | {p['result_mb']:.0f} | {p['finest']} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512, help="of a canvas, a multiple of 128 (default: %(default)s)")
    parser.add_argument("--canvases", type=int, default=1)
    parser.add_argument("--tiles", type=int, nargs="+", default=[128, 256], help="sides, in pixels")
    parser.add_argument("--memory", nargs="*", default=["1000x750"], help="widths x heights of images")
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
