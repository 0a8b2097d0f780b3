"""The twelve kinds of objects in rendered scenes, each drawn as a list of polygons.

Coordinates are relative to the object: x and y are in [-1, 1], y points down, and the object stands on y = 1 and faces
right. Each polygon names its paint: "body" is the object's colour, "second" is its second colour, and the other paints
have fixed colours.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

Paint = Literal["body", "second", "dark", "light", "skin", "wood", "leaf", "yolk"]
Point = tuple[float, float]
Polygon = tuple[Paint, tuple[Point, ...]]


@dataclass(frozen=True)
class Sprite:
    """The drawing of a class: polygons from back to front, height in metres (real heights, compressed), ratio of width
    to height, usual colours, and whether it flies.
    """

    polygons: tuple[Polygon, ...]
    height_m: float
    aspect: float
    colors: tuple[str, ...]
    flies: bool = False


def _ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0, points: int = 20) -> tuple[Point, ...]:
    c, s = math.cos(turn), math.sin(turn)
    ring = [(rx * math.cos(2 * math.pi * k / points), ry * math.sin(2 * math.pi * k / points)) for k in range(points)]
    return tuple((x + c * u - s * v, y + s * u + c * v) for u, v in ring)


def _box(x0: float, y0: float, x1: float, y1: float) -> tuple[Point, ...]:
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


@cache
def sprites() -> dict[str, Sprite]:
    """Every class of the rendered scenes, by name."""
    petals: tuple[Polygon, ...] = tuple(
        ("body", _ellipse(0.55 * math.cos(a), -0.42 + 0.33 * math.sin(a), 0.42, 0.25, a))
        for a in (2 * math.pi * k / 6 for k in range(6))
    )
    bus_windows: tuple[Polygon, ...] = tuple(
        ("light", _box(x, -0.6, x + 0.28, 0.0)) for x in (-0.88, -0.5, -0.12, 0.26, 0.64)
    )
    return {
        "person": Sprite(
            (
                ("second", _box(-0.5, 0.2, -0.06, 1.0)),
                ("second", _box(0.06, 0.2, 0.5, 1.0)),
                (
                    "body",
                    (
                        (-0.95, 0.2),
                        (-0.6, -0.45),
                        (0.6, -0.45),
                        (0.95, 0.2),
                        (0.7, 0.28),
                        (0.5, -0.1),
                        (0.5, 0.3),
                        (-0.5, 0.3),
                        (-0.5, -0.1),
                        (-0.7, 0.28),
                    ),
                ),
                ("skin", _ellipse(0, -0.7, 0.46, 0.27)),
                ("dark", ((-0.46, -0.76), (-0.3, -0.97), (0.3, -0.97), (0.46, -0.76), (0.1, -0.82))),
            ),
            1.05,
            0.45,
            ("red", "blue", "yellow", "purple"),
        ),
        "dog": Sprite(
            (
                ("body", ((-0.75, -0.1), (-1.0, -0.65), (-0.88, -0.7), (-0.6, -0.2))),
                ("body", _box(-0.72, 0.2, -0.5, 1.0)),
                ("second", _box(-0.42, 0.2, -0.22, 1.0)),
                ("second", _box(0.1, 0.2, 0.3, 1.0)),
                ("body", _box(0.36, 0.2, 0.58, 1.0)),
                ("body", ((-0.78, -0.2), (0.4, -0.25), (0.62, 0.1), (0.58, 0.45), (-0.72, 0.45))),
                (
                    "body",
                    ((0.3, -0.9), (0.68, -0.92), (0.98, -0.55), (0.98, -0.3), (0.6, -0.2), (0.5, 0.15), (0.2, 0.0)),
                ),
                ("second", ((0.3, -0.92), (0.5, -0.88), (0.46, -0.25), (0.26, -0.3))),
                ("dark", _ellipse(0.94, -0.5, 0.09, 0.11)),
            ),
            0.72,
            1.2,
            ("brown", "white", "black"),
        ),
        "cat": Sprite(
            (
                ("body", ((0.45, 0.98), (0.95, 0.85), (1.0, 0.25), (0.82, 0.2), (0.76, 0.68), (0.4, 0.75))),
                ("body", _ellipse(0.0, 0.5, 0.6, 0.52)),
                ("second", _ellipse(0.0, 0.6, 0.3, 0.36)),
                ("body", ((-0.62, -0.4), (-0.6, -1.0), (-0.1, -0.68))),
                ("body", ((0.62, -0.4), (0.6, -1.0), (0.1, -0.68))),
                ("body", _ellipse(0.0, -0.35, 0.64, 0.42)),
                ("dark", _ellipse(-0.25, -0.4, 0.1, 0.1)),
                ("dark", _ellipse(0.25, -0.4, 0.1, 0.1)),
                ("second", _ellipse(0.0, -0.16, 0.2, 0.12)),
            ),
            0.7,
            0.75,
            ("orange", "black", "white"),
        ),
        "bird": Sprite(
            (
                ("yolk", _box(-0.12, 0.5, -0.02, 1.0)),
                ("yolk", _box(0.14, 0.5, 0.24, 1.0)),
                ("second", ((-0.5, 0.1), (-1.0, -0.12), (-0.95, 0.4))),
                ("body", _ellipse(-0.05, 0.15, 0.62, 0.46)),
                ("body", _ellipse(0.52, -0.42, 0.32, 0.36)),
                ("yolk", ((0.78, -0.55), (1.0, -0.35), (0.76, -0.25))),
                ("second", ((-0.5, -0.95), (0.25, -0.05), (-0.1, 0.25), (-0.45, 0.1))),
                ("dark", _ellipse(0.58, -0.48, 0.08, 0.09)),
            ),
            0.62,
            1.1,
            ("blue", "red", "yellow"),
            flies=True,
        ),
        "fish": Sprite(
            (
                ("second", ((-0.5, 0.1), (-1.0, -0.6), (-0.85, 0.1), (-1.0, 0.8))),
                ("second", ((-0.2, -0.5), (0.2, -1.0), (0.45, -0.45))),
                ("body", _ellipse(0.18, 0.1, 0.82, 0.68)),
                ("second", ((0.05, 0.1), (-0.35, 0.45), (0.1, 0.5))),
                ("light", _ellipse(0.62, -0.08, 0.16, 0.19)),
                ("dark", _ellipse(0.66, -0.08, 0.08, 0.1)),
            ),
            0.6,
            1.45,
            ("orange", "blue", "gray"),
        ),
        "car": Sprite(
            (
                ("body", ((-0.55, -0.1), (-0.35, -0.9), (0.35, -0.9), (0.62, -0.1))),
                ("light", ((-0.42, -0.12), (-0.28, -0.72), (-0.04, -0.72), (-0.04, -0.12))),
                ("light", ((0.06, -0.12), (0.06, -0.72), (0.28, -0.72), (0.48, -0.12))),
                ("body", ((-1.0, 0.05), (-0.9, -0.15), (0.75, -0.15), (0.98, 0.1), (1.0, 0.62), (-1.0, 0.62))),
                ("second", _box(-1.0, 0.34, 1.0, 0.46)),
                ("dark", _ellipse(-0.55, 0.62, 0.24, 0.38)),
                ("dark", _ellipse(0.55, 0.62, 0.24, 0.38)),
                ("light", _ellipse(-0.55, 0.62, 0.1, 0.16)),
                ("light", _ellipse(0.55, 0.62, 0.1, 0.16)),
            ),
            0.68,
            1.75,
            ("red", "gray", "blue"),
        ),
        "bus": Sprite(
            (
                ("body", _box(-1.0, -0.95, 1.0, 0.72)),
                *bus_windows,
                ("second", _box(-1.0, 0.2, 1.0, 0.36)),
                ("dark", _ellipse(-0.55, 0.74, 0.17, 0.26)),
                ("dark", _ellipse(0.55, 0.74, 0.17, 0.26)),
            ),
            1.0,
            1.45,
            ("yellow", "red", "white"),
        ),
        "boat": Sprite(
            (
                ("wood", _box(-0.08, -0.95, 0.04, 0.4)),
                ("light", ((0.1, -0.9), (0.9, 0.3), (0.1, 0.3))),
                ("second", ((-0.14, -0.7), (-0.14, 0.3), (-0.75, 0.3))),
                ("body", ((-1.0, 0.4), (1.0, 0.4), (0.6, 1.0), (-0.65, 1.0))),
            ),
            0.95,
            1.05,
            ("brown", "white", "red"),
        ),
        "plane": Sprite(
            (
                ("body", ((-0.95, -0.9), (-0.65, -0.9), (-0.35, -0.1), (-0.85, 0.0))),
                ("second", ((0.2, 0.0), (-0.15, -0.95), (-0.4, -0.95), (-0.2, 0.0))),
                ("body", _ellipse(0.0, 0.08, 1.0, 0.3)),
                ("second", ((0.25, 0.15), (-0.4, 1.0), (-0.65, 1.0), (-0.25, 0.15))),
                ("dark", _ellipse(0.72, -0.02, 0.12, 0.09)),
                ("light", _ellipse(0.3, -0.02, 0.07, 0.08)),
                ("light", _ellipse(0.0, -0.02, 0.07, 0.08)),
                ("light", _ellipse(-0.3, -0.02, 0.07, 0.08)),
            ),
            0.66,
            1.9,
            ("white", "gray", "blue"),
            flies=True,
        ),
        "tree": Sprite(
            (
                ("wood", _box(-0.18, 0.1, 0.18, 1.0)),
                ("body", _ellipse(-0.45, -0.1, 0.55, 0.36)),
                ("body", _ellipse(0.45, -0.1, 0.55, 0.36)),
                ("body", _ellipse(0.0, -0.52, 0.66, 0.46)),
                ("second", _ellipse(-0.2, -0.6, 0.14, 0.1)),
                ("second", _ellipse(0.4, -0.2, 0.14, 0.1)),
                ("second", _ellipse(-0.5, -0.05, 0.14, 0.1)),
            ),
            1.15,
            0.75,
            ("green", "brown", "orange"),
        ),
        "flower": Sprite(
            (
                ("leaf", _box(-0.08, -0.2, 0.08, 1.0)),
                ("leaf", _ellipse(0.42, 0.6, 0.4, 0.12, -0.5)),
                ("leaf", _ellipse(-0.42, 0.7, 0.4, 0.12, 0.5)),
                *petals,
                ("yolk", _ellipse(0.0, -0.42, 0.28, 0.17)),
            ),
            0.72,
            0.62,
            ("pink", "red", "purple"),
        ),
        "house": Sprite(
            (
                ("body", _box(-0.82, -0.2, 0.82, 1.0)),
                ("second", ((-1.0, -0.15), (0.0, -1.0), (1.0, -0.15))),
                ("dark", _box(-0.2, 0.35, 0.2, 1.0)),
                ("light", _box(-0.66, 0.05, -0.32, 0.42)),
                ("light", _box(0.32, 0.05, 0.66, 0.42)),
            ),
            1.15,
            1.0,
            ("white", "brown", "yellow"),
        ),
    }
