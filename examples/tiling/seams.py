"""What tiles change: their features against those of a single pass over the whole canvas."""

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
    """Which cells of a square map lie near one of the lines, (cells, cells)."""
    near = ((torch.arange(cells)[:, None] + 0.5) * stride - torch.tensor(lines)).abs().min(dim=1).values <= NEAR_PX
    return near[:, None] | near


def step(one: torch.Tensor, stride: int, lines: list[int]) -> float:
    """Mean distance between the two cells at a border, down and across."""
    at = torch.tensor([line // stride for line in lines])
    down, across = one[:, :, at] - one[:, :, at - 1], one[..., at] - one[..., at - 1]
    return float(torch.cat([both.norm(dim=1).flatten() for both in (down, across)]).mean())


def compare(image: np.ndarray, backbone: tadp.TADPBackbone, single: tadp.Features, **sides: int) -> dict[str, float]:
    """How far tiles of these sides are from the single pass, by level and place."""
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
    """Means over the canvases, a row for each size of tile and overlap."""
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", attach_attention=(), record_attention=(1,))
    rows: list[list[dict[str, float]]] = []
    for number in range(options.canvases):
        image = canvas(number, options.side)
        single = backbone(image, CAPTION)
        sides = [{"tile_px": tile, "overlap_px": overlap} for tile in options.tiles for overlap in range(0, tile, 64)]
        rows.append([compare(image, backbone, single, **one) for one in sides])
    return [{key: float(np.mean([one[key] for one in same])) for key in same[0]} for same in zip(*rows, strict=True)]
