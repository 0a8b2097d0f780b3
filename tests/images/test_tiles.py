"""Positions and weights of tiles."""

from itertools import pairwise

import pytest
import torch

from tadp.images.tiles import grid

SIZES = [(3000, 4000), (400, 1000), (513, 512), (129, 8), (512, 512), (577, 641)]
SIDES = [(512, 128), (128, 0), (256, 192), (128, 64), (192, 128)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("tile_px", "overlap_px"), SIDES)
def test_tiles_cover_the_image_begin_on_cells_and_are_of_one_size(size, tile_px, overlap_px):
    tiles = grid(size, tile_px=tile_px, overlap_px=overlap_px)
    assert tiles.tile_size == tuple(min(side, tile_px) for side in size)
    seen = torch.zeros(size, dtype=torch.int)
    for tile in tiles:
        assert tile.rows.start % 64 == tile.columns.start % 64 == 0
        seen[tile.rows, tile.columns] += 1
    assert seen.min() == 1 if overlap_px * 2 < tile_px else seen.min() >= 1
    assert len(list(tiles)) == len(tiles) == len(tiles.tops) * len(tiles.lefts)
    for starts, side in zip((tiles.tops, tiles.lefts), size, strict=True):
        steps = [after - before for before, after in pairwise(starts)]
        assert all(step == tile_px - overlap_px for step in steps[:-1])
        assert all(0 < step <= tile_px - overlap_px for step in steps[-1:])
        if side > tile_px:
            assert side <= starts[-1] + tile_px < side + 64  # over the edge by less than a cell


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("tile_px", "overlap_px"), SIDES)
@pytest.mark.parametrize("stride", [8, 64])
def test_the_weights_of_a_cell_sum_to_one(size, tile_px, overlap_px, stride):
    tiles = grid(size, tile_px=tile_px, overlap_px=overlap_px)
    for shares, starts, side in zip(tiles.shares(stride), (tiles.tops, tiles.lefts), size, strict=True):
        cells = -(-side // stride)
        total, count = torch.zeros(cells), torch.zeros(cells)
        for share, start in zip(shares, starts, strict=True):
            assert share.cells.start * stride == start
            assert share.weights.min() > 0
            total[share.cells] += share.weights
            count[share.cells] += 1
        torch.testing.assert_close(total, torch.ones(cells))
        for share in shares:
            assert (share.weights[count[share.cells] == 1] == 1).all()  # exactly: nothing is blended there


def test_weights_fall_linearly_to_the_border_where_two_tiles_meet():
    _, across = grid((64, 192), tile_px=128, overlap_px=64).shares(16)
    ramp = torch.tensor([0.125, 0.375, 0.625, 0.875])
    assert torch.equal(across[0].weights, torch.cat([torch.ones(4), ramp.flip(0)]))
    assert torch.equal(across[1].weights, torch.cat([ramp, torch.ones(4)]))


def test_the_last_tile_shares_all_that_it_has_in_common():
    _, across = grid((64, 448), tile_px=256, overlap_px=0).shares(64)  # from 0 and 192: one cell in common
    assert [share.cells for share in across] == [slice(0, 4), slice(3, 7)]
    assert [share.weights.tolist() for share in across] == [[1, 1, 1, 0.5], [0.5, 1, 1, 1]]


def test_slices_end_at_the_edge():
    tiles = grid((100, 200), tile_px=128, overlap_px=64)
    assert [(tile.rows, tile.columns) for tile in tiles] == [
        (slice(0, 100), slice(0, 128)),
        (slice(0, 100), slice(64, 192)),
        (slice(0, 100), slice(128, 200)),
    ]
    assert str(tiles) == "3 tiles, 1 rows of 3, each of 100x128 pixels"


def test_other_strides_have_other_multiples():
    assert grid((96, 96), tile_px=64, overlap_px=32, multiple=32).tops == (0, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_px": 500}, r"tile_px must be a multiple of the coarsest stride, 64; got 500\. Pass 512"),
        ({"overlap_px": 100}, r"overlap_px must be a multiple of the coarsest stride, 64; got 100\. Pass 128"),
        ({"tile_px": 128, "overlap_px": 128}, r"overlap_px must be less than tile_px, 128; got 128"),
        ({"tile_px": 128, "overlap_px": 256}, r"overlap_px must be less than tile_px, 128; got 256"),
        ({"tile_px": 0}, r"tile_px must be 1 pixel or more; got 0"),
        ({"overlap_px": -64}, r"overlap_px must be 1 pixel or more, or 0 for none; got -64\."),
        ({"image_size": (0, 64)}, r"a side of image_size must be 1 pixel or more; got 0"),
    ],
)
def test_what_makes_no_grid_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        grid(**({"image_size": (1000, 1000)} | options))


def test_sizes_are_whole_numbers(no_type_checker):
    with pytest.raises(TypeError, match=r"tile_px must be a whole number of pixels; got 512\.0"):
        grid((1000, 1000), tile_px=512.0)
