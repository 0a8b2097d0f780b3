"""Pairs of rendered scenes with an object of one class, whose points are known in both."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from tadp.datasets.scenes import BACKGROUNDS, CLASSES, STYLES, Scene, SceneLayout, sample_layout
from tadp.datasets.scenes.sprites import sprites

POINTS = 8  # per pair, at most


class Pair(NamedTuple):
    """Two scenes with an object of one class, its points in both, in pixels, and the longer side of its second box."""

    scenes: tuple[Scene, Scene]
    points: tuple[torch.Tensor, torch.Tensor]
    side_px: float


def pair(seed: int, number: int) -> Pair | None:
    """Draw a pair; None if fewer than four points of the object are visible in both scenes."""
    rng = np.random.default_rng((seed, number))
    name = str(rng.choice(CLASSES))
    backgrounds = rng.choice(list(BACKGROUNDS), size=2, replace=False)
    styles = rng.choice(STYLES, size=2, replace=False)
    layouts = [scene_with(rng, name, str(backgrounds[k]), str(styles[k])) for k in (0, 1)]
    scenes = tuple(layout.render() for layout in layouts)
    polygons = [np.array(polygon) for _, polygon in sprites()[name].polygons]
    candidates = np.unique(
        np.concatenate([*polygons, *(polygon.mean(0, keepdims=True) for polygon in polygons)]), axis=0
    )
    candidates = candidates[rng.permutation(len(candidates))]
    placed = [points_of(scene, name, candidates) for scene in scenes]
    chosen = np.nonzero(placed[0][1] & placed[1][1])[0][:POINTS]
    if len(chosen) < 4 or any(name not in scene.names for scene in scenes):
        return None
    left, top, right, bottom = scenes[1].boxes[scenes[1].names.index(name)]
    first, second = (torch.tensor(points[chosen], dtype=torch.float32) for points, _ in placed)
    return Pair(scenes, (first, second), float(max(right - left, bottom - top)))


def scene_with(rng: np.random.Generator, name: str, background: str, style: str) -> SceneLayout:
    """Draw a scene of two objects, one of which has the class `name`."""
    while True:
        layout = sample_layout(rng, max_objects=2)
        if len(layout.objects) == 2 and name in [thing.name for thing in layout.objects]:
            return replace(layout, background=background, style=style)


def points_of(scene: Scene, name: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the points of an object are in the image, (P, 2) in pixels, and whether each shows the object, (P,)."""
    side = scene.image.shape[0]
    (thing,) = [thing for thing in scene.layout.objects if thing.name == name]
    placed = np.array(thing.positions(points.tolist(), scene.layout.horizon)) * side
    inside = ((placed > 0) & (placed < side)).all(axis=1)
    columns, rows = np.clip(placed.astype(int), 0, side - 1).T
    return placed, inside & (scene.mask[rows, columns] == CLASSES.index(name) + 1)
