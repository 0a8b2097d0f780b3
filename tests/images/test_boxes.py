import copy
import pickle

import pytest
import torch

from tadp.images.boxes import Boxes, Detections

TWO = torch.tensor([[0.0, 0, 1, 1], [-3, 2, 10.5, 8]])
LABELS = torch.tensor([0, 4])
SCORES = torch.tensor([0.9, 0.1])


def test_boxes_keep_what_they_are_given():
    boxes = Boxes(TWO, LABELS, torch.tensor([True, False]))
    assert len(boxes) == 2
    assert torch.equal(boxes.boxes, TWO)
    assert torch.equal(boxes.labels, LABELS)
    assert boxes.difficult is not None
    assert boxes.difficult.tolist() == [True, False]
    assert Boxes(TWO, LABELS).difficult is None


def test_an_image_may_have_no_boxes():
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert len(Boxes(*none, torch.zeros(0, dtype=torch.bool))) == 0
    assert len(Detections(*none, torch.zeros(0))) == 0


@pytest.mark.parametrize("box", [(2.0, 3, 2, 8), (2.0, 3, 8, 3), (8.0, 3, 2, 8), (2.0, 8, 8, 3)])
def test_a_box_without_area_is_refused_by_its_number(box):
    boxes = torch.tensor([(0.0, 0, 1, 1), box])
    expected = rf"box 1 \({', '.join(f'{value:g}' for value in box)}\) has no area.*with left < right"
    with pytest.raises(ValueError, match=expected):
        Boxes(boxes, LABELS)
    with pytest.raises(ValueError, match=expected):
        Detections(boxes, LABELS, SCORES)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_coordinate_that_is_no_number_is_refused(value):
    boxes = TWO.clone()
    boxes[1, 2] = value
    with pytest.raises(ValueError, match=rf"coordinates must be finite; got box 1 \(-3, 2, {value}, 8\)"):
        Boxes(boxes, LABELS)


def test_a_negative_label_is_refused():
    with pytest.raises(ValueError, match=r"labels must be 0 or more: classes count from 0, without background; got -1"):
        Boxes(TWO, torch.tensor([-1, 3]))


def test_counts_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"there must be one label per box; got 2 boxes and 1 labels"):
        Boxes(TWO, LABELS[:1])
    with pytest.raises(ValueError, match=r"difficult must have one value per box; got 2 boxes and 3 values"):
        Boxes(TWO, LABELS, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"scores must have one value per box; got 2 boxes and 1 values"):
        Detections(TWO, LABELS, SCORES[:1])


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"scores must be finite; got nan"):
        Detections(TWO, LABELS, torch.tensor([0.5, float("nan")]))


@pytest.mark.usefixtures("no_type_checker")
def test_other_kinds_are_refused_with_what_is_wanted():
    with pytest.raises(TypeError, match=r"boxes must be a tensor; got list. Pass torch.as_tensor\(boxes\)"):
        Boxes([[0.0, 0, 1, 1]], LABELS[:1])  # type: ignore
    with pytest.raises(TypeError, match=r"float tensor \(N, 4\).*got torch.int64 \(1, 4\)"):
        Boxes(torch.tensor([[0, 0, 1, 1]]), LABELS[:1])
    with pytest.raises(TypeError, match=r"got torch.float32 \(0,\). For no boxes, pass torch.zeros\(0, 4\)"):
        Boxes(torch.tensor([]), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"labels must be an int64 tensor \(N,\); got torch.float32 \(2,\)"):
        Boxes(TWO, SCORES)
    with pytest.raises(TypeError, match=r"difficult must be a bool tensor \(N,\); got torch.int64 \(2,\)"):
        Boxes(TWO, LABELS, LABELS)
    with pytest.raises(TypeError, match=r"scores must be a float tensor \(N,\); got torch.int64 \(2,\)"):
        Detections(TWO, LABELS, LABELS)


def test_moving_and_copying_keep_all():
    for copy_of in (copy.deepcopy, lambda boxes: pickle.loads(pickle.dumps(boxes)), lambda boxes: boxes.to("cpu")):
        boxes = copy_of(Boxes(TWO, LABELS, torch.tensor([True, False])))
        assert torch.equal(boxes.boxes, TWO)
        assert torch.equal(boxes.labels, LABELS)
        assert boxes.difficult.tolist() == [True, False]
        detections = copy_of(Detections(TWO, LABELS, SCORES))
        assert torch.equal(detections.scores, SCORES)


def test_a_result_prints_its_count_and_no_numbers():
    assert repr(Boxes(TWO, LABELS)) == "Boxes(2 boxes)"
    assert repr(Detections(TWO[:1], LABELS[:1], SCORES[:1])) == "Detections(1 box)"
