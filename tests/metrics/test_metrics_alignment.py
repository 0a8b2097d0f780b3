import math

import numpy as np
import pytest

from tadp.errors import CaptionError
from tadp.language import class_names
from tadp.language.class_names import VOC_CLASSES, VOC_DECOYS, VOC_SYNONYMS
from tadp.language.matching import mentions
from tadp.metrics import caption_alignment

NAMES = ("dog", "cat", "dining table", "bus", "person")


def test_figures_are_those_of_boolean_arrays():
    """An independent oracle: captions and classes are drawn as arrays and counted by NumPy."""
    rng = np.random.default_rng(0)
    mentioned, shown = rng.random((2, 200, len(NAMES))) < 0.4
    mentioned[:, 3] = False  # never mentioned
    shown[:, 4] = False  # never shown
    captions = [
        " and ".join(f"two {name}s" for name, flag in zip(NAMES, row, strict=True) if flag) for row in mentioned
    ]
    present = [{name for name, flag in zip(NAMES, row, strict=True) if flag} for row in shown]
    alignment = caption_alignment(captions, present, classes=NAMES)
    both = mentioned & shown
    assert alignment.precision == pytest.approx(both.sum() / mentioned.sum())
    assert alignment.recall == pytest.approx(both.sum() / shown.sum())
    with np.errstate(invalid="ignore"):
        precisions, recalls = both.sum(0) / mentioned.sum(0), both.sum(0) / shown.sum(0)
    for k, name in enumerate(NAMES):
        assert alignment.classes[name].precision == pytest.approx(precisions[k], nan_ok=True)
        assert alignment.classes[name].recall == pytest.approx(recalls[k], nan_ok=True)
    assert alignment.macro_precision == pytest.approx(np.nanmean(precisions))
    assert alignment.macro_recall == pytest.approx(np.nanmean(recalls))
    assert [set(names) for names in alignment.present] == present


def test_a_class_counts_once_an_image_however_often_it_is_said():
    alignment = caption_alignment(["a dog, a dog and three dogs"], [["dog", "dog"]])
    assert (alignment.classes["dog"].mentioned, alignment.classes["dog"].present, alignment.classes["dog"].both) == (
        1,
        1,
        1,
    )


def test_synonyms_plurals_and_names_of_several_words():
    captions = ["three women at a table", "a kitchen with a dining table"]
    present = [{"person", "dining table"}, {"dining table"}]
    assert caption_alignment(captions, present).recall == pytest.approx(1 / 3)
    assert caption_alignment(captions, present, synonyms={"person": ["woman"]}).recall == pytest.approx(2 / 3)
    assert caption_alignment(captions, present, synonyms={"person": ["woman"], "dining table": ["table"]}).recall == 1


def test_a_decoy_is_no_mention():
    captions = ["a hot dog", "a dog and a hot dog"]
    assert caption_alignment(captions, [set(), {"dog"}], classes=["dog"]).precision == 0.5
    alignment = caption_alignment(captions, [set(), {"dog"}], classes=["dog"], decoys=["hot dog"])
    assert (alignment.precision, alignment.recall) == (1, 1)
    assert list(alignment.classes) == ["dog"]


def test_without_a_list_captions_are_not_blamed_for_classes_that_no_image_shows():
    captions, present = ["a dog and a cat"], [{"dog"}]
    assert caption_alignment(captions, present).precision == 1
    assert caption_alignment(captions, present, classes=["dog", "cat"]).precision == 0.5


def test_what_cannot_be_said_is_nan():
    silent = caption_alignment(["", "grass"], [{"dog"}, set()])
    assert math.isnan(silent.precision)
    assert silent.recall == 0
    nothing = caption_alignment(["a dog"], [set()])
    assert math.isnan(nothing.precision)
    assert math.isnan(nothing.recall)
    assert math.isnan(nothing.macro_recall)


def test_captions_of_no_and_of_four_hundred_words():
    alignment = caption_alignment(["", "grass " * 400 + "dog"], [{"dog"}, {"dog"}])
    assert alignment.mentioned == ((), ("dog",))


