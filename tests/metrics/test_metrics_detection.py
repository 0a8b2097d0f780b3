import math
import pickle
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch

from tadp.images.boxes import Boxes, Detections
from tadp.metrics import COCO_IOUS, BoxesAbove, VOCDetection

NAMES = ("cat", "dog", "dining table", "bus")
SIZE = 40


def boxes_of(rows, labels, difficult=None):
    boxes = torch.tensor(rows, dtype=torch.float32).view(-1, 4)
    flags = None if difficult is None else torch.tensor(difficult, dtype=torch.bool)
    return Boxes(boxes, torch.tensor(labels, dtype=torch.int64), flags)


def detections_of(rows, labels, scores):
    boxes = torch.tensor(rows, dtype=torch.float32).view(-1, 4)
    return Detections(boxes, torch.tensor(labels, dtype=torch.int64), torch.tensor(scores, dtype=torch.float32))


def random_images(seed=0, images=30):
    """Boxes of whole pixels, so that pixels can be counted; detections near them, doubled, misplaced and mislabelled.

    The last of the four classes never occurs in the truth. All scores differ.
    """
    rng = np.random.default_rng(seed)
    detections, truth = [], []
    for index in range(images):
        corners = rng.integers(0, SIZE - 12, (rng.integers(0, 5), 2))
        rows = np.concatenate([corners, corners + rng.integers(4, 12, corners.shape)], axis=1)
        labels = rng.integers(0, 3, len(rows))
        near = np.repeat(rows, 3, axis=0)
        near[:, :2] += rng.integers(-2, 1, (len(near), 2))
        near[:, 2:] += rng.integers(0, 3, (len(near), 2))
        near = near[rng.random(len(near)) < 0.8]
        stray = rng.integers(0, 20, (rng.integers(0, 3), 2))
        near = np.concatenate([near, np.concatenate([stray, stray + 10], axis=1)])
        guesses = rng.integers(0, 4, len(near))
        for row, box in enumerate(near):  # most get the class of a box close by
            shared = [k for k, edges in enumerate(rows) if rng.random() < 0.8 and np.abs(edges - box).max() < 4]
            guesses[row] = labels[shared[0]] if shared else guesses[row]
        scores = (rng.permutation(len(near)) * images + index) / 1000
        detections.append(detections_of(near.tolist(), guesses.tolist(), scores.tolist()))
        truth.append(boxes_of(rows.tolist(), labels.tolist(), (rng.random(len(rows)) < 0.25).tolist()))
    return detections, truth


# The oracle counts pixels to get overlaps, with exact fractions, for one class and one image at a time.


@cache
def pixels(box):
    return frozenset((x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3])))


def overlap_of(box, other_box):
    first, second = pixels(tuple(box)), pixels(tuple(other_box))
    return Fraction(len(first & second), len(first | second))


def slowly(detections, truth, label, iou):
    """Judge each detection of a class, from the highest score down, and count the boxes to find."""
    lines = sorted(
        (-score, image, row)
        for image, detected in enumerate(detections)
        for row, (score, guess) in enumerate(zip(detected.scores.tolist(), detected.labels.tolist(), strict=True))
        if guess == label
    )
    hard = [[False] * len(boxes) if boxes.difficult is None else boxes.difficult.tolist() for boxes in truth]
    used, right = set(), []
    for _, image, row in lines:
        best = max(
            (
                (overlap_of(detections[image].boxes[row].tolist(), box), -number)
                for number, (box, true_label) in enumerate(
                    zip(truth[image].boxes.tolist(), truth[image].labels.tolist(), strict=True)
                )
                if true_label == label
            ),
            default=(Fraction(0), 0),
        )
        target = (image, -best[1])
        if best[0] < Fraction(str(iou)):
            right.append(False)
        elif not hard[image][target[1]]:
            right.append(target not in used)
            used.add(target)
    count = sum(
        true_label == label and not flag
        for boxes, flags in zip(truth, hard, strict=True)
        for true_label, flag in zip(boxes.labels.tolist(), flags, strict=True)
    )
    return right, count


