"""Rendered scenes are reproducible, and their labels agree with each other and with the picture."""

from collections import OrderedDict

import numpy as np
import pytest

from tadp.datasets.scenes import (
    BACKGROUNDS,
    CLASSES,
    COLORS,
    MAX_DEPTH_M,
    STYLES,
    Scenes,
    restyle,
    sample_layout,
)
from tadp.datasets.scenes.scene import VISIBLE_SHARE, is_rendered

SCENES = list(Scenes(40, seed=11))


def test_the_same_seed_gives_the_same_pixels_and_another_seed_does_not():
    repeated, different = Scenes(40, seed=11)[3], Scenes(40, seed=12)[3]
    assert (repeated.image == SCENES[3].image).all()
    assert repeated.caption() == SCENES[3].caption()
    assert (different.image != SCENES[3].image).any()


def test_a_scene_does_not_depend_on_how_many_there_are():
    assert (Scenes(5, seed=11)[3].image == SCENES[3].image).all()


def test_the_last_scenes_are_recognised_by_their_pixels(monkeypatch):
    monkeypatch.setattr("tadp.datasets.scenes.scene._REMEMBERED", 1)
    monkeypatch.setattr("tadp.datasets.scenes.scene._rendered", OrderedDict())
    first, second = (Scenes(2, seed=9, style="comic")[number].image for number in range(2))
    assert is_rendered(second.copy())
    assert not is_rendered(first)
    assert not is_rendered(second + 1)


def test_negative_indices_count_from_the_end_and_others_are_refused():
    assert (Scenes(5, seed=11)[-2].image == SCENES[3].image).all()
    with pytest.raises(IndexError, match="scene 5 of 5"):
        Scenes(5)[5]


def test_images_masks_and_depth_have_one_size():
    for size in (32, 97, 128):
        scene = Scenes(1, size=size)[0]
        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.mask.shape == scene.depth_m.shape == (size, size)


def test_boxes_are_tight_around_the_masks():
    for scene in SCENES:
        for (left, top, right, bottom), label in zip(scene.boxes.astype(int), scene.labels, strict=True):
            rows, columns = np.nonzero(scene.mask == label)
            assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_an_object_is_visible_from_its_share_of_pixels_up():
    for scene in SCENES:
        seen = {CLASSES[label - 1] for label in np.unique(scene.mask) if label}
        visible = {name for name in seen if (scene.mask == CLASSES.index(name) + 1).mean() >= VISIBLE_SHARE}
        assert set(scene.names) == visible
        assert np.allclose(scene.shares, [(scene.mask == label).mean() for label in scene.labels])


def test_depth_is_that_of_the_object_in_front_and_grows_to_the_horizon():
    for scene in SCENES:
        for scene_object, label in zip(scene.visible, scene.labels, strict=True):
            assert np.allclose(scene.depth_m[scene.mask == label], scene_object.distance_m)
        ground = np.where(scene.mask == 0, scene.depth_m, np.nan)
        assert scene.depth_m.max() == MAX_DEPTH_M
        for column in (0, 64, 127):
            rows = ground[:, column][~np.isnan(ground[:, column])]
            assert (np.diff(rows) <= 0).all()


def test_nearer_objects_hide_farther_ones():
    for scene in SCENES:
        distances = [scene_object.distance_m for scene_object in scene.layout.objects]
        assert distances == sorted(distances, reverse=True)


def test_the_plain_caption_names_every_visible_object_left_to_right_with_its_colour_and_the_place():
    for scene in SCENES:
        words = scene.caption().replace(",", "").split()
        assert [word for word in words if word in CLASSES] == scene.names
        assert [word for word in words if word in COLORS] == [scene_object.color for scene_object in scene.visible]
        assert scene.caption().endswith(BACKGROUNDS[scene.layout.background][0])


def test_other_forms_of_a_caption_never_name_what_is_not_there():
    rng = np.random.default_rng(0)
    for scene in SCENES:
        for _ in range(5):
            named = {word for word in scene.caption(rng).replace(",", "").split() if word in CLASSES}
            assert named == set(scene.names)


def test_long_captions_begin_with_the_plain_one_and_fit_a_text_encoder():
    for scene in SCENES:
        long = scene.caption(long=True)
        assert long.startswith(scene.caption() + ". ")
        assert len(long.replace(",", " ,").replace(".", " .").split()) <= 75


def test_a_style_changes_the_picture_and_the_words_and_nothing_else():
    plain = SCENES[0]
    for style in STYLES[1:]:
        styled = restyle(plain.layout, style).render(128)
        assert np.abs(styled.image.astype(int) - plain.image).mean() > 5
        assert (styled.mask == plain.mask).all()
        assert (styled.depth_m == plain.depth_m).all()
        assert plain.caption() in styled.caption()
        assert styled.caption() != plain.caption()


def test_night_is_dark_and_watercolor_is_pale():
    mean = {style: np.mean([restyle(s.layout, style).render(64).image for s in SCENES[:10]]) for style in STYLES}
    assert mean["night"] < 0.6 * mean["plain"]
    assert mean["watercolor"] > mean["plain"]


def test_mixed_styles_are_mostly_plain():
    rng = np.random.default_rng(0)
    styles = [sample_layout(rng, style=None).style for _ in range(400)]
    assert 0.6 < styles.count("plain") / 400 < 0.8
    assert set(styles) == set(STYLES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": -1}, "count must be 0 or more"),
        ({"count": 1, "max_objects": 5}, "max_objects 1 to 4; got 1 and 5"),
        ({"count": 1, "style": "oil"}, "style must be one of plain, watercolor, comic, night, None; got 'oil'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, no_type_checker):
    with pytest.raises(ValueError, match=message):
        Scenes(**arguments)


def test_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match=r"at 32 to 4096 px; got 16\. Render it"):
        Scenes(1, size=16)[0]


@pytest.mark.parametrize("size", [4097, 10**6, 10**30])
def test_a_size_that_may_not_fit_into_memory_is_refused(size):
    message = rf"a scene must be rendered at 32 to 4096 px; got {size}\. Render it smaller, and resize"
    with pytest.raises(ValueError, match=message):
        Scenes(1, size=size)
    with pytest.raises(ValueError, match=message):
        SCENES[0].layout.render(size)


def test_a_slice_is_a_list_of_scenes():
    scenes = Scenes(5, seed=3, size=32)
    assert [scene.caption() for scene in scenes[1:4:2]] == [scenes[1].caption(), scenes[3].caption()]
    assert scenes[:0] == []
