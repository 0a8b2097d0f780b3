"""Distances between two sets of images in colour and in texture, from a few statistics over each set.

A style shows in colour and texture more than in content, and 40 images are too few for an Inception distance.
"""

import numpy as np

# sRGB to XYZ (IEC 61966-2-1), and the white of D65.
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _TO_XYZ.sum(axis=1)
_SECTORS = 4  # sectors of orientation, centred at 0, 45, 90 and 135 degrees


def lab_of(pixels: np.ndarray) -> np.ndarray:
    """Convert sRGB levels, (..., 3) uint8, to CIE Lab, (..., 3), with L in [0, 100]."""
    share = pixels / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _TO_XYZ.T / _WHITE
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def colour_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The 2-Wasserstein distance between Gaussians fitted to the pixels of two sets in Lab, in units of Lab.

    Args:
        first: Images, (N, H, W, 3), uint8.
        second: Images of the same form, of any number.

    Source:
        Dowson and Landau 1982, as in the Frechet Inception distance, but not squared.
    """
    (mean, spread), (mean_2, spread_2) = (_gaussian(images) for images in (first, second))
    root = _root(spread)
    between = np.trace(spread + spread_2 - 2 * _root(root @ spread_2 @ root))
    return float(np.sqrt(np.square(mean - mean_2).sum() + max(between, 0.0)))


def texture_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The difference between two sets in the power of lightness over frequencies and directions, in decibels.

    Each image's lightness is scaled to unit variance, so that contrast and darkness, which belong to colour, do not
    count. Its power is summed in bands of one octave and four directions. The distance is the root mean square over
    bands of the difference between the mean decibels of the sets.

    Args:
        first: Square images, (N, H, W, 3), uint8.
        second: Images of the same form, of any number.
    """
    bands, bands_2 = (_band_decibels(images).mean(axis=0) for images in (first, second))
    return float(np.sqrt(np.square(bands - bands_2).mean()))


def _gaussian(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    colours = lab_of(images).reshape(-1, 3)
    return colours.mean(axis=0), np.cov(colours, rowvar=False)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def _band_decibels(images: np.ndarray) -> np.ndarray:
    """The power of each image in each band, in decibels, (N, octaves * sectors)."""
    lightness = lab_of(images)[..., 0]
    lightness = lightness - lightness.mean(axis=(1, 2), keepdims=True)
    lightness /= lightness.std(axis=(1, 2), keepdims=True).clip(1e-6)
    side = lightness.shape[-1]
    window = np.hanning(side)[:, None] * np.hanning(side)  # the edges of an image are not texture
    power = np.abs(np.fft.fft2(lightness * window)) ** 2
    rows, columns = np.meshgrid(*[np.fft.fftfreq(side) * side] * 2, indexing="ij")
    cycles = np.hypot(rows, columns)
    sector = np.round(np.arctan2(rows, columns) / (np.pi / _SECTORS)).astype(int) % _SECTORS
    octaves = range(1, int(np.log2(side)))  # 2 to 4 cycles per image, and so on up to half the side
    sums = [
        power[:, (cycles >= 2**octave) & (cycles < 2 ** (octave + 1)) & (sector == number)].sum(axis=1)
        for octave in octaves
        for number in range(_SECTORS)
    ]
    return 10 * np.log10(np.stack(sums, axis=1) + 1e-6 * side**2)
