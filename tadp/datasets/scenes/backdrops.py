"""The places of rendered scenes: their sky, their ground, and their names."""

import numpy as np
from PIL import Image

# name: (phrase, sky, ground, texture)
BACKGROUNDS: dict[str, tuple[str, tuple[int, int, int], tuple[int, int, int], str]] = {
    "grass": ("on grass", (150, 200, 240), (110, 176, 72), "speckle"),
    "beach": ("on a beach", (120, 210, 250), (236, 214, 150), "speckle"),
    "snow": ("in snow", (196, 206, 222), (232, 238, 246), "smooth"),
    "street": ("on a street", (186, 192, 204), (98, 100, 108), "lanes"),
    "water": ("on water", (176, 214, 246), (36, 106, 176), "waves"),
    "room": ("in a room", (226, 196, 176), (156, 108, 72), "boards"),
    "desert": ("in a desert", (250, 196, 120), (206, 140, 66), "waves"),
    "forest": ("in a forest", (44, 92, 66), (66, 92, 40), "trunks"),
}


def backdrop(background: str, horizon: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the sky and the ground of a scene.

    Args:
        background: The kind of place to draw, a key of `BACKGROUNDS`.
        horizon: Row of the horizon from the top, as a share of the image's height, in [0, 1].
        size: Height and width of the picture in pixels.
        rng: Random number generator for tints, clouds and texture.

    Returns:
        The picture as RGB values, (size, size, 3), uint8.
    """
    _, sky, ground, texture = BACKGROUNDS[background]
    tint = rng.normal(0, 6, (2, 3))
    rows = (np.arange(size, dtype=np.float32) + 0.5) / size
    below = rows >= horizon
    fade = np.where(below, (rows - horizon) / (1 - horizon), 1 - rows / horizon)[:, None, None]
    color = np.where(below[:, None, None], np.array(ground) + tint[0], np.array(sky) + tint[1])
    image = np.broadcast_to(
        color + np.where(below[:, None, None], 14 * (fade - 0.5), -24 * (fade - 0.5)), (size, size, 3)
    ).copy()
    cloud = _smooth_noise(rng, size, 5)
    image += 7 * cloud[..., None]
    image[below] += _texture(texture, rows, size, rng)[below][..., None]
    if texture in ("boards", "trunks"):
        stripes = np.sin(np.arange(size) * 2 * np.pi * (8 if texture == "boards" else 5) / size + rng.uniform(0, 6))
        image[~below] += (12 if texture == "boards" else 34) * np.where(stripes > 0.55, -1, 0.2)[None, :, None]
    return np.clip(image, 0, 255).astype(np.uint8)


def _texture(kind: str, rows: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    columns = (np.arange(size, dtype=np.float32) + 0.5) / size
    if kind == "speckle":
        half = -(-size // 2)
        return 12 * rng.standard_normal((half, half)).repeat(2, 0).repeat(2, 1)[:size, :size]
    if kind == "waves":
        phase = rng.uniform(0, 6)
        return 13 * np.sin(60 * rows[:, None] + 1.6 * np.sin(14 * columns[None] + phase) + phase)
    if kind == "lanes":
        dashes = (np.abs(rows[:, None] - 0.86) < 0.018) & (np.sin(34 * columns[None] + rng.uniform(0, 6)) > 0)
        return np.where(dashes, 120.0, 4 * rng.standard_normal((size, size)))
    if kind == "boards":
        return np.broadcast_to(np.where((rows * 14) % 1 < 0.14, -34.0, 0.0)[:, None], (size, size))
    return 10 * _smooth_noise(rng, size, 16)


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
