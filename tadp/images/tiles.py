"""Where the tiles of a large image lie, and how much each counts where they overlap.

    for tile in grid((3000, 4000), tile_px=512, overlap_px=128):
        crop = image[:, tile.rows, tile.columns]           # of a tensor (3, H, W); row by row

Tiles begin on multiples of the coarsest stride, so that the cells of a tile are cells of the whole image at every
level. All are of one size: the last of a row or column is moved back, to end with the image's last cell.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.files.checks import check_whole
from tadp.images.windows import window_starts


class Tile(NamedTuple):
    """A part of an image, in pixels; the slices end at the image's edge."""

    rows: slice
    columns: slice


class Share(NamedTuple):
    """What a tile gives to one side of a map.

    Attributes:
        cells: Of the whole image's map.
        weights: One a cell; those of all tiles at a cell sum to one.
    """

    cells: slice
    weights: Float[Tensor, " _n"]


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one image, row by row; iterate over it, or take its `len()`.

    Attributes:
        image_size: (height, width) in pixels.
        tile_size: (height, width) of every tile. The last of a row or column may reach over the image's edge, by less
            than a cell of the coarsest level.
        tops: First pixel row of each row of tiles.
        lefts: First pixel column of each column of tiles.
    """

    image_size: tuple[int, int]
    tile_size: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def __iter__(self) -> Iterator[Tile]:
        for top, left in self.places:
            ends = (min(top + self.tile_size[0], self.image_size[0]), min(left + self.tile_size[1], self.image_size[1]))
            yield Tile(slice(top, ends[0]), slice(left, ends[1]))

    def __str__(self) -> str:
        return (
            f"{len(self)} tiles, {len(self.tops)} rows of {len(self.lefts)}, each of "
            f"{self.tile_size[0]}x{self.tile_size[1]} pixels"
        )

    @property
    def places(self) -> list[tuple[int, int]]:
        """(top, left) of each tile."""
        return [(top, left) for top in self.tops for left in self.lefts]

    def shares(self, reduction: int) -> tuple[list[Share], list[Share]]:
        """What each row of tiles gives to the rows of a map, and each column of tiles to its columns.

        A tile counts fully where it is alone. Where it overlaps the next, its weight falls linearly to zero at its
        border, where a network sees least of what is around.

        Args:
            reduction: The map's stride, in pixels a cell; a divisor of the coarsest.
        """
        down, across = (
            _shares(starts, tile, size, reduction)
            for starts, tile, size in zip((self.tops, self.lefts), self.tile_size, self.image_size, strict=True)
        )
        return down, across


def grid(image_size: tuple[int, int], *, tile_px: int = 512, overlap_px: int = 128, multiple: int = 64) -> TileGrid:
    """The tiles of an image.

    Args:
        image_size: (height, width) in pixels.
        tile_px: Side of a tile. A side of the image that is no longer is not cut.
        overlap_px: That neighbours share; the last two of a row or column share more, where the sizes do not divide.
        multiple: Of which tile and overlap must be multiples: the coarsest stride, as
            `backbone.feature_info.reduction[-1]` has it; 64 for Stable Diffusion 1.x and 2.x, 32 for XL, 3.x and FLUX.

    Raises:
        TypeError: If a size is no integer.
        ValueError: If one is no multiple, or the overlap is not under the tile.

    Example:
        >>> tiles = grid((3000, 4000))
        >>> print(tiles)
        88 tiles, 8 rows of 11, each of 512x512 pixels
        >>> list(tiles)[1]
        Tile(rows=slice(0, 512, None), columns=slice(384, 896, None))
        >>> tiles.tops
        (0, 384, 768, 1152, 1536, 1920, 2304, 2496)
    """
    tile_px = check_whole(tile_px, name="tile_px", unit="pixel")
    overlap_px = (
        0 if overlap_px == 0 else check_whole(overlap_px, name="overlap_px", unit="pixel", note=", or 0 for none")
    )
    for name, value in (("tile_px", tile_px), ("overlap_px", overlap_px)):
        if value % multiple:
            raise ValueError(
                f"{name} is a multiple of the coarsest stride, {multiple}; got {value}. Pass "
                f"{-(-value // multiple) * multiple}."
            )
    if overlap_px >= tile_px:
        raise ValueError(f"overlap_px is under tile_px, {tile_px}; got {overlap_px}.")
    height, width = (check_whole(side, name="a side of image_size", unit="pixel") for side in image_size)
    sides = [_side(side, tile_px, overlap_px, multiple) for side in (height, width)]
    return TileGrid((height, width), (sides[0][0], sides[1][0]), sides[0][1], sides[1][1])


def _side(length: int, tile_px: int, overlap_px: int, multiple: int) -> tuple[int, tuple[int, ...]]:
    """Length of tiles along a side, and where they begin."""
    if length <= tile_px:
        return length, (0,)
    padded = -(-length // multiple) * multiple
    return tile_px, tuple(window_starts(padded, tile_px, tile_px - overlap_px))


def _shares(starts: tuple[int, ...], tile: int, size: int, reduction: int) -> list[Share]:
    cells = -(-size // reduction)
    total = torch.zeros(cells, dtype=torch.float64)
    found = []
    for number, start in enumerate(starts):
        first = start // reduction
        last = min(-(-(start + tile) // reduction), cells)
        centers = (torch.arange(last - first, dtype=torch.float64) + 0.5) * reduction
        weights = torch.ones(last - first, dtype=torch.float64)
        if number > 0:
            weights = (centers / (starts[number - 1] + tile - start)).clamp(max=1)
        if number < len(starts) - 1:
            weights = weights * ((tile - centers) / (start + tile - starts[number + 1])).clamp(max=1)
        total[first:last] += weights
        found.append((slice(first, last), weights))
    return [Share(part, (weights / total[part]).float()) for part, weights in found]
