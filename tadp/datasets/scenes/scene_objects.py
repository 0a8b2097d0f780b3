"""The objects of a rendered scene: their colours, positions and drawing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from tadp.datasets.scenes.sprites import Point, sprites

CLASSES: tuple[str, ...] = tuple(sprites())
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 134, 28),
    "yellow": (246, 212, 44),
    "green": (46, 150, 60),
    "blue": (40, 92, 214),
    "purple": (134, 56, 176),
    "pink": (246, 136, 182),
    "brown": (130, 82, 42),
    "black": (34, 34, 38),
    "white": (242, 242, 240),
    "gray": (134, 138, 144),
}
FIXED_PAINTS = {
    "dark": (30, 30, 36),
    "light": (236, 244, 250),
    "skin": (236, 190, 156),
    "wood": (112, 72, 40),
    "leaf": (52, 136, 52),
    "yolk": (250, 190, 40),
}
NEAREST_M, FARTHEST_M = 2.0, 5.5
FOCAL = 0.72  # height of a 1 m object at the nearest distance, as a share of the image's height


@dataclass(frozen=True)
class SceneObject:
    """One object: its class, colours, position and pose."""

    name: str
    color: str
    second_color: str
    x: float
    """Centre, as a share of the image's width."""
    distance_m: float
    lift: float
    """Height of a flying object above the ground, as a share of the free space."""
    tilt: float
    """Rotation in radians."""
    faces_left: bool
    pattern: Literal["plain", "striped", "dotted"]
    pattern_shift: tuple[float, float]

    def positions(self, points: Sequence[Point], horizon: float) -> list[Point]:
        """Where points of the object are in the image.

        Args:
            points: Points (x, y) in the object's own coordinates, as in the polygons of its sprite.
            horizon: Row of the scene's horizon, as a share of the image's height.

        Returns:
            The points (x, y), as shares of the image's side.
        """
        row, half_height, half_width = _placement(self, horizon)
        c, s, mirror = np.cos(self.tilt), np.sin(self.tilt), -1.0 if self.faces_left else 1.0
        placed = []
        for x, y in points:
            u, v = mirror * x * half_width, y * half_height
            placed.append((self.x + c * u - s * v, row + s * u + c * v))
        return placed


def sample_object(rng: np.random.Generator, name: str, x: float) -> SceneObject:
    """Draw random colours, distance and pose for an object of a given class and place."""
    usual = sprites()[name].colors
    # In 60 % of cases a class has its usual colours, so colour is a clue but never decides.
    color = str(rng.choice(usual)) if rng.random() < 0.6 else str(rng.choice(list(COLORS)))
    second = str(rng.choice([candidate for candidate in COLORS if candidate != color]))
    return SceneObject(
        name=name,
        color=color,
        second_color=second,
        x=float(x),
        distance_m=float(np.exp(rng.uniform(np.log(NEAREST_M), np.log(FARTHEST_M)))),
        lift=float(rng.uniform(0, 1)),
        tilt=float(rng.normal(0, 0.07)),
        faces_left=bool(rng.random() < 0.5),
        pattern=("plain", "striped", "dotted")[rng.choice(3, p=(0.6, 0.2, 0.2))],
        pattern_shift=(float(rng.uniform(0, 1)), float(rng.uniform(0, 1))),
    )


def _placement(scene_object: SceneObject, horizon: float) -> tuple[float, float, float]:
    """Centre row, half height and half width, as shares of the image's height."""
    sprite = sprites()[scene_object.name]
    nearness = NEAREST_M / scene_object.distance_m
    height = sprite.height_m * FOCAL * nearness
    foot = horizon + (0.98 - horizon) * nearness
    if sprite.flies:
        foot -= scene_object.lift * max(foot - height - 0.04, 0.0)
    return foot - height / 2, height / 2, height / 2 * sprite.aspect


def draw_object(canvas: Image.Image, scene_object: SceneObject, horizon: float) -> Image.Image:
    """Paint an object onto the canvas.

    Returns:
        The object's silhouette, a picture of mode "L".
    """
    side = canvas.width
    _, half_height, _ = _placement(scene_object, horizon)
    paints = FIXED_PAINTS | {"body": COLORS[scene_object.color], "second": COLORS[scene_object.second_color]}
    silhouette, body = Image.new("L", canvas.size), Image.new("L", canvas.size)
    brush, outline, tint = ImageDraw.Draw(canvas), ImageDraw.Draw(silhouette), ImageDraw.Draw(body)
    for role, polygon in sprites()[scene_object.name].polygons:
        points = [(x * side, y * side) for x, y in scene_object.positions(polygon, horizon)]
        brush.polygon(points, fill=paints[role])
        outline.polygon(points, fill=255)
        tint.polygon(points, fill=255 if role == "body" else 0)
    if scene_object.pattern != "plain":
        light = tuple(int(0.55 * v + 0.45 * w) for v, w in zip(paints["second"], paints["body"], strict=True))
        canvas.paste(light, mask=ImageChops.multiply(body, _pattern(scene_object, side, half_height)))
    return silhouette


def _pattern(scene_object: SceneObject, side: int, half_height: float) -> Image.Image:
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side
    period = max(half_height * 0.42, 0.03)
    u = columns / period + scene_object.pattern_shift[0]
    v = rows / period + scene_object.pattern_shift[1]
    marks = (
        (u + 0.4 * v) % 1 < 0.4 if scene_object.pattern == "striped" else (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.07
    )
    return Image.fromarray(marks.astype(np.uint8) * 255)
