import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import tadp
from tadp.cli import app
from tadp.datasets.scenes import Scenes
from tadp.errors import ImageError, OptionError
from tadp.zero_shot import regions, segment
from tadp.zero_shot.name_masks import otsu
from tadp.zero_shot.normalized_cut import best_cut, recursive_cut

SCENE = Scenes(9, seed=7)[3]  # with a tree, a car and a flower


@pytest.fixture(scope="module")
def tiny():
    return tadp.TADPBackbone.from_pretrained("tadp-tiny").freeze()


def test_otsu_divides_values_where_the_variance_within_the_groups_is_least():
    values = torch.cat([torch.randn(70) * 0.1, 1 + torch.randn(30) * 0.2])
    costs = []
    for value in values.sort().values[:-1].tolist():
        low, high = values[values <= value], values[values > value]
        costs.append((len(low) * float(low.var(correction=0)) + len(high) * float(high.var(correction=0)), value))
    assert otsu(values) == pytest.approx(min(costs)[1])
    assert otsu(torch.ones(4)) == 1.0


def test_objects_of_a_scene_are_found_by_their_names(tiny):
    masks = segment(SCENE.image, ["flower", "car", "tree"], tiny)
    assert masks.labels.shape == SCENE.image.shape[:2]
    assert masks.scores.shape == (3, *SCENE.image.shape[:2])
    for number, name in enumerate(masks.names, start=1):
        own = torch.from_numpy(SCENE.mask == SCENE.labels[SCENE.names.index(name)])
        labelled = masks.labels == number
        assert (labelled & own).sum() / (labelled | own).sum() > 0.3
    strongest, best = masks.scores.max(dim=0)
    assert torch.equal(masks.labels, torch.where(strongest > masks.threshold, best + 1, 0))


def test_options_of_the_backbone_do_not_matter(tiny):
    image = SCENE.image[:90, :70]
    plain = segment(image, ["dog", "bus"], tiny, levels=[1])
    other = tiny.with_options(attach_attention=(0,), record_attention=(2,), record_heads=True, levels=(0, 1, 2))
    assert torch.equal(segment(image, ["dog", "bus"], other, levels=[1]).scores, plain.scores)
    assert not torch.equal(segment(image, ["dog", "bus"], tiny, levels=[1], spread=0).scores, plain.scores)


def test_the_best_cut_of_a_small_graph_is_that_of_all_cuts():
    points = torch.tensor([0.0, 0.1, 0.25, 1.0, 1.2, 1.3])
    weights = torch.exp(-((points[:, None] - points) ** 2) * 8)
    costs = {}
    for number in range(1, 2**5):
        first = torch.tensor([number >> k & 1 for k in range(6)]).bool()
        crossing = float(weights[first][:, ~first].sum())
        costs[tuple(first.tolist())] = crossing / float(weights[first].sum()) + crossing / float(weights[~first].sum())
    is_first, cost = best_cut(weights)
    best = min(costs, key=costs.get)
    assert tuple(is_first.tolist()) in (best, tuple(not side for side in best))
    assert cost == pytest.approx(costs[best], rel=1e-4)


def test_a_graph_is_cut_until_cuts_cost_too_much():
    blocks = torch.block_diag(torch.ones(3, 3), torch.ones(5, 5), torch.ones(2, 2)) + 0.01
    assert recursive_cut(blocks, 0.5).tolist() == [1] * 3 + [0] * 5 + [2] * 2
    assert recursive_cut(blocks, 0.0).tolist() == [0] * 10
    assert recursive_cut(torch.ones(1, 1), 2.0).tolist() == [0]


def test_regions_have_the_size_of_the_image_and_more_of_them_at_a_higher_threshold(tiny):
    few, many = (regions(SCENE.image[:90], tiny, threshold=threshold) for threshold in (0.3, 0.7))
    assert few.shape == many.shape == (90, 128)
    assert 1 < len(few.unique()) < len(many.unique())


def test_invalid_arguments_are_explained(tiny, no_type_checker):
    with pytest.raises(OptionError, match=r"level 0 has 256 cells, more than 100. Choose a coarser level"):
        regions(SCENE.image, tiny, largest=100)
    with pytest.raises(OptionError, match=r"threshold must be from 0 to 2; got 3"):
        regions(SCENE.image, tiny, threshold=3)
    with pytest.raises(TypeError, match="backbone must be a TADPBackbone; got 'tadp-tiny'"):
        segment(SCENE.image, ["dog"], "tadp-tiny")
    with pytest.raises(ValueError, match="no names to attend to"):
        segment(SCENE.image, [], tiny)


def test_broken_features_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(tadp.Features, "broken", lambda self: {0: "the map of level 0 has NaN."})
    with pytest.raises(ImageError, match="the image cannot be segmented: the map of level 0 has NaN"):
        segment(SCENE.image, ["dog"], tiny)


def test_the_command_draws_names_or_regions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(SCENE.image).save("scene.png")
    ran = CliRunner().invoke(app, ["segment", "scene.png", "--names", "dog, bus", "--level", "1"])
    assert ran.exit_code == 0, ran.output
    rows = dict(line.split("  ") for line in ran.stdout.strip().splitlines())
    assert list(rows) == ["background", "dog", "bus"]
    assert np.isclose(sum(map(float, rows.values())), 1, atol=0.002)
    with Image.open("segments.png") as picture:
        assert picture.width >= 128
    ran = CliRunner().invoke(app, ["segment", "scene.png", "-o", "regions.png"])
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.startswith("region 0  ")
    for options, message in (
        (["--names", "dog,"], "names must be separated by commas"),
        (["--level", "0", "--level", "1"], "regions are those of one level"),
    ):
        wrong = CliRunner().invoke(app, ["segment", "scene.png", *options])
        assert wrong.exit_code == 2
        assert message in " ".join(wrong.output.replace("│", "").split())
