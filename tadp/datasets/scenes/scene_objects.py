"""The objects of a rendered scene: their colours, where they stand, and how they are painted."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from tadp.datasets.scenes.sprites import sprites

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
FOCAL = 0.72  # height in image heights of a 1 m object at the nearest distance


@dataclass(frozen=True)
class SceneObject:
    """One object: what, which colours, and where it stands."""

    name: str
    color: str
    second_color: str
    x: float
    """Centre, as a share of the image's width."""
    distance_m: float
    lift: float
    """How far above the ground a flying object is, as a share of the free space."""
    tilt: float
    """Radians."""
    faces_left: bool
    pattern: Literal["plain", "striped", "dotted"]
    pattern_shift: tuple[float, float]


def sample_object(rng: np.random.Generator, name: str, x: float) -> SceneObject:
    """Draw the colours, distance and pose of an object whose class and place are given."""
    usual = sprites()[name].colors
    # 60 %: a class mostly has its usual colours, so colour helps but never decides.
    color = str(rng.choice(usual)) if rng.random() < 0.6 else str(rng.choice(list(COLORS)))
    second = str(rng.choice([c for c in COLORS if c != color]))
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


def _placement(item: SceneObject, horizon: float) -> tuple[float, float, float]:
    """Centre row, half height and half width, as shares of the image's height."""
    sprite = sprites()[item.name]
    nearness = NEAREST_M / item.distance_m
    height = sprite.height_m * FOCAL * nearness
    foot = horizon + (0.98 - horizon) * nearness
    if sprite.flies:
        foot -= item.lift * max(foot - height - 0.04, 0.0)
    return foot - height / 2, height / 2, height / 2 * sprite.aspect


def draw_object(canvas: Image.Image, item: SceneObject, horizon: float) -> Image.Image:
    """Paint an object onto the canvas.

    Returns:
        Its silhouette, mode L.
    """
    side = canvas.width
    row, half_height, half_width = _placement(item, horizon)
    c, s = np.cos(item.tilt), np.sin(item.tilt)
    mirror = -1.0 if item.faces_left else 1.0
    paints = FIXED_PAINTS | {"body": COLORS[item.color], "second": COLORS[item.second_color]}
    silhouette, body = Image.new("L", canvas.size), Image.new("L", canvas.size)
    brush, outline, tint = ImageDraw.Draw(canvas), ImageDraw.Draw(silhouette), ImageDraw.Draw(body)
    for role, polygon in sprites()[item.name].polygons:
        points = []
        for x, y in polygon:
            u, v = mirror * x * half_width, y * half_height
            points.append(((item.x + c * u - s * v) * side, (row + s * u + c * v) * side))
        brush.polygon(points, fill=paints[role])
        outline.polygon(points, fill=255)
        tint.polygon(points, fill=255 if role == "body" else 0)
    if item.pattern != "plain":
        light = tuple(int(0.55 * v + 0.45 * w) for v, w in zip(paints["second"], paints["body"], strict=True))
        canvas.paste(light, mask=ImageChops.multiply(body, _pattern(item, side, half_height)))
    return silhouette


def _pattern(item: SceneObject, side: int, half_height: float) -> Image.Image:
    rows, columns = np.mgrid[0:side, 0:side].astype(np.float32) / side
    period = max(half_height * 0.42, 0.03)
    u = columns / period + item.pattern_shift[0]
    v = rows / period + item.pattern_shift[1]
    marks = (u + 0.4 * v) % 1 < 0.4 if item.pattern == "striped" else (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.07
    return Image.fromarray(marks.astype(np.uint8) * 255)
