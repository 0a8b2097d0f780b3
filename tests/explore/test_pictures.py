"""The pictures of `tadp explore`: principal components, and the difference between two features."""

import numpy as np
import pytest
import torch
from PIL import Image

from tadp.explore import View, component_pictures, difference_html, feature_distances, view_html
from tadp.features import Features


def random_features(seed=0, *, channels=5, levels=None) -> Features:
    generator = torch.Generator().manual_seed(seed)
    maps = tuple(torch.randn(1, channels, *size, generator=generator) for size in ((6, 4), (3, 2)))
    return Features(maps, None, (48, 32), levels=levels)


def view(features: Features, text="a dog") -> View:
    picture = Image.new("RGB", (32, 48))
    return View(
        text, ("3 of 77 tokens.",), picture, features, "<p>page</p>", {"depth": picture, "none": "No <b>"}, (8, 16)
    )


def test_distances_are_one_minus_the_cosine():
    first, second = random_features(0), random_features(1)
    distances = feature_distances(first, second)
    a, b = (features.maps[0][0, :, 2, 3].numpy().astype(np.float64) for features in (first, second))
    assert float(distances[0][2, 3]) == pytest.approx(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert {level: tuple(distance.shape) for level, distance in distances.items()} == {0: (6, 4), 1: (3, 2)}
    opposite = Features(tuple(-2 * level_map for level_map in first.maps), None, (48, 32))
    assert torch.allclose(feature_distances(first, opposite)[1], torch.tensor(2.0).double())
    assert feature_distances(first, first)[0].abs().max() < 1e-12


def test_levels_of_other_shapes_have_no_distance_and_missing_levels_none():
    wide = random_features(channels=7)
    assert feature_distances(random_features(), wide) == {0: None, 1: None}
    assert list(feature_distances(random_features(), random_features(levels=(1, 2)))) == [1]
    html = difference_html(view(random_features()), view(wide))
    assert "The maps differ in shape: 5x6x4 and 7x6x4 (channels, rows, columns)." in html


def test_the_difference_states_mean_lowest_and_highest_value():
    first, second = random_features(0), random_features(1)
    html, values = difference_html(view(first), view(second)), feature_distances(first, second)[1]
    assert f"level 1, stride 16: {values.mean():.2f} ({values.min():.2f} to {values.max():.2f})" in html
    assert "level 0, stride 8: 0.000 (0.000 to 0.000)" in difference_html(view(first), view(first))


def test_components_are_those_of_numpy_up_to_the_sign():
    features = random_features()
    (picture,) = component_pictures([features], 0)
    cells = features.maps[0][0].flatten(1).T.double().numpy()
    values, vectors = np.linalg.eigh(np.cov(cells, rowvar=False))
    scores = (cells - cells.mean(axis=0)) @ vectors[:, np.argsort(-values)[:3]]
    scores = (scores - scores.min(axis=0)) / np.ptp(scores, axis=0) * 255
    drawn = np.asarray(picture, np.float64).reshape(-1, 3)
    assert picture.size == (4, 6)
    for own, expected in zip(drawn.T, scores.T, strict=True):
        assert min(np.abs(own - expected).max(), np.abs(255 - own - expected).max()) < 1.01


def test_two_pictures_of_one_kind_share_their_colours():
    first, second = random_features(0), random_features(1)
    one, other = component_pictures([first, first], 0)
    assert np.array_equal(one, other)
    pair = np.concatenate([np.asarray(picture) for picture in component_pictures([first, second], 0)])
    assert np.array_equal(pair.min(axis=(0, 1)), [0, 0, 0])
    assert np.array_equal(pair.max(axis=(0, 1)), [255, 255, 255])
    assert not np.array_equal(component_pictures([first, second], 0)[0], one)
    assert np.array_equal(component_pictures([first, random_features(1, channels=7)], 0)[0], one)


def test_a_level_may_be_missing_or_have_one_cell():
    tiny = Features((torch.ones(1, 4, 1, 1),), None, (8, 8))
    first, second = component_pictures([tiny, random_features()], 0)
    assert (first.size, second.size) == ((1, 1), (4, 6))
    assert component_pictures([tiny, random_features()], 1)[0] is None


def test_texts_of_a_view_are_text():
    html = view_html(view(random_features(), "<script>${1}"), [None, Image.new("RGB", (2, 3))], letter="A")
    assert "<h2>A: “&lt;script&gt;${1}”</h2>" in html.replace("&#8220;", "“").replace("&#8221;", "”")
    assert "<p>No &lt;b&gt;</p>" in html
    assert 'srcdoc="&lt;p&gt;page&lt;/p&gt;"' in html
    assert "level 1, 2x3 cells" in html
    assert "level 0" not in html
    assert "the empty prompt" in view_html(view(random_features(), ""), [], letter="B")