def average_of(right, count, rule):
    points = [(Fraction(sum(right[:n]), count), Fraction(sum(right[:n]), n)) for n in range(1, len(right) + 1)]

    if rule == "voc12":
        best = [max((p for r, p in points if r >= Fraction(k, count)), default=0) for k in range(1, count + 1)]
        return float(sum(best) / count)
    # The points and the recalls are floating point numbers in the devkit.
    reached = [[precision for recall, precision in points if float(recall) >= k * 0.1] for k in range(11)]
    return float(sum(max(precisions, default=0) for precisions in reached) / 11)


def measured(detections, truth, **settings):
    metric = VOCDetection(NAMES, **settings)
    metric.update(detections, truth)
    return metric.compute()


@pytest.mark.parametrize("rule", ["voc07", "voc12"])
@pytest.mark.parametrize("iou", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("seed", [0, 1])
def test_average_precision_is_that_of_counted_pixels(rule, iou, seed):
    detections, truth = random_images(seed)
    result = measured(detections, truth, rule=rule, iou=iou)
    expected = []
    for label in range(3):
        right, count = slowly(detections, truth, label, iou)
        assert 0 < sum(right) < len(right)
        expected.append(average_of(right, count, rule))
        assert result.ap[NAMES[label]] == pytest.approx(expected[-1], rel=1e-12)
    assert math.isnan(result.ap["bus"])  # detected, but never in the truth
    assert result.map == pytest.approx(np.mean(expected))


def test_the_random_images_have_every_case():
    """Without all of these cases, the test above would prove less."""
    detections, truth = random_images()
    verdicts = VOCDetection(NAMES)
    verdicts.update(detections, truth)
    counted = np.concatenate([judged[2] for judged in verdicts._judged]).ravel()
    assert {-1, 0, 1} == set(counted.tolist())
    assert any(len(boxes) == 0 for boxes in truth)
    assert any(len(detected) == 0 for detected in detections)
    scores = torch.cat([detected.scores for detected in detections])
    assert len(scores.unique()) == len(scores)
    labels = [boxes.labels.tolist() for boxes in truth]
    assert any(len(set(image_labels)) < len(image_labels) for image_labels in labels)


@pytest.mark.parametrize("rule", ["voc07", "voc12"])
def test_corners_as_vocs_files_have_them_give_the_same(rule):
    """In the devkit, pixels count from 1, the last pixel is inside the box, and sides are one pixel longer."""
    detections, truth = random_images()
    shift = torch.tensor([1.0, 1.0, 0.0, 0.0])
    shifted = [Detections(detected.boxes + shift, detected.labels, detected.scores) for detected in detections]
    files = [Boxes(boxes.boxes + shift, boxes.labels, boxes.difficult) for boxes in truth]
    plain = measured(detections, truth, rule=rule)
    assert measured(shifted, files, rule=rule, inclusive_edges=True).ap == pytest.approx(plain.ap, nan_ok=True)
    assert measured(detections, truth, rule=rule, inclusive_edges=True).map != plain.map


BOX, FAR = [0, 0, 10, 10], [20, 20, 30, 30]


def hits(detected, truth, **settings):
    return measured([detected], [truth], rule="voc12", **settings).ap["cat"]


def test_a_second_detection_of_a_box_is_wrong():
    truth = boxes_of([BOX, FAR], [0, 0])
    detected = detections_of([BOX, BOX, FAR], [0, 0, 0], [0.9, 0.8, 0.7])
    assert hits(detected, truth) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_a_taken_box_sends_no_detection_to_the_next_best():
    truth = boxes_of([BOX, [0, 0, 10, 9]], [0, 0])
    detected = detections_of([BOX, BOX], [0, 0], [0.9, 0.8])  # the second overlaps the other box by 0.9
    assert hits(detected, truth) == pytest.approx(1 / 2)


def test_a_difficult_box_is_neither_right_nor_wrong_however_often_it_is_found():
    truth = boxes_of([BOX, FAR], [0, 0], [True, False])
    detected = detections_of([BOX, BOX, FAR], [0, 0, 0], [0.9, 0.8, 0.7])
    assert hits(detected, truth) == 1
    assert hits(detections_of([FAR], [0], [0.7]), truth) == 1  # it need not be detected


def test_a_detection_nearest_to_a_difficult_box_is_left_out_though_it_would_fit_another():
    truth = boxes_of([BOX, [0, 0, 10, 9]], [0, 0], [True, False])
    assert hits(detections_of([BOX], [0], [0.9]), truth) == 0


def test_a_box_of_another_class_or_image_does_not_count():
    assert hits(detections_of([BOX], [0], [0.9]), boxes_of([BOX, FAR], [1, 0])) == 0
    elsewhere = measured(
        [detections_of([BOX], [0], [0.9]), detections_of([], [], [])],
        [boxes_of([], []), boxes_of([BOX], [0])],
        rule="voc12",
    )
    assert elsewhere.ap["cat"] == 0


def test_an_overlap_of_just_the_threshold_is_enough():
    """This is the rule of the devkit. Its port in the released code requires a larger overlap."""
    assert hits(detections_of([[0, 0, 10, 5]], [0], [0.9]), boxes_of([BOX], [0])) == 1
    assert hits(detections_of([[0, 0, 10, 4.999]], [0], [0.9]), boxes_of([BOX], [0])) == 0


def test_of_equal_scores_the_first_fed_comes_first():
    truth = boxes_of([BOX], [0])
    assert hits(detections_of([BOX, FAR], [0, 0], [0.5, 0.5]), truth) == 1
    assert hits(detections_of([FAR, BOX], [0, 0], [0.5, 0.5]), truth) == 0.5


def test_eleven_points_by_hand():
    """One of two boxes is detected at rank 1: recall 0.5 and precision 1, so the points 0 to 0.5 count."""
    truth = boxes_of([BOX, FAR], [0, 0])
    detected = detections_of([BOX, [30, 0, 39, 9]], [0, 0], [0.9, 0.8])
    assert measured([detected], [truth]).ap["cat"] == pytest.approx(6 / 11)
    assert measured([detected], [truth], rule="voc12").ap["cat"] == pytest.approx(1 / 2)


def test_a_recall_of_three_tenths_falls_short_of_the_fourth_point():
    """In floating point, 3 * 0.1 > 3 / 10, both in the devkit's port and here."""
    rows = [[4 * k, 0, 4 * k + 3, 3] for k in range(10)]
    detected = detections_of(rows[:3], [0, 0, 0], [0.9, 0.8, 0.7])
    assert measured([detected], [boxes_of(rows, [0] * 10)]).ap["cat"] == pytest.approx(3 / 11)


def test_several_overlaps_are_those_of_one_each():
    detections, truth = random_images()
    together = measured(detections, truth, iou=COCO_IOUS)
    separate = [measured(detections, truth, iou=iou) for iou in COCO_IOUS]
    assert together.map50 == separate[0].map50 == separate[0].map
    assert together.map75 == separate[5].map
    assert together.map == pytest.approx(np.mean([result.map for result in separate]))
    for name in NAMES[:3]:
        assert together.ap[name] == pytest.approx(np.mean([result.ap[name] for result in separate]))


def test_an_overlap_that_was_not_measured_is_refused():
    detections, truth = random_images()
    with pytest.raises(ValueError, match=r"not measured at an overlap of 0\.75, only at 0\.5. Build the metric"):
        _ = measured(detections, truth).map75


def test_one_by_one_in_batches_and_merged_are_equal():
    detections, truth = random_images()
    whole, single, left, right = (VOCDetection(NAMES, iou=(0.5, 0.75)) for _ in range(4))
    whole.update(detections, truth)
    for detected, boxes in zip(detections, truth, strict=True):
        single.update([detected], [boxes])
    left.update(detections[20:], truth[20:])
    right.update(detections[:20], truth[:20])
    left.merge(pickle.loads(pickle.dumps(right)))
    assert str(single.compute()) == str(left.compute()) == str(whole.compute())
    assert single.compute().map == left.compute().map == whole.compute().map
    assert (left.images, right.images) == (30, 20)


def test_scores_and_boxes_of_half_precision_and_with_a_gradient():
    box = torch.tensor([BOX], dtype=torch.bfloat16, requires_grad=True)
    detected = Detections(box, torch.tensor([0]), torch.tensor([0.9], dtype=torch.float16))
    assert hits(detected, boxes_of([BOX], [0])) == 1


def test_what_is_kept_does_not_change_with_the_callers_tensors():
    metric = VOCDetection(NAMES)
    detected, truth = detections_of([BOX], [0], [0.9]), boxes_of([BOX], [0])
    metric.update([detected], [truth])
    detected.labels.fill_(1)
    detected.scores.fill_(0)
    truth.labels.fill_(1)
    assert metric.compute().ap["cat"] == 1


def test_no_detections_at_all_is_zero():
    assert measured([detections_of([], [], [])], [boxes_of([BOX], [0])]).map == 0
    assert measured([detections_of([], [], [])], [boxes_of([BOX], [0])], rule="voc12").map50 == 0


def test_torchmetrics_agrees_loosely():
    """torchmetrics interpolates at 101 recalls, and assigns a detection to the best box that is free."""
    detection = pytest.importorskip("torchmetrics.detection")
    detections, truth = random_images(images=60)
    truth = [Boxes(boxes.boxes, boxes.labels) for boxes in truth]
    reference = detection.MeanAveragePrecision(backend="faster_coco_eval", iou_thresholds=[0.5])
    reference.update(
        [{"boxes": detected.boxes, "labels": detected.labels, "scores": detected.scores} for detected in detections],
        [{"boxes": boxes.boxes, "labels": boxes.labels} for boxes in truth],
    )
    assert measured(detections, truth, rule="voc12").map50 == pytest.approx(reference.compute()["map"].item(), abs=0.03)


def test_a_result_reads_as_a_table():
    result = measured([detections_of([BOX], [0], [0.9])], [boxes_of([BOX, FAR], [0, 2])], iou=COCO_IOUS, rule="voc12")
    lines = str(result).splitlines()
    assert lines[0].startswith("mAP 50.00 % (voc12, IoU 0.5, 0.55")
    assert lines[1:3] == [
        "class              AP     AP50     AP75",
        "cat            100.00   100.00   100.00",
    ]
    assert lines[3].split() == ["dog", "-", "-", "-"]
    assert repr(result).startswith("VOCDetectionResult(map=0.5000, by iou {0.5: 0.5000")


@pytest.mark.parametrize("iou", [0.5, (0.75, 0.5)])
def test_the_best_score_is_that_with_the_highest_f1_of_all(iou):
    detections, truth = random_images()
    result = measured(detections, truth, iou=iou)
    objects = sum(int((~boxes.difficult).sum()) for boxes in truth)
    scores = {}
    for hundredth in range(100):
        score = hundredth / 100
        shown = [
            Detections(found.boxes[keep], found.labels[keep], found.scores[keep])
            for found in detections
            for keep in [found.scores > score]
        ]
        verdicts = [verdict for label in range(len(NAMES)) for verdict in slowly(shown, truth, label, 0.5)[0]]
        right, wrong = verdicts.count(True), verdicts.count(False)
        scores[score] = (2 * right / (right + wrong + objects), right, wrong)
    highest = max(f1 for f1, *_ in scores.values())
    assert scores[result.best.score] == (highest, result.best.right, result.best.wrong)
    assert result.best.f1 == pytest.approx(highest)
    assert all(abs(score - 0.5) >= abs(result.best.score - 0.5) for score, (f1, *_) in scores.items() if f1 == highest)
    assert (result.drawn.right, result.drawn.wrong) == scores[0.5][1:]
    assert result.drawn.objects == objects


def test_the_boxes_above_a_score_are_counted_in_words():
    detections = detections_of([BOX, FAR, FAR], [0, 0, 1], [0.9, 0.6, 0.2])
    result = measured([detections], [boxes_of([BOX, FAR], [0, 1])])
    counts = "1 of 2 objects found, 1 false box (precision 50 %, recall 50 %, F1 0.50)"
    assert str(result.drawn) == f"above the score 0.5: {counts}"
    assert str(result.best).startswith("above the score 0.19: 2 of 2 objects found, 1 false box (precision 67 %")
    assert str(result).splitlines()[-2:] == [str(result.drawn), f"best F1 {result.best}"]
    none = measured([NOTHING], [boxes_of([BOX], [0])])
    assert (none.best.score, none.best.f1) == (0.5, 0)
    assert "0 of 1 objects found, 0 false boxes (precision -, recall 0 %, F1 0.00)" in str(none)


def test_without_objects_there_is_no_recall():
    false = BoxesAbove(0.5, right=0, wrong=2, objects=0)
    assert (false.precision, false.f1) == (0, 0)
    assert math.isnan(false.recall)
    assert str(false).endswith("0 of 0 objects found, 2 false boxes (precision 0 %, recall -, F1 0.00)")
    nothing = BoxesAbove(0.5, right=0, wrong=0, objects=0)
    assert all(math.isnan(share) for share in (nothing.precision, nothing.recall, nothing.f1))
    assert str(nothing).endswith("(precision -, recall -, F1 -)")


NOTHING = detections_of([], [], [])


@pytest.mark.parametrize(
    ("detections", "boxes", "error", "message"),
    [
        ([NOTHING], [boxes_of([BOX], [20])], ValueError, r"boxes of image 0 of the batch: box 0 has label 20; the"),
        ([NOTHING, detections_of([BOX, FAR], [0, 4], [1, 1])], [boxes_of([], [])] * 2, ValueError,
         r"detections of image 1 .* box 1 has label 4; .* 4 classes must be 0 \('cat'\) to 3 \('bus'\). Count"),
        ([NOTHING], [], ValueError, "there must be one Detections per image, .*; got 1 for 0 images"),
        (NOTHING, [boxes_of([], [])], TypeError, r"one Detections per image; got a single Detections. Pass \[det"),
        ([NOTHING], boxes_of([], []), TypeError, "boxes must be a list with one Boxes per image; got a single Boxes"),
        ([{"boxes": 1}], [boxes_of([], [])], TypeError, "must be a list of Detections; number 0 is of type dict"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_not_counted(detections, boxes, error, message, no_type_checker):
    metric = VOCDetection(NAMES)
    with pytest.raises(error, match=message):
        metric.update(detections, boxes)
    assert metric.images == 0
    assert metric._judged == []


def test_nothing_to_find_is_no_figure():
    metric = VOCDetection(NAMES)
    with pytest.raises(ValueError, match=r"needs at least one true box .*; the 0 images so far have no such box"):
        metric.compute()
    metric.update([detections_of([BOX], [0], [0.9])], [boxes_of([BOX], [0], [True])])
    with pytest.raises(ValueError, match="one true box that is not difficult; the 1 images so far have no such box"):
        metric.compute()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"class_names": []}, ValueError, "no class_names; give at least one name"),
        ({"class_names": ["a", "b", "a"]}, ValueError, "'a' is class 0 and 2"),
        ({"class_names": "cat"}, TypeError, "got the string 'cat'"),
        ({"class_names": ["a"], "rule": "voc10"}, ValueError, "rule must be one of voc07, voc12; got 'voc10'"),
        ({"class_names": ["a"], "iou": 50.0}, ValueError, r"over 0 and at most 1, or several; got 50\.0"),
        ({"class_names": ["a"], "iou": ()}, ValueError, r"or several; got \(\)"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments, error, message, no_type_checker):
    with pytest.raises(error, match=message):
        VOCDetection(**arguments)


def test_only_like_merges_with_like():
    with pytest.raises(ValueError, match="the same rule; got voc07 and voc12"):
        VOCDetection(NAMES).merge(VOCDetection(NAMES, rule="voc12"))
    with pytest.raises(ValueError, match="the same class_names"):
        VOCDetection(NAMES).merge(VOCDetection(NAMES[::-1]))
