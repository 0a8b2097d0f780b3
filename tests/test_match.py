import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

import tadp
from tadp.cli import app
from tadp.datasets.scenes import Scenes
from tadp.errors import OptionError
from tadp.features import AttentionMaps, Features


def random_map(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_level(level_map: torch.Tensor, stride: int = 8) -> Features:
    """Features of images that fill the cells of their only level."""
    height, width = level_map.shape[2:]
    return Features((level_map,), None, (height * stride, width * stride))


def test_a_shifted_image_is_found_at_the_shifted_places():
    scene = random_map(1, 16, 6, 9)
    shifted = torch.roll(scene, shifts=(1, 2), dims=(2, 3))
    points = torch.tensor([[4.0, 4.0], [28.0, 12.0], [44.0, 36.0]])  # centres of cells
    matches = tadp.match(one_level(scene), one_level(shifted), points, method="nearest")
    assert torch.equal(matches.matched, points + torch.tensor([16.0, 8.0]))
    assert torch.allclose(matches.similarity, torch.ones(3), atol=1e-6)
    assert matches.is_mutual.all()
    assert torch.equal(matches.points, points)


def test_without_points_every_cell_of_the_finest_level_is_matched_row_by_row():
    scene = random_map(1, 16, 4, 5)
    matches = tadp.match(one_level(scene), one_level(scene), method="nearest")
    centres = [[8 * column + 4.0, 8 * row + 4.0] for row in range(4) for column in range(5)]
    assert matches.points.tolist() == centres == matches.matched.tolist()


@pytest.mark.parametrize("method", ["nearest", "soft", "windowed"])
def test_positions_equal_a_plain_loop_over_all_cells(method):
    first, second = random_map(1, 12, 5, 7), random_map(1, 12, 6, 8, seed=1)
    points = [[3.0, 30.0], [21.5, 7.25], [55.0, 39.0]]
    matches = tadp.match(one_level(first), one_level(second), points, method=method, window=3, temperature=0.1)
    vectors = F.normalize(first, dim=1)[0].numpy()
    second_vectors = F.normalize(second, dim=1)[0].numpy().reshape(12, -1)
    rows, columns = np.divmod(np.arange(48), 8)
    for (x, y), place in zip(points, matches.matched.tolist(), strict=True):
        column, row = np.clip(x / 8 - 0.5, 0, 6), np.clip(y / 8 - 0.5, 0, 4)
        left, upper = min(int(column), 5), min(int(row), 3)
        a, b = column - left, row - upper
        vector = (1 - b) * ((1 - a) * vectors[:, upper, left] + a * vectors[:, upper, left + 1])
        vector = vector + b * ((1 - a) * vectors[:, upper + 1, left] + a * vectors[:, upper + 1, left + 1])
        similarity = vector / np.linalg.norm(vector) @ second_vectors
        best = similarity.argmax()
        weights = np.exp(similarity / 0.1)
        if method == "windowed":
            weights *= (abs(rows - rows[best]) <= 1) & (abs(columns - columns[best]) <= 1)
        if method == "nearest":
            weights = np.arange(48) == best
        weights = weights / weights.sum()
        expected = (weights @ columns + 0.5) * 8, (weights @ rows + 0.5) * 8
        assert place == pytest.approx(expected, abs=1e-3)


def test_similarity_of_several_levels_is_the_mean_of_their_similarities():
    maps = [[random_map(1, 8, 8 >> level, 8 >> level, seed=seed + level) for level in (0, 1)] for seed in (0, 5)]
    sides = [Features(tuple(levels), None, (64, 64)) for levels in maps]
    matches = tadp.match(*sides, levels=[0, 1])
    fine = [F.normalize(levels[0], dim=1)[0].flatten(1) for levels in maps]
    coarse = [
        F.normalize(F.interpolate(levels[1], size=(8, 8), mode="bilinear"), dim=1)[0].flatten(1) for levels in maps
    ]
    expected = (fine[0].T @ fine[1] + coarse[0].T @ coarse[1]) / 2
    assert torch.allclose(matches.similarity, expected.max(dim=1).values, atol=1e-5)


def test_an_image_that_ends_inside_a_cell_is_matched_in_its_own_pixels():
    level_map = random_map(1, 16, 7, 13)
    odd = Features((level_map,), None, (50, 100), cells={0: (6.25, 12.5)})
    whole = Features((level_map,), None, (56, 104))
    points = [[4.0, 4.0], [92.0, 44.0]]
    assert torch.equal(tadp.match(odd, whole, points, method="nearest").matched, torch.tensor(points))
    every = tadp.match(whole, odd, method="nearest").matched
    assert every.amax(dim=0).tolist() == [100.0, 50.0]  # the centres of the last cells lie outside


def test_a_backbone_says_how_many_cells_the_image_covers(backbone):
    with torch.no_grad():
        features = backbone(torch.rand(1, 3, 72, 100), "a dog")
    assert features.cells[0] == (72 / backbone.strides[0], 100 / backbone.strides[0])
    matches = tadp.match(features, features, [[50.0, 36.0]], levels=[0])
    assert (matches.matched - matches.points).abs().max() < 2.5 * backbone.strides[0]


def test_attached_attention_is_not_compared_because_tokens_differ_between_captions():
    plain = [random_map(1, 6, 4, 4, seed=seed) for seed in (0, 1)]
    sides = []
    for seed, level_map in enumerate(plain):
        attention = random_map(1, 3, 4, 4, seed=7 + seed).softmax(dim=1) * 5
        named = AttentionMaps({0: attention}, (("a", "b", "c"),))
        sides.append(Features((torch.cat([level_map, attention], dim=1),), named, (32, 32)))
    expected = tadp.match(*map(one_level, plain))
    matches = tadp.match(*sides)
    assert torch.equal(matches.matched, expected.matched)
    assert torch.equal(matches.similarity, expected.similarity)


def test_a_match_is_mutual_only_if_it_leads_back():
    first = torch.zeros(1, 2, 1, 9)
    first[0, 0, 0, :] = 1.0
    first[0, 1, 0, 8] = 0.5  # the last cell resembles the other image's only cell less than the second_vectors do
    second = torch.zeros(1, 2, 1, 9)
    second[0, 1] = 1.0
    second[0, 0, 0, 0] = 1.0
    second[0, 1, 0, 0] = 0.0
    matches = tadp.match(one_level(first), one_level(second), method="nearest")
    assert matches.matched[:, 0].tolist() == [4.0] * 9
    assert matches.is_mutual.tolist() == [True, True] + [False] * 7


def test_the_strongest_matches_are_mutual_and_apart():
    scene = random_map(1, 16, 6, 6)
    matches = tadp.match(one_level(scene), one_level(scene), method="nearest").strongest(5, apart_px=20)
    assert len(matches) == 5
    assert matches.is_mutual.all()
    assert torch.pdist(matches.points).min() >= 20
    assert repr(matches) == "Matches(5 points, 5 mutual)"
    assert torch.equal(matches.select(torch.tensor([2, 0])).points, matches.points[[2, 0]])


def test_images_of_a_batch_are_chosen_by_number():
    scene = random_map(3, 16, 4, 4)
    both = one_level(scene)
    matches = tadp.match(both, one_level(scene[2:]), method="nearest", index=(2, 0))
    assert torch.equal(matches.points, matches.matched)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best"}, "method must be one of windowed, nearest, soft; got 'best'"),
        ({"window": 4}, "window must be an odd number of cells; got 4"),
        ({"temperature": 0}, "temperature must be above 0; got 0"),
        ({"points": [[1, 2, 3]]}, r"points must be a list of points \(x, y\) in pixels, .*; got shape \(1, 3\)"),
        ({"points": [[1.0, 99.0]]}, r"points: \(1.0, 99.0\) is outside of the image, 32x32 pixels"),
        ({"points": [[float("nan"), 1.0]]}, r"points: \(nan, 1.0\) is outside"),
        ({"levels": [1]}, r"cannot compare levels \[1\]; both images have levels \[0\]"),
        ({"index": (1, 0)}, "index must be from 0 to 0, the images; got 1"),
    ],
)
def test_invalid_arguments_are_explained(options, message, no_type_checker):
    sides = one_level(random_map(1, 4, 4, 4)), one_level(random_map(1, 4, 4, 4))
    with pytest.raises(ValueError, match=message):
        tadp.match(*sides, **options)


