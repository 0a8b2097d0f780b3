"""The cross-domain protocol: which captions train and test, what stays unseen, and the table of a study."""

import json
import math
import pickle
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch

import tadp
from tadp.cleaning import Cleaner, RuleCleaner
from tadp.cleaning.cleaner import CleaningReport
from tadp.cleaning.domains import domain_of
from tadp.cross_domain import (
    ModifierTable,
    Protocol,
    Unlabelled,
    estimate,
    images_of,
    six_modifiers,
)
from tadp.datasets import RenderedScenes, Sample, collate
from tadp.errors import CaptionError, ModifierError
from tadp.modifiers import CaptionModifier
from tadp.personalize import RunOptions, dreambooth, learn_token

COMICS = RenderedScenes(6, seed=21, style="comic", size=64)
QUICK = RunOptions(steps=2, batch_size=1, progress=False, sample_every=0)


class Spy(Cleaner):
    """Keeps what it was given."""

    def __init__(self):
        self.domain, self.given = domain_of("comic"), []

    def clean(self, captions, *, progress=False):
        self.given.append(captions)
        return CleaningReport(self.domain, tuple(captions), tuple(f"clean {text}" for text in captions), {})


@pytest.fixture(scope="module")
def inverted():
    images = images_of(COMICS, count=2)
    template = "a <toon> style painting of {caption}"
    return learn_token(
        "tadp-tiny", images, token="<toon>", initializer="painting", template=template, options=replace(QUICK, lr=1.0)
    )


@pytest.fixture(scope="module")
def tuned():
    return dreambooth("tadp-tiny", images_of(COMICS, count=2), options=replace(QUICK, lr=1e-3))


# Captions


def test_the_source_is_said_under_the_modifier_and_nothing_else_changes():
    plain = RenderedScenes(3, seed=4, size=64)
    seen = Protocol(CaptionModifier.style("watercolor")).source(plain)
    assert seen.image_ids == plain.image_ids
    assert seen.report is None
    assert seen.data.class_names == plain.class_names
    for before, after in zip(plain, seen, strict=True):
        assert after.caption == f"a watercolor painting of {before.caption}"
        for name in ("image", "mask", "depth_m"):
            assert np.array_equal(getattr(before, name), getattr(after, name))
        assert torch.equal(before.boxes.boxes, after.boxes.boxes)


def test_the_target_is_cleaned_first_and_then_said_under_the_same_modifier():
    spy = Spy()
    seen = Protocol(CaptionModifier("{caption}, drawn"), cleaner=spy).target(COMICS)
    assert [sample.caption for sample in seen] == [f"clean {sample.caption}, drawn" for sample in COMICS]
    assert spy.given == [[sample.caption for sample in COMICS]]  # only strings, and only once
    assert seen.report.before == tuple(sample.caption for sample in COMICS)


def test_without_a_cleaner_the_targets_captions_keep_the_domain():
    assert [sample.caption for sample in Protocol().target(COMICS)] == [sample.caption for sample in COMICS]


def test_captions_of_a_table_are_cleaned_without_reading_an_image():
    class Closed(RenderedScenes):
        def __getitem__(self, index):
            raise AssertionError("an image was read")

    table = dict.fromkeys(COMICS.image_ids, "a comic of two dogs")
    Protocol(cleaner=RuleCleaner("comic")).target(Closed(6, seed=21, style="comic"), captions=table)
    seen = Protocol(cleaner=RuleCleaner("comic")).target(COMICS, captions=table)
    assert {sample.caption for sample in seen} == {"two dogs"}


def test_what_could_not_be_cleaned_is_told():
    with pytest.warns(UserWarning, match="1 of 6 captions could not be cleaned"):
        seen = Protocol(cleaner=RuleCleaner("comic")).target(
            COMICS, captions=dict.fromkeys(COMICS.image_ids, "a dog") | {COMICS.image_ids[2]: "a comic"}
        )
    assert list(seen.report.failures) == [2]


@pytest.mark.parametrize("cleaner", [None, RuleCleaner("comic")])
def test_an_image_without_a_caption_is_named(cleaner):
    bare = [Sample(np.zeros((8, 8, 3), np.uint8), "bare.jpg")]
    with pytest.raises(CaptionError, match=r"image 'bare.jpg' has no caption to .*captions="):
        Protocol(cleaner=cleaner).target(bare)[0]


