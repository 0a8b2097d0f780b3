import logging
import math
import pickle
import subprocess
import sys

import pytest
import torch

from tadp.errors import MissingExtraError
from tadp.images.boxes import Boxes, Detections
from tadp.metrics import COCODetection

NAMES = ("cat", "dog", "bus")
BOX, FAR = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 90.0, 90.0]


def boxes_of(rows, labels, difficult=None):
    boxes = torch.tensor(rows, dtype=torch.float32).view(-1, 4)
    flags = None if difficult is None else torch.tensor(difficult, dtype=torch.bool)
    return Boxes(boxes, torch.tensor(labels, dtype=torch.int64), flags)


def detections_of(rows, labels, scores):
    boxes = torch.tensor(rows, dtype=torch.float32).view(-1, 4)
    return Detections(boxes, torch.tensor(labels, dtype=torch.int64), torch.tensor(scores, dtype=torch.float32))


def random_images(images=12):
    generator = torch.Generator().manual_seed(0)
    detections, truth = [], []
    for _ in range(images):
        rows = torch.rand(5, 4, generator=generator) * 60
        rows[:, 2:] += rows[:, :2] + 5
        labels = torch.randint(0, 2, (5,), generator=generator)
        truth.append(Boxes(rows, labels))
        near = rows + torch.rand(5, 4, generator=generator) * 4
        detections.append(Detections(near, labels, torch.rand(5, generator=generator)))
    return detections, truth


def measured(detections, truth, names=NAMES):
    metric = COCODetection(names)
    metric.update(detections, truth)
    return metric.compute()


def whole_pixels(images=40):
    """Boxes in whole pixels, whose overlaps are exact fractions such as 14 / 20, in numbers that divide 100."""
    generator = torch.Generator().manual_seed(1)
    detections, truth = [], []
    for _ in range(images):
        rows = torch.tensor([[x, y, x + 20.0, y + 20.0] for x in (0, 60) for y in (0, 60)])
        labels = torch.randint(0, 2, (4,), generator=generator)
        truth.append(Boxes(rows, labels))
        detected = rows.clone()
        detected[:, 2] -= torch.randint(0, 11, (4,), generator=generator)  # overlaps of 10 / 20 to 20 / 20
        scores = torch.randint(1, 50, (4,), generator=generator) / 50
        detections.append(Detections(detected, labels, scores))
    return detections, truth


def fractions(images=10):
    """Boxes in float64 that float32 cannot hold, with overlaps at the thresholds."""
    detections, truth = [], []
    for number in range(images):
        box = torch.tensor([[0.1, 0.1, 0.1 + 1 / 3, 0.1 + 1 / 3]], dtype=torch.float64)
        truth.append(Boxes(box, torch.tensor([0])))
        detected = box.clone()
        detected[:, 2] = 0.1 + (0.5 + 0.05 * number) / 3
        detections.append(
            Detections(detected, torch.tensor([0]), torch.tensor([0.5 + number / 100], dtype=torch.float64))
        )
    return detections, truth


