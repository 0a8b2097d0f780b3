"""Positions of the tiles of a large image, and their weights where they overlap.

    for tile in grid((3000, 4000), tile_px=512, overlap_px=128):
        crop = image[:, tile.rows, tile.columns]           # image is (3, H, W); tiles come row by row

Tiles begin at multiples of the coarsest level's stride, so that at every level the cells of a tile are also cells of
the whole image. All tiles have the same size: the last tile of a row or column is moved back so that it ends with the
image's last cell.
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
    """Rows and columns of a tile, in pixels. The slices end at the image's edge."""

    rows: slice
    columns: slice


class Share(NamedTuple):
    """The contribution of a tile to the map of the whole image along one side, height or width.

    Attributes:
        cells: Range of the cells of the whole image's map that the tile covers.
        weights: The tile's weight at each of these cells, (N,), in [0, 1]. At each cell, the weights of all tiles sum
            to one.
    """

    cells: slice
    weights: Float[Tensor, " _n"]


@dataclass(frozen=True)
class TileGrid:
    """The positions of the tiles of one image. Iteration yields them row by row, and `len()` returns their number.

    Attributes:
        image_size: (height, width) of the image in pixels.
        tile_size: (height, width) of every tile in pixels. The last tile of a row or column may extend beyond the
            image's edge, by less than one cell of the coarsest level.
        tops: First pixel row of each row of tiles, counted from 0.
        lefts: First pixel column of each column of tiles, counted from 0.
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
        """The weights with which the maps of tiles are blended into the map of the whole image.

        The weight of a tile is one where no other tile overlaps it. Where tiles overlap, it falls linearly to zero at
        the tile's border, because a network sees the least context there.

        Args:
            reduction: Stride of the map: the width of a cell in pixels. It must divide the coarsest level's stride.

        Returns:
            The contribution of each row of tiles to the rows of the map, and that of each column of tiles to its
            columns.
        """
        down, across = (
            _shares(starts, tile, size, reduction)
            for starts, tile, size in zip((self.tops, self.lefts), self.tile_size, self.image_size, strict=True)
        )
        return down, across


def grid(image_size: tuple[int, int], *, tile_px: int = 512, overlap_px: int = 128, multiple: int = 64) -> TileGrid:
    """Divide an image into tiles.

    Args:
        image_size: (height, width) of the image in pixels.
        tile_px: Side of a tile in pixels. A side of the image that is not longer than a tile is not divided.
        overlap_px: Number of pixels by which neighbouring tiles overlap. The last two tiles of a row or column overlap
            more if the sizes do not divide evenly.
        multiple: Stride of the coarsest level, `max(backbone.strides)`: 64 for Stable Diffusion 1.x and
            2.x, 32 for XL, 3.x and FLUX. `tile_px` and `overlap_px` must be multiples of it.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If `tile_px` or `overlap_px` is not a multiple of `multiple`, or `overlap_px` is not less than
            `tile_px`.

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
                f"{name} must be a multiple of the coarsest stride, {multiple}; got {value}. Pass "
                f"{-(-value // multiple) * multiple}."
            )
    if overlap_px >= tile_px:
        raise ValueError(f"overlap_px must be less than tile_px, {tile_px}; got {overlap_px}.")
    height, width = (check_whole(side, name="a side of image_size", unit="pixel") for side in image_size)
    sides = [_side(side, tile_px, overlap_px, multiple) for side in (height, width)]
    return TileGrid((height, width), (sides[0][0], sides[1][0]), sides[0][1], sides[1][1])


def _side(length: int, tile_px: int, overlap_px: int, multiple: int) -> tuple[int, tuple[int, ...]]:
    """The length of the tiles along one side, and the pixels where they begin."""
    if length <= tile_px:
        return length, (0,)
    padded = -(-length // multiple) * multiple
    return tile_px, tuple(window_starts(padded, tile_px, tile_px - overlap_px))


def _shares(starts: tuple[int, ...], tile: int, size: int, reduction: int) -> list[Share]:
    cells = -(-size // reduction)
    total = torch.zeros(cells, dtype=torch.float64)
    weighted_cells = []
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
        weighted_cells.append((slice(first, last), weights))
    return [Share(part, (weights / total[part]).float()) for part, weights in weighted_cells]