def test_a_view_goes_to_the_workers_of_a_loader():
    seen = Protocol(CaptionModifier.style("comic")).source(COMICS)
    assert pickle.loads(pickle.dumps(seen))[1].caption == seen[1].caption


# No label of the target


@pytest.mark.parametrize("label", ["mask", "depth_m", "boxes"])
def test_an_unlabelled_image_has_no_label_to_look_at(label):
    unlabelled = Unlabelled(COMICS)[0]
    assert np.array_equal(unlabelled.image, COMICS[0].image)
    assert unlabelled.caption == COMICS[0].caption
    with pytest.raises(AttributeError, match=f"image without labels here.*read {label} from the data set itself"):
        getattr(unlabelled, label)
    assert label not in vars(unlabelled)


class Watched:
    """A data set whose labels must not be touched."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        class Guarded:
            image, image_id, caption = np.full((64, 64, 3), index, np.uint8), str(index), "a comic of a dog"

            def __getattr__(self, name):
                raise AssertionError(f"{name} was looked at")

        return Guarded()


def test_cleaning_and_personalisation_never_touch_a_label():
    Protocol(cleaner=RuleCleaner("comic")).target(Watched())
    images = images_of(Watched(), count=3)
    assert all(type(image) is np.ndarray for image in images)
    learn_token("tadp-tiny", images, token="<w>", initializer="painting", options=QUICK)


def test_images_are_drawn_once_each_and_by_the_seed():
    first = [image[0, 0, 0] for image in images_of(Watched(), count=4, seed=1)]
    assert sorted(first) == [0, 1, 2, 3]
    assert [image[0, 0, 0] for image in images_of(Watched(), count=4, seed=1)] == first
    assert any([image[0, 0, 0] for image in images_of(Watched(), count=4, seed=seed)] != first for seed in range(5))
    with pytest.raises(ValueError, match="count must be from 1 to the data set's number of images, 4; got 5"):
        images_of(Watched(), count=5)


# Modifiers


def test_the_six_modifiers_are_the_papers_in_its_order(inverted, tuned):
    six = six_modifiers("comic", inverted=inverted, tuned=tuned)
    assert {kind: modifier("a dog")[0] for kind, modifier in six.items()} == {
        "null": "a dog",
        "simple": "a comic style painting of a dog",
        "textual_inversion": "a <toon> style painting of a dog",
        "dreambooth": "a sks style painting of a dog",
        "nearby": "a constructivism painting of a dog",
        "unrelated": "a dashcam photo of a dog",
    }
    assert list(six) == ["null", "simple", "textual_inversion", "dreambooth", "nearby", "unrelated"]
    assert [kind for kind, one in six.items() if one.brings_unet] == ["dreambooth"]


def test_modifiers_that_were_not_learned_are_refused(no_type_checker):
    with pytest.raises(ModifierError, match="inverted must be a modifier with a token, as learn_token returns"):
        six_modifiers("comic", inverted=CaptionModifier())
    with pytest.raises(ModifierError, match="tuned must be a modifier with a U-Net, as dreambooth returns"):
        six_modifiers("comic", tuned=CaptionModifier())
    with pytest.raises(ModifierError, match="unknown domain 'fog'"):
        six_modifiers("fog")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["inverted", "tuned"])
@pytest.mark.parametrize("from_parts", [False, True])
def test_a_model_with_an_installed_modifier_trains_and_reloads_to_the_same_predictions(
    kind, from_parts, tmp_path, request
):
    protocol = Protocol(request.getfixturevalue(kind), cleaner=RuleCleaner("comic"))
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    if from_parts:
        backbone._source = None
    sample = protocol.target(COMICS)[0]
    names = COMICS.class_names
    with protocol.installed(backbone):
        model = tadp.TADPForSemanticSegmentation(
            backbone, class_names=names, head="linear", tune="nothing", window_px=64
        )
        batch = collate(list(protocol.source(COMICS))[:2])
        model(batch.images, batch.captions, batch.masks).loss.backward()
        torch.optim.SGD(model.head.parameters(), lr=0.1).step()
        scores = model.predict(sample.image, sample.caption).scores
        model.save_pretrained(tmp_path / "model")
    again = tadp.TADPForSemanticSegmentation.from_pretrained(tmp_path / "model")
    assert torch.equal(again.predict(sample.image, sample.caption).scores, scores)
    plain = model.predict(sample.image, CaptionModifier()(COMICS[0].caption)[0]).scores  # without the modifier
    assert not torch.equal(plain, scores)


# The table


def test_intervals_are_students():
    from scipy import stats

    rng = np.random.default_rng(0)
    for count in (2, 3, 5, 31, 32, 100):
        values = rng.normal(0.5, 0.1, count).tolist()
        half = stats.t.ppf(0.975, count - 1) * statistics.stdev(values) / math.sqrt(count)
        result = estimate(values)
        assert result.mean == pytest.approx(np.mean(values))
        assert result.half_width == pytest.approx(half, rel=2e-4)


def test_the_sign_is_told_where_the_interval_leaves_zero():
    assert [estimate(values).sign for values in ([1.0, 1.1, 1.2], [-1.0, -1.1, -1.2], [-1.0, 1.0], [0.5])] == [
        1, -1, 0, 0,
    ]  # fmt: skip
    assert str(estimate([0.5])) == "0.500"
    with pytest.raises(ValueError, match="an estimate needs at least one value"):
        estimate([])


def test_differences_are_taken_seed_by_seed():
    table = ModifierTable({"null": {"x": {0: 0.1, 1: 0.5}}, "simple": {"x": {1: 0.6, 0: 0.2, 7: 0.9}, "y": {0: 1.0}}})
    away = table.difference("simple", "x")
    assert (round(away.mean, 6), round(away.half_width, 6), away.count) == (0.1, 0.0, 2)
    assert table.difference("simple", "y") is None
    assert table.value("null", "y") is None
    assert table.columns == ["x", "y"]
    assert "| simple | 0.567 ± 0.872 | +0.100 ± 0.000 | 1.000 |" in table.markdown(compared=["x"])
    assert (
        ModifierTable({"plain": {"x": {0: 0.1}}}, null="plain")
        .markdown()
        .startswith("| modifier | x | x, minus plain |")
    )
    rows = json.loads(table.to_json())["rows"]
    assert rows["simple"]["x"]["seeds"] == {"1": 0.6, "0": 0.2, "7": 0.9}
    assert rows["simple"]["x"]["difference_mean"] == pytest.approx(0.1)
    assert rows["simple"]["y"]["half_width"] is None


def test_a_table_has_a_row_to_compare_with():
    with pytest.raises(ValueError, match="the row to compare with, 'null', is missing; there are simple"):
        ModifierTable({"simple": {}})


def test_a_table_is_read_from_its_own_json():
    table = ModifierTable({"null": {"x": {0: 0.1, 1: 0.5}}, "simple": {"x": {0: 0.2, 1: 0.7}}})
    rows = json.loads(table.to_json())["rows"]
    again = ModifierTable({row: {name: one["seeds"] for name, one in rows[row].items()} for row in rows})
    assert again.markdown() == table.markdown()
    half = ModifierTable({"null": table.figures["null"], "simple": again.figures["simple"]})
    assert half.difference("simple", "x") == table.difference("simple", "x")


@pytest.mark.parametrize(
    ("seeds", "error", "match"),
    [
        (
            [0.5, 0.6],
            TypeError,
            r"row 'null', column 'x' must be given by seed, such as \{0: 0.50, 1: 0.54\}; got list",
        ),
        (0.5, TypeError, r"got float"),
        ({"first": 0.5}, ValueError, r"a seed must be a whole number; got 'first'"),
        ({0: 0.5, 1: math.nan}, ValueError, r"the figure of seed 1 is nan. Leave it out"),
    ],
)
def test_figures_that_are_none_are_refused(seeds, error, match, no_type_checker):
    with pytest.raises(error, match=match):
        ModifierTable({"null": {"x": seeds}})


@pytest.mark.parametrize("captions", [["a dog"], "captions.json"])
def test_captions_of_a_target_go_by_id(captions, no_type_checker):
    with pytest.raises(
        TypeError, match=r"captions must be given by image id.*got (list|str). Open a caption file with CaptionTable"
    ):
        Protocol().target(COMICS, captions=captions)


def test_names_are_no_parts_of_a_protocol(no_type_checker):
    with pytest.raises(TypeError, match=r"modifier must be a CaptionModifier; got 'comic'"):
        Protocol("comic")
    with pytest.raises(TypeError, match=r"cleaner must be a Cleaner; got 'comic'. Pass RuleCleaner\('comic'\)"):
        Protocol(cleaner="comic")


def test_an_unlabelled_image_is_shown_in_a_line():
    assert repr(Unlabelled(RenderedScenes(1, seed=1, style="comic"))[0]) == "UnlabelledImage('comic-1-000000', 128x128)"
