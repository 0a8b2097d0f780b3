"""Watercolor, comic and night as operations on a rendered image."""

import numpy as np
from PIL import Image, ImageFilter


def apply_style(image: np.ndarray, style: str, rng: np.random.Generator) -> np.ndarray:
    """Apply a style to an image, (H, W, 3), uint8. The geometry does not change, so masks and depth still fit."""
    if style == "watercolor":
        return _watercolor(image, rng)
    if style == "comic":
        return _comic(image)
    if style == "night":
        return _night(image, rng)
    return image


def _watercolor(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft flat washes on grainy paper: a median filter, faded colours, darker rims and uneven pigment."""
    size = image.shape[0]
    washed = Image.fromarray(image).filter(ImageFilter.MedianFilter(5)).filter(ImageFilter.GaussianBlur(size / 200))
    rims = _edges(washed)[..., None]
    pigment = np.asarray(
        Image.fromarray(rng.standard_normal((9, 9)).astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    )
    paper = rng.normal(0, 6, (size, size, 1))
    painted = 255 - (255 - np.asarray(washed, np.float32)) * (0.62 + 0.14 * pigment[..., None])
    return np.clip(painted - 0.35 * rims + paper, 0, 255).astype(np.uint8)


def _comic(image: np.ndarray) -> np.ndarray:
    """Few saturated colours, black outlines, halftone dots in the shade."""
    size = image.shape[0]
    smooth = Image.fromarray(image).filter(ImageFilter.MedianFilter(5))
    pixels = np.asarray(smooth, np.float32)
    gray = pixels.mean(-1, keepdims=True)
    vivid = np.clip(gray + 1.7 * (pixels - gray), 0, 255)
    flat = np.round(vivid / 85) * 85
    rows, columns = np.mgrid[0:size, 0:size] * (128 / size)
    dots = (np.sin(rows * 1.57 + columns * 1.57) * np.sin(rows * 1.57 - columns * 1.57) > 0.35)[..., None]
    flat = np.where(dots & (gray < 150), flat * 0.55, flat)
    return np.where(_edges(smooth)[..., None] > 70, 12, flat).astype(np.uint8)


def _night(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dark and blue, with one to three warm lamps and sensor noise."""
    size = image.shape[0]
    pixels = image.astype(np.float32) / 255
    dark = pixels * np.array([0.26, 0.28, 0.44], np.float32)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) / size
    for _ in range(int(rng.integers(1, 4))):
        y, x, spread = rng.uniform(0, 0.8), rng.uniform(0, 1), rng.uniform(0.05, 0.13)
        glow = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * spread**2))[..., None]
        dark += glow * (0.35 * pixels + 0.2) * np.array([1.0, 0.85, 0.55], np.float32)
    return np.clip(255 * dark + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def _edges(image: Image.Image) -> np.ndarray:
    """How much each pixel differs from its neighbours, (H, W) float32; zero on the border."""
    edges = np.asarray(image.convert("L").filter(ImageFilter.FIND_EDGES)).astype(np.float32)
    edges[[0, -1]] = 0
    edges[:, [0, -1]] = 0
    return edges
