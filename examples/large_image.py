"""What tiles change, and what memory they take: seams against a single pass, and peaks in fresh processes.

    python examples/large_image.py                        # half a minute
    python examples/large_image.py --canvases 8 --memory 1000x750 2000x1500 4000x3000 --out docs/results/tiles

A canvas is rendered scenes side by side, at the 128 pixels that `tadp-tiny` was trained on. Features by tiles are
compared with those of a single pass over the whole canvas.
"""

import argparse
import json
import math
import multiprocessing as mp
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tadp
from tadp.datasets.scenes import Scenes
from tadp.tiles import TileGrid, grid

SCENE_PX, NEAR_PX, SEED, TILE_PX = 128, 32, 31, 512
LARGEST_SINGLE = 4e6  # pixels; beyond, a single pass takes minutes
CAPTION = "a dog, a cat and a tree on grass"
LEVELS = {"level 0": 8, "level 1": 16, "level 2": 32, "level 3": 64, "attention at level 1": 16}  # strides
ABOUT_SEAMS = """
Relative L2 difference between tiles and a single pass of {side}x{side} canvases, mean over {canvases}: over all cells;
over those within {near} px of a tile's border; over the others. Step: how far apart the two cells at a border are, as a
multiple of the single pass's.
"""


def canvas(number: int, side_px: int) -> np.ndarray:
    count = side_px // SCENE_PX
    scenes = Scenes((number + 1) * count**2, seed=SEED)[number * count**2 :]
    rows = [np.concatenate([scene.image for scene in scenes[k * count : (k + 1) * count]], 1) for k in range(count)]
    return np.concatenate(rows, 0)


def borders(tiles: TileGrid) -> list[int]:
    """Where tiles begin or end inside the image: in a square, the same for rows and columns."""
    ends = {start + tiles.tile_size[0] for start in tiles.tops}
    return sorted(one for one in {*tiles.tops} | ends if 0 < one < tiles.image_size[0])


def is_near(cells: int, stride: int, lines: list[int]) -> torch.Tensor:
    centers = (torch.arange(cells) + 0.5) * stride
    near = (centers[:, None] - torch.tensor(lines)).abs().min(dim=1).values <= NEAR_PX
    return near[:, None] | near


def step(one: torch.Tensor, stride: int, lines: list[int]) -> float:
    """Mean distance between the two cells at a border, down and across."""
    at = torch.tensor([line // stride for line in lines])
    steps = [(one[:, :, at] - one[:, :, at - 1]).norm(dim=1), (one[..., at] - one[..., at - 1]).norm(dim=1)]
    return float(torch.cat([one.flatten() for one in steps]).mean())


def compare(
    image: np.ndarray, backbone: tadp.TADPBackbone, single: tadp.Features, tile_px: int, overlap_px: int
) -> dict[str, float]:
    tiles = grid(image.shape[:2], tile_px=tile_px, overlap_px=overlap_px)
    features = backbone.tiled(image, CAPTION, tile_px=tile_px, overlap_px=overlap_px)
    lines = borders(tiles)
    row: dict[str, float] = {"tile_px": tile_px, "overlap_px": overlap_px, "tiles": len(tiles)}
    pairs = [*zip(features.maps, single.maps, strict=True), (features.attention.at(1), single.attention.at(1))]
    for (name, stride), (got, expected) in zip(LEVELS.items(), pairs, strict=True):
        near = is_near(got.shape[2], stride, lines)
        for where, mask in (("all", near | True), ("near", near), ("away", ~near)):
            error = (got - expected)[..., mask].norm() / expected[..., mask].norm()
            row[f"{name} {where}"] = float(error) if mask.any() else math.nan
        row[f"{name} step"] = step(got, stride, lines) / step(expected, stride, lines)
    return row


@torch.no_grad()
def measure_seams(options: argparse.Namespace) -> list[dict[str, float]]:
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", attach_attention=(), record_attention=(1,))
    rows = []
    for number in range(options.canvases):
        image = canvas(number, options.side)
        single = backbone(image, CAPTION)
        sizes = [(tile_px, overlap_px) for tile_px in options.tiles for overlap_px in range(0, tile_px, 64)]
        rows.append([compare(image, backbone, single, *size) for size in sizes])
    return [{key: float(np.mean([one[key] for one in same])) for key in same[0]} for same in zip(*rows, strict=True)]


@torch.no_grad()
def peak(width: int, height: int, way: str, results: Any) -> None:
    """In a fresh process: peak above what was there before, and the result's size, in MB."""
    torch.set_num_threads(1)
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    image = np.random.default_rng(SEED).integers(0, 256, (height, width, 3), dtype=np.uint8)
    backbone(image[:64, :64], CAPTION)  # what is loaded late
    before = status_mb("VmRSS")
    features = backbone(image, CAPTION) if way == "single" else backbone.tiled(image, CAPTION, tile_px=TILE_PX)
    attention = [features.attention.at(level) for level in features.attention.levels]
    kept = sum(one.numel() * one.element_size() for one in (*features.maps, *attention)) / 1e6
    results.put({"peak_mb": status_mb("VmHWM") - before, "result_mb": kept, "finest": list(features.maps[0].shape)})


def status_mb(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def measure_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows, context = [], mp.get_context("spawn")
    for width, height in ([int(side) for side in size.split("x")] for size in options.memory):
        for way in ("single pass", "tiles") if width * height <= LARGEST_SINGLE else ("tiles",):
            results = context.SimpleQueue()
            process = context.Process(target=peak, args=(width, height, way.split()[0], results))
            process.start()
            rows.append({"image": f"{width}x{height}", "way": way} | results.get())
            process.join()
    return rows


def page(options: argparse.Namespace, errors: list[dict[str, float]], peaks: list[dict[str, Any]]) -> str:
    sizes = f"--tiles {' '.join(map(str, options.tiles))} --memory {' '.join(options.memory)}"
    command = f"python examples/large_image.py --side {options.side} --canvases {options.canvases} {sizes}"
    text = f"Command: `{command}`; seed {SEED}, {platform.machine()}, one thread, torch {torch.__version__}.\n"
    text += ABOUT_SEAMS.format(side=options.side, canvases=options.canvases, near=NEAR_PX)
    for name in LEVELS:
        text += (
            f"\n{name.capitalize()}:\n\n| tile, px | overlap, px | tiles | all | near | away | step |\n{'|---' * 7}|\n"
        )
        for row in errors:
            cells = [f"{row[key]:.0f}" for key in ("tile_px", "overlap_px", "tiles")]
            cells += [f"{row[f'{name} {key}']:.2f}".replace("nan", "-") for key in ("all", "near", "away", "step")]
            text += f"| {' | '.join(cells)} |\n"
    text += (
        f"\nPeak memory above the model's, in a fresh process, float32, tiles of {TILE_PX} px with an overlap of 128:\n"
    )
    text += "\n| image | way | peak, MB | of it the result, MB | finest map |\n|---|---|---|---|---|\n"
    for row in peaks:
        shape = "x".join(map(str, row["finest"][1:]))
        text += f"| {row['image']} | {row['way']} | {row['peak_mb']:.0f} | {row['result_mb']:.0f} | {shape} |\n"
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
    text = page(options, errors, peaks)
    print(text, end="")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".md").write_text(text)
        options.out.with_suffix(".json").write_text(json.dumps({"seams": errors, "memory": peaks}, indent=1) + "\n")


if __name__ == "__main__":
    main()