def test_features_of_two_models_cannot_be_compared():
    with pytest.raises(ValueError, match="the maps of the two images differ in channels"):
        tadp.match(one_level(random_map(1, 4, 4, 4)), one_level(random_map(1, 5, 4, 4)))
    with pytest.raises(OptionError):
        tadp.match(one_level(random_map(1, 4, 4, 4)), one_level(random_map(1, 4, 4, 4)), window=2)


def test_the_command_prints_points_and_draws_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = Scenes(1, seed=7)[0].image
    Image.fromarray(image).resize((256, 256)).save("a.png")
    Image.fromarray(image[:, ::-1].copy()).save("b.png")
    ran = CliRunner().invoke(app, ["match", "a.png", "b.png", "--caption", "a cat", "--point", "40,60", "--count", "1"])
    assert ran.exit_code == 0, ran.output
    assert re.fullmatch(r"40,60 -> \d+(\.\d)?,\d+(\.\d)?  0\.\d\d(  not mutual)?", ran.stdout.strip())
    with Image.open("matches.png") as picture:
        assert picture.width > 2 * 256
    outside = CliRunner().invoke(app, ["match", "a.png", "b.png", "--caption", "a cat", "--point", "400,60"])
    assert outside.exit_code == 2
    assert "400,60 is outside of a.png, which has 256x256 pixels" in " ".join(outside.output.replace("│", "").split())
