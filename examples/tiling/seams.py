"""What tiles change: their features compared with those of a single pass over the whole canvas."""

import argparse

import numpy as np
import torch

import tadp
from tadp.datasets.scenes import Scenes
from tadp.images.tiles import TileGrid, grid

SCENE_PX, NEAR_PX, SEED = 128, 32, 31
CAPTION = "a dog, a cat and a tree on grass"
LEVELS = {"level 0": 8, "level 1": 16, "level 2": 32, "level 3": 64, "attention at level 1": 16}  # strides


def canvas(number: int, side_px: int) -> np.ndarray:
    """Rendered scenes next to each other, each at the 128 pixels that `tadp-tiny` was trained on."""
    count = side_px // SCENE_PX
    scenes = Scenes((number + 1) * count**2, seed=SEED)[number * count**2 :]
    rows = [np.concatenate([scene.image for scene in scenes[k * count : (k + 1) * count]], 1) for k in range(count)]
    return np.concatenate(rows, 0)


def borders(tiles: TileGrid) -> list[int]:
    """The positions inside the image where tiles begin or end, which are equal for rows and columns of a square."""
    ends = {start + tiles.tile_size[0] for start in tiles.tops}
    return sorted(line for line in {*tiles.tops} | ends if 0 < line < tiles.image_size[0])


def is_near(cells: int, stride: int, lines: list[int]) -> torch.Tensor:
    """Whether each cell of a square map is near one of the lines, (cells, cells)."""
    near = ((torch.arange(cells)[:, None] + 0.5) * stride - torch.tensor(lines)).abs().min(dim=1).values <= NEAR_PX
    return near[:, None] | near


def step(maps: torch.Tensor, stride: int, lines: list[int]) -> float:
    """The mean distance between the two cells at a border, vertically and horizontally."""
    at = torch.tensor([line // stride for line in lines])
    down, across = maps[:, :, at] - maps[:, :, at - 1], maps[..., at] - maps[..., at - 1]
    return float(torch.cat([differences.norm(dim=1).flatten() for differences in (down, across)]).mean())


def compare(image: np.ndarray, backbone: tadp.TADPBackbone, single: tadp.Features, **sides: int) -> dict[str, float]:
    """The difference between tiles of these sides and the single pass, by level and place."""
    tiles = grid(image.shape[:2], **sides)
    features = backbone.tiled(image, CAPTION, **sides)
    lines = borders(tiles)
    row: dict[str, float] = {**sides, "tiles": len(tiles)}
    pairs = [*zip(features.maps, single.maps, strict=True), (features.attention.at(1), single.attention.at(1))]
    for (name, stride), (tiled, expected) in zip(LEVELS.items(), pairs, strict=True):
        near = is_near(tiled.shape[2], stride, lines)
        for where, mask in (("all", near | True), ("near", near), ("away", ~near)):
            row[f"{name} {where}"] = float((tiled - expected)[..., mask].norm() / expected[..., mask].norm())
        row[f"{name} step"] = step(tiled, stride, lines) / step(expected, stride, lines)
    return row


@torch.no_grad()
def measure_seams(options: argparse.Namespace) -> list[dict[str, float]]:
    """Means over the canvases, with one row for each size of tile and overlap."""
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", attach_attention=(), record_attention=(1,))
    rows: list[list[dict[str, float]]] = []
    for number in range(options.canvases):
        image = canvas(number, options.side)
        single = backbone(image, CAPTION)
        sides = [{"tile_px": tile, "overlap_px": overlap} for tile in options.tiles for overlap in range(0, tile, 64)]
        rows.append([compare(image, backbone, single, **pair) for pair in sides])
    by_size = zip(*rows, strict=True)
    return [{key: float(np.mean([row[key] for row in group])) for key in group[0]} for group in by_size]