@pytest.mark.parametrize(
    ("captions", "present", "error", "message"),
    [
        (["a dog", 3], [{"dog"}, {"dog"}], TypeError, "captions must be strings; got int as caption 1"),
        (["a dog", None], [{"dog"}, {"dog"}], TypeError, "captions must be strings; got NoneType as caption 1"),
        ("a dog", [{"dog"}], TypeError, "captions must be a list of strings.*Pass .caption."),
        (
            ["a dog"],
            ["dog"],
            TypeError,
            "present must hold a list of classes for each image; image 0 has the string 'dog'",
        ),
        (
            ["a dog"],
            [{"dog"}, {"cat"}],
            CaptionError,
            "there must be one caption per image.*; got 1 captions and the classes of 2 images",
        ),
        (["a dog", "a cat"], [{"dog"}], CaptionError, "got 2 captions and the classes of 1 images"),
        (None, [{"dog"}], TypeError, "captions must be a list with one entry per image, .*; got NoneType"),
        (["a dog"], {"1": {"dog"}}, TypeError, "present must be a list with one entry per image, .*; got dict"),
        (
            iter(["a dog"]),
            [{"dog"}],
            TypeError,
            "captions must be a list with one entry per image, .*; got list_iterator",
        ),
        (["a dog"], [None], TypeError, "a list of classes for each image, .. for none; image 0 has None"),
        ([], [], CaptionError, "no captions, so there is nothing to measure"),
        ([], [{"dog"}], CaptionError, "got 0 captions and the classes of 1 images"),
    ],
)
def test_what_is_no_list_of_captions_is_refused(captions, present, error, message, no_type_checker):
    with pytest.raises(error, match=message):
        caption_alignment(captions, present)


def test_a_class_that_is_not_listed_or_listed_twice_is_refused():
    with pytest.raises(ValueError, match=r"image 1 has 'cow', which is not one of the 1 classes. Add it to `classes`"):
        caption_alignment(["", ""], [{"dog"}, {"cow"}], classes=["dog"])
    with pytest.raises(ValueError, match="class names must be unique; 'dog' is class 0 and 2"):
        caption_alignment([""], [{"dog"}], classes=["dog", "cat", "dog"])


# The tables


def test_every_word_of_the_table_names_its_class_and_no_other():
    for name, words in VOC_SYNONYMS.items():
        for word in (name, *words):
            names = {mention.name for mention in mentions(f"a {word}", VOC_CLASSES, synonyms=VOC_SYNONYMS)}
            assert names == {name}, word


def test_the_table_has_no_other_classes_and_no_word_twice():
    assert set(VOC_SYNONYMS) == set(VOC_CLASSES)
    assert len(VOC_CLASSES) == len(set(VOC_CLASSES)) == 20
    words = [word for name, words in VOC_SYNONYMS.items() for word in (name, *words)]
    assert len(words) == len(set(words))


def test_every_decoy_would_be_taken_for_a_class_and_is_not():
    for decoy in VOC_DECOYS:
        assert mentions(f"a {decoy}", VOC_CLASSES, synonyms=VOC_SYNONYMS), decoy
        alignment = caption_alignment(
            [f"a {decoy}"], [set()], classes=VOC_CLASSES, synonyms=VOC_SYNONYMS, decoys=VOC_DECOYS
        )
        assert alignment.overall.mentioned == 0, decoy


def test_a_table_can_be_edited():
    edited = VOC_SYNONYMS | {"bottle": ("flask",)}
    assert caption_alignment(["two flasks"], [{"bottle"}], classes=VOC_CLASSES, synonyms=edited).recall == 1
    assert caption_alignment(["two flasks"], [{"bottle"}], classes=VOC_CLASSES, synonyms=VOC_SYNONYMS).recall == 0


@pytest.mark.parametrize("data_set", ["VOC", "WATERCOLOR", "COMIC", "CITYSCAPES", "ADE20K"])
def test_a_synonym_of_any_data_set_is_one_class_alone_and_no_class_itself(data_set):
    classes, synonyms = (getattr(class_names, f"{data_set}_{table}") for table in ("CLASSES", "SYNONYMS"))
    assert set(synonyms) <= set(classes)
    for name, words in synonyms.items():
        for word in words:
            assert {mention.name for mention in mentions(f"a {word}", classes, synonyms=synonyms)} == {name}, word


def test_what_is_a_class_of_its_own_elsewhere_is_no_synonym_there():
    captions = ["a van on the street", "a cyclist and a man", "a dog by the window"]
    present = [{"van", "road"}, {"person"}, {"animal", "windowpane"}]
    tables = {"classes": class_names.ADE20K_CLASSES, "synonyms": class_names.ADE20K_SYNONYMS}
    alignment = caption_alignment(captions, present, **tables)
    assert (alignment.precision, alignment.recall) == (1, 1)
    captions = ["a dresser and a billiard table in a shack", "a handrail by two wharves", "clothes on a hearth"]
    present = [{"chest of drawers", "pool table", "hovel"}, {"bannister", "pier"}, {"apparel", "fireplace"}]
    alignment = caption_alignment(captions, present, **tables)
    assert (alignment.precision, alignment.recall) == (1, 1)
    captions = ["a van on the street", "a cyclist and a man"]
    tables = {"classes": class_names.CITYSCAPES_CLASSES, "synonyms": class_names.CITYSCAPES_SYNONYMS}
    assert caption_alignment(captions[1:2], [{"rider", "person"}], **tables).recall == 1
