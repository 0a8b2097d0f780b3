import math

import pytest
import torch

from tadp.features import Features
from tadp.images.map_sizes import resized
from tadp.images.upsampling import RADIUS, SIGMA_CELLS, SIGMA_COLORS, guided, upsample


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def plain_guided(image: torch.Tensor, maps: torch.Tensor, size: tuple[int, int], stride: int) -> torch.Tensor:
    """Joint bilateral upsampling of one map, value by value."""
    count, height, width = maps.shape
    result = torch.zeros(count, *size)
    colors = torch.zeros(3, height, width)
    last_y, last_x = image.shape[1] - 1, image.shape[2] - 1
    for i in range(height):
        for j in range(width):
            pixels = [
                image[:, min(y, last_y), min(x, last_x)]
                for y in range(i * stride, (i + 1) * stride)
                for x in range(j * stride, (j + 1) * stride)
            ]
            colors[:, i, j] = torch.stack(pixels).mean(dim=0)
    fine = resized(image[None], size)[0]
    for y in range(size[0]):
        for x in range(size[1]):
            at_y = (y + 0.5) * image.shape[1] / size[0] / stride - 0.5
            at_x = (x + 0.5) * image.shape[2] / size[1] / stride - 0.5
            near_y, near_x = min(max(round(at_y), 0), height - 1), min(max(round(at_x), 0), width - 1)
            total = 0.0
            for i in range(near_y - RADIUS, near_y + RADIUS + 1):
                for j in range(near_x - RADIUS, near_x + RADIUS + 1):
                    inside = min(max(i, 0), height - 1), min(max(j, 0), width - 1)
                    color = (fine[:, y, x] - colors[:, inside[0], inside[1]]).square().sum().item()
                    place = (at_y - i) ** 2 + (at_x - j) ** 2
                    weight = math.exp(-color / (2 * SIGMA_COLORS**2) - place / (2 * SIGMA_CELLS**2))
                    result[:, y, x] += weight * maps[:, inside[0], inside[1]]
                    total += weight
            result[:, y, x] /= total
    return result


@pytest.mark.parametrize(("pixels", "size"), [((24, 32), (24, 32)), ((21, 29), (21, 29)), ((21, 29), (10, 13))])
def test_the_guided_filter_equals_a_plain_loop(pixels, size):
    image = random(1, 3, *pixels) * 0.3
    maps = random(1, 2, -(-pixels[0] // 8), -(-pixels[1] // 8), seed=1)
    result = guided(image, maps, size, cells=(pixels[0] / 8, pixels[1] / 8))
    assert torch.allclose(result[0], plain_guided(image[0], maps[0], size, 8), atol=1e-5)


def test_a_guided_map_changes_where_the_image_changes():
    """The edge of the image lies inside of a cell; bilinear values change over more than a cell."""
    image = torch.zeros(1, 3, 64, 64)
    image[..., 37:] = 1.0
    maps = torch.zeros(1, 1, 8, 8)
    maps[..., 5:] = 1.0
    maps[..., 4] = 3 / 8  # the share of the cell that is beyond the edge
    truth = image[:, :1]
    sharp, smooth = upsample(maps, (64, 64), image=image), upsample(maps, (64, 64), method="bilinear")
    assert torch.equal((sharp > 0.5).float(), truth)
    assert (sharp - truth).abs().mean() < (smooth - truth).abs().mean()
    assert (sharp - truth)[..., 20:24].abs().max() < 1e-3


@pytest.mark.parametrize("method", ["guided", "bilinear"])
def test_a_linear_layer_gives_the_same_before_and_after(method):
    image, maps = random(2, 3, 40, 56), random(2, 6, 5, 7, seed=1)
    layer = torch.nn.Conv2d(6, 3, 1)
    before = upsample(layer(maps), (40, 56), image=image, method=method)
    assert torch.allclose(before, layer(upsample(maps, (40, 56), image=image, method=method)), atol=1e-5)


def test_gradients_reach_the_maps_and_the_dtype_stays():
    maps = random(1, 2, 3, 4).requires_grad_()
    guided(random(1, 3, 24, 32), maps, (24, 32)).sum().backward()
    assert torch.allclose(maps.grad.sum(), torch.tensor(2 * 24 * 32.0), rtol=1e-4)  # weights sum to 1
    half = guided(random(1, 3, 24, 32), maps.detach().bfloat16(), (24, 32))
    assert half.dtype == torch.bfloat16


def test_a_function_gets_whole_cells_and_its_result_is_cut():
    seen = []

    def nearest(image, maps, size):
        seen.append((tuple(image.shape), size))
        return torch.nn.functional.interpolate(maps, size=size, mode="nearest")

    maps = random(1, 2, 3, 4)
    result = upsample(maps, (21, 29), method=nearest, image=random(1, 3, 21, 29), cells=(21 / 8, 29 / 8))
    assert seen == [((1, 3, 24, 32), (24, 32))]
    assert torch.equal(result, maps.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)[..., :21, :29])
    with pytest.raises(ValueError, match="returned"):
        upsample(maps, (24, 32), method=lambda image, maps, size: maps, image=random(1, 3, 24, 32))


def test_features_are_upsampled_to_pixels(backbone):
    images = random(2, 3, 50, 70)
    with torch.no_grad():
        features = backbone(images, "a dog")
    fine = features.upsample(image=images, levels=(0, 2))
    assert fine.levels == (0, 2)
    assert [tuple(level_map.shape[2:]) for level_map in fine.maps] == [(50, 70), (50, 70)]
    assert torch.equal(fine.maps[0], guided(images, features.maps[0], (50, 70), cells=features.cells[0]))
    assert fine.attention is features.attention
    smooth = features.upsample((25, 35), method="bilinear")
    assert torch.equal(smooth.maps[1], resized(features.maps[1], (25, 35), cells=features.cells[1]))


def test_bad_arguments_are_refused():
    features = Features((random(1, 2, 3, 4),), None, (24, 32))
    with pytest.raises(ValueError, match=r"Pass image=, or method='bilinear'"):
        features.upsample()
    with pytest.raises(ValueError, match="no map of level 3"):
        features.upsample(method="bilinear", levels=(3,))
    with pytest.raises(ValueError, match=r"images of \(24, 32\); got \(24, 24\)"):
        features.upsample(image=random(1, 3, 24, 24))
    with pytest.raises(ValueError, match="1 or more"):
        features.upsample((0, 5), method="bilinear")
