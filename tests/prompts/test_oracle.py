import random
import warnings

import numpy as np
import pytest

from tadp import prompts
from tadp.datasets.scenes import CLASSES as SCENE_CLASSES
from tadp.datasets.scenes import sample_layout
from tadp.prompts import Agreement, agreement, oracle, oracle_classes

CLASSES = [f"class {number}" for number in range(20)]
CELLS = [(precision, recall) for precision in (0.5, 0.75, 1.0) for recall in (0.5, 0.75, 1.0)]


def scenes(count: int, *, classes: list[str] = CLASSES, seed: int = 0) -> list[list[str]]:
    """Draw the classes in `count` images: mostly one to three, sometimes none."""
    rng = random.Random(seed)
    return [rng.sample(classes, rng.choice([0, 1, 1, 2, 2, 3, 5])) for _ in range(count)]


def counted(named: list[list[str]], present: list[list[str]]) -> tuple[float, float]:
    """Compute precision and recall independently, by counting pairs of image and name."""
    mentioned = {(number, name) for number, names in enumerate(named) for name in names}
    there = {(number, name) for number, names in enumerate(present) for name in names}
    return len(mentioned & there) / len(mentioned), len(mentioned & there) / len(there)


def test_a_perfect_oracle_names_what_is_there_in_the_order_of_the_classes():
    classes = ["cat", "dog", "dining_table"]
    assert oracle([["dining_table", "cat"], [], ["dog"], ["dog", "dog"]], classes) == [
        "cat dining table",
        "",
        "dog",
        "dog",
    ]


@pytest.mark.parametrize(("precision", "recall"), CELLS)
def test_precision_and_recall_are_those_asked_for(precision, recall):
    present = scenes(2000)
    named = oracle_classes(present, CLASSES, precision=precision, recall=recall, seed=3)
    realised = counted(named, present)
    assert realised == pytest.approx((precision, recall), abs=0.01)
    measured = agreement(named, present)
    assert (measured.precision, measured.recall) == pytest.approx(realised)


@pytest.mark.parametrize(("precision", "recall"), CELLS)
def test_it_holds_on_the_scenes_that_tadp_renders(precision, recall):
    present = [[placed.name for placed in sample_layout(np.random.default_rng((0, k))).objects] for k in range(2000)]
    named = oracle_classes(present, SCENE_CLASSES, precision=precision, recall=recall)
    realised = counted(named, [sorted(set(names)) for names in present])
    print(f"asked {precision}, {recall}: realised {realised[0]:.4f}, {realised[1]:.4f}")
    assert realised == pytest.approx((precision, recall), abs=0.01)


@pytest.mark.parametrize("count", [1, 3, 10, 60])
def test_whole_numbers_are_as_near_as_they_can_be(count):
    """If any pair of numbers is within 0.01 of both figures, then so is ours."""
    present = scenes(count, seed=count)
    total = sum(map(len, present))
    room = sum(len(CLASSES) - len(names) for names in present if names)
    for precision in (0.31, 0.5, 0.62, 0.75, 0.9):
        for recall in (0.1, 0.5, 0.67, 0.75, 0.99, 1.0):
            permitted = any(
                abs(right / total - recall) <= 0.01 and abs(right / (right + false) - precision) <= 0.01
                for right in range(1, total + 1)
                for false in range(min(room, 3 * total) + 1)
            )
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                got = agreement(oracle_classes(present, CLASSES, precision=precision, recall=recall), present)
            if permitted:
                assert (got.precision, got.recall) == pytest.approx((precision, recall), abs=0.01 + 1e-9)
            assert abs(got.recall - recall) <= max(0.01, 0.5 / total) + 1e-9


def test_an_image_keeps_its_share_rounded_up_or_down_and_gets_false_names_by_the_same_rule():
    present = scenes(500)
    named = oracle_classes(present, CLASSES, precision=0.5, recall=0.75)
    for names, there in zip(named, present, strict=True):
        kept = len(set(names) & set(there))
        share = 0.75 * len(there)
        assert share - 1 < kept < share + 1
        assert share - 1 < len(names) - kept < share + 1
        assert len(set(names)) == len(names)
        assert names == sorted(names, key=CLASSES.index)
        assert there or names == []


def test_a_seed_gives_the_same_and_another_gives_others():
    present = scenes(200)
    first = oracle(present, CLASSES, precision=0.5, recall=0.5, seed=1)
    assert oracle(present, CLASSES, precision=0.5, recall=0.5, seed=1) == first
    assert oracle(present, CLASSES, precision=0.5, recall=0.5, seed=2) != first