@pytest.mark.parametrize("images", [random_images, whole_pixels, fractions])
def test_figures_are_those_of_pycocotools(images):
    """pycocotools, called without torchmetrics, must give the same figures."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    detections, truth = images()

    def entries(images, scored):
        for number, image in enumerate(images, 1):
            for row, (box, label) in enumerate(zip(image.boxes.tolist(), image.labels.tolist(), strict=True)):
                width, height = box[2] - box[0], box[3] - box[1]
                entry = {"image_id": number, "category_id": label + 1, "bbox": [box[0], box[1], width, height]}
                entry |= {"area": width * height, "iscrowd": 0}
                yield entry | ({"score": image.scores[row].item()} if scored else {})

    reference = coco.COCO()
    reference.dataset = {
        "info": {},
        "images": [{"id": k} for k in range(1, len(truth) + 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES, 1)],
        "annotations": [entry | {"id": k} for k, entry in enumerate(entries(truth, scored=False), 1)],
    }
    reference.createIndex()
    evaluation = cocoeval.COCOeval(reference, reference.loadRes(list(entries(detections, scored=True))), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    result = measured(detections, truth)
    ours = (result.map, result.map50, result.map75, result.map_small, result.map_medium, result.map_large)
    expected = [math.nan if value < 0 else value for value in evaluation.stats[:6]]
    assert ours == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert 0.1 < result.map < 0.9
    precisions = evaluation.eval["precision"][:, :, :, 0, 2]
    for label, name in enumerate(NAMES[:2]):
        values = precisions[:, :, label]
        expected = math.nan if (values < 0).all() else values.mean()
        assert result.ap[name] == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert math.isnan(result.ap["bus"])


def test_a_case_by_hand():
    """The overlap is 81 / 119 = 0.68, so the detection is right at four of the ten thresholds."""
    result = measured([detections_of([[1, 1, 11, 11]], [0], [0.9])], [boxes_of([BOX], [0])])
    assert (result.map, result.map50, result.map75) == pytest.approx((0.4, 1, 0))
    assert result.map_small == pytest.approx(0.4)
    assert math.isnan(result.map_large)


def test_one_class_alone():
    result = measured([detections_of([BOX], [0], [0.9])], [boxes_of([BOX], [0])], names=["cat"])
    assert result.ap == {"cat": pytest.approx(1)}


def test_no_detections_at_all_is_zero():
    result = measured([detections_of([], [], [])], [boxes_of([BOX, FAR], [0, 1])])
    assert (result.map, result.map50) == (0, 0)
    assert result.ap["cat"] == result.ap["dog"] == 0


def test_an_image_without_boxes_can_only_lower_the_figure():
    detected = detections_of([BOX], [0], [0.9])
    assert measured([detected, detected], [boxes_of([BOX], [0]), boxes_of([], [])]).map50 == pytest.approx(1)
    confident = detections_of([BOX], [0], [0.99])
    assert measured([detected, confident], [boxes_of([BOX], [0]), boxes_of([], [])]).map50 == pytest.approx(0.5)


def test_a_difficult_box_is_neither_right_nor_wrong():
    hard = boxes_of([BOX, FAR], [0, 0], [True, False])
    assert measured([detections_of([BOX, FAR], [0, 0], [0.9, 0.8])], [hard]).map == pytest.approx(1)
    assert measured([detections_of([FAR], [0], [0.8])], [hard]).map == pytest.approx(1)
    easy = boxes_of([BOX, FAR], [0, 0])
    assert measured([detections_of([FAR], [0], [0.8])], [easy]).map == pytest.approx(0.5, abs=0.01)


def test_one_by_one_in_batches_and_merged_are_equal():
    detections, truth = random_images()
    whole, single, left, right = (COCODetection(NAMES) for _ in range(4))
    whole.update(detections, truth)
    for detected, boxes in zip(detections, truth, strict=True):
        single.update([detected], [boxes])
    left.update(detections[:5], truth[:5])
    right.update(detections[5:], truth[5:])
    left.merge(pickle.loads(pickle.dumps(right)))
    assert str(single.compute()) == str(left.compute()) == str(whole.compute()) == str(whole.compute())
    assert (left.images, right.images) == (12, 7)


def test_more_than_a_hundred_detections_are_cut_without_a_word(capfd, caplog):
    scores = torch.linspace(1, 0.5, 150).tolist()
    with caplog.at_level(logging.WARNING):
        result = measured([detections_of([FAR] * 149 + [BOX], [0] * 150, scores)], [boxes_of([BOX, FAR], [0, 0])])
    assert result.map50 == pytest.approx(51 / 101)  # the 150th would be right
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_half_precision_gradients_and_later_changes():
    box = torch.tensor([BOX], dtype=torch.bfloat16, requires_grad=True)
    detected = Detections(box, torch.tensor([0]), torch.tensor([0.9], dtype=torch.float16))
    truth = boxes_of([BOX], [0])
    metric = COCODetection(NAMES)
    metric.update([detected], [truth])
    truth.boxes.add_(100)
    detected.labels.fill_(1)
    assert metric.compute().map == pytest.approx(1)


def test_no_other_process_is_waited_for(monkeypatch):
    """torchmetrics gathers from all processes by default; here one process computes, after `merge`."""

    def refuse(*arguments, **settings):
        raise AssertionError("called other processes")

    metric = COCODetection(NAMES)
    metric.update([detections_of([BOX], [0], [0.9])], [boxes_of([BOX], [0])])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for name in ("all_gather", "barrier", "get_world_size", "all_gather_object"):
        monkeypatch.setattr(torch.distributed, name, refuse)
    assert metric.compute().map == pytest.approx(1)


def test_a_result_reads_as_a_table():
    result = measured([detections_of([BOX], [0], [0.9])], [boxes_of([BOX, FAR], [0, 1])])
    lines = str(result).splitlines()
    assert lines[0] == "AP 50.00, AP50 50.00, AP75 50.00, small 100.00, medium 0.00, large - (%), images: 1"
    assert [line.split() for line in lines[2:]] == [["cat", "100.00"], ["dog", "0.00"], ["bus", "-"]]
    assert repr(result).startswith("COCODetectionResult(map=0.5000, map50=0.5000")


@pytest.mark.parametrize("missing", ["torchmetrics.detection", "faster_coco_eval"])
def test_without_the_extra_it_says_how_to_install_it(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"torchvision or faster-coco-eval, .* 'tadp\[detection\]'"):
        COCODetection(NAMES)


def test_the_other_metrics_load_neither_torchvision_nor_torchmetrics():
    program = (
        "import sys\nfrom tadp.metrics import *\nprint(VOCDetection, MeanIoU, DepthMetrics, COCODetection)\n"
        "print(*{name.split('.')[0] for name in sys.modules} & {'torchvision', 'torchmetrics', 'transformers'})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.splitlines()[1:] == [""]


def test_what_does_not_fit_is_refused_and_not_kept():
    metric = COCODetection(NAMES)
    with pytest.raises(
        ValueError, match="boxes of image 0 of the batch: box 0 has label 3; the labels of 3 classes must be"
    ):
        metric.update([detections_of([], [], [])], [boxes_of([BOX], [3])])
    with pytest.raises(ValueError, match=r"one Detections per image, .*; got 1 for 0 images"):
        metric.update([detections_of([], [], [])], [])
    assert metric.images == 0
    with pytest.raises(ValueError, match=r"needs at least one true box .*; the 0 images so far have no such box"):
        metric.compute()
    metric.update([detections_of([], [], [])], [boxes_of([BOX], [0], [True])])
    with pytest.raises(ValueError, match="one true box that is not difficult; the 1 images so far have no such box"):
        metric.compute()


def test_only_like_merges_with_like():
    with pytest.raises(ValueError, match="the same class_names"):
        COCODetection(NAMES).merge(COCODetection(["cat"]))