def test_a_seed_drops_the_same_whatever_the_precision():
    present = scenes(500)
    kept = [
        [set(names) & set(there) for names, there in zip(named, present, strict=True)]
        for named in (oracle_classes(present, CLASSES, precision=p, recall=0.5) for p in (0.5, 0.75, 1.0))
    ]
    assert kept[0] == kept[1] == kept[2]


def test_each_class_is_as_likely_to_be_dropped_and_added():
    """The counts are within five standard deviations of a fair draw."""
    present = [["class 0", "class 1", "class 2", "class 3"]] * 4000
    named = oracle_classes(present, CLASSES, precision=0.5, recall=0.5)
    for name in CLASSES:
        seen = sum(name in names for names in named)
        chance = 0.5 if name in present[0] else 2 / 16
        assert abs(seen - 4000 * chance) < 5 * (4000 * chance * (1 - chance)) ** 0.5, name


def test_strings_and_lists_are_one_draw():
    present = scenes(50)
    named = oracle_classes(present, CLASSES, precision=0.75, recall=0.5, seed=9)
    assert oracle(present, CLASSES, precision=0.75, recall=0.5, seed=9) == [" ".join(names) for names in named]


def test_nothing_there_names_nothing():
    assert oracle([[], []], ["dog", "cat"], precision=0.5) == ["", ""]
    assert oracle([], ["dog"]) == []
    assert oracle([["dog"]], ["dog", "cat"], precision=0.5, recall=0) == [""]


def test_where_there_is_no_room_for_false_names_it_says_so():
    present = [["a", "b"], ["a", "b"], ["a", "b"], ["a"]]
    with pytest.warns(UserWarning, match=r"0.5 needs 7 false names, but these images have room for 1; .* 0.875"):
        named = oracle_classes(present, ["a", "b"], precision=0.5)
    assert named == [["a", "b"]] * 4


def test_false_names_go_where_there_is_room():
    """The first image has all classes but one, and would get nine false names."""
    present = [CLASSES[:19], ["class 0"], ["class 1"]]
    named = oracle_classes(present, CLASSES, precision=0.5)
    assert counted(named, present) == pytest.approx((0.5, 1.0), abs=0.01)
    assert named[0] == CLASSES


def test_agreement_is_undefined_without_names_or_without_what_is_there():
    assert agreement([["a"]], [["a"]]) == Agreement(mentioned=1, present=1, both=1)
    nothing = agreement([[]], [["a"]])
    assert nothing.precision != nothing.precision
    assert nothing.recall == 0
    assert agreement([["a"]], [[]]).recall != agreement([["a"]], [[]]).recall
    with pytest.raises(ValueError, match=r"there must be one list of names per image; got 1 named, 2 present"):
        agreement([["a"]], [["a"], []])


@pytest.mark.parametrize("precision", [0, -0.5, 1.01, float("nan")])
def test_a_precision_out_of_range_is_refused(precision):
    with pytest.raises(ValueError, match=r"precision must be above 0 and at most 1; got .*pass recall=0"):
        oracle([["dog"]], ["dog"], precision=precision)


@pytest.mark.parametrize("recall", [-0.1, 1.5, float("nan")])
def test_a_recall_out_of_range_is_refused(recall):
    with pytest.raises(ValueError, match=r"recall must be from 0 to 1; got"):
        oracle([["dog"]], ["dog"], recall=recall)


def test_a_class_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"image 1 has 'zebra', which is not one of the 2 classes"):
        oracle([["dog"], ["cat", "zebra"]], ["dog", "cat"])


def test_a_flat_list_is_refused():
    with pytest.raises(TypeError, match=r"a list of classes for each image; image 0 has the string 'dog'"):
        oracle(["dog", "cat"], ["dog", "cat"])


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (None, r"present must hold a list of classes for each image; got NoneType"),
        ("dog", r"present must hold a list of classes for each image; got str"),
        ({"a.jpg": ["dog"]}, r"present must hold a list of classes for each image; got dict"),
        ([["dog"], None], r"a list of classes for each image, \[\] for none; image 1 has None"),
    ],
)
def test_what_is_no_list_of_lists_is_refused(no_type_checker, present, message):
    with pytest.raises(TypeError, match=message):
        oracle(present, ["dog", "cat"])


def test_a_seed_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"seed must be 0 or more; got -1"):
        oracle([["dog"]], ["dog"], seed=-1)


def test_prompts_offers_the_oracle():
    assert prompts.oracle is oracle
