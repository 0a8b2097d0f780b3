import builtins
import sys
from collections import OrderedDict
from typing import Any

import pytest
import torch
from builders_heads import CLASSES, INFO, build_detection, build_features, build_maps, build_targets
from torch import nn

from tadp.errors import MissingExtraError
from tadp.features import FeatureInfo
from tadp.heads import DetectionHead
from tadp.images.boxes import Boxes, Detections

LOSSES = {
    "objectness": "loss_objectness",
    "proposal_regression": "loss_rpn_box_reg",
    "classification": "loss_classifier",
    "box_regression": "loss_box_reg",
}
NOTHING = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def build_oracle(head: DetectionHead, **options: Any) -> nn.Module:
    """Build torchvision's own Faster R-CNN with the head's weights, to run on maps as the released code does."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    backbone: Any = nn.Identity()
    backbone.out_channels = 8
    oracle = FasterRCNN(
        backbone,
        num_classes=CLASSES + 1,
        rpn_anchor_generator=AnchorGenerator(((32,), (64,), (128,), (256,)), ((0.5, 1.0, 2.0),) * 4),
        box_score_thresh=0.0,
        **options,
    )
    weights = {key: value for key, value in head.state_dict().items() if not key.startswith("neck.")}
    predictor: Any = head.roi_heads.box_predictor
    oracle.roi_heads.box_head = head.roi_heads.box_head
    oracle.roi_heads.box_predictor = predictor
    missing, unexpected = oracle.load_state_dict(weights, strict=False)
    assert not missing
    assert not unexpected
    return oracle


def run_oracle(oracle: Any, head: DetectionHead, size: tuple[int, int], targets: list[Boxes] | None = None) -> Any:
    from torchvision.models.detection.image_list import ImageList

    pyramid = OrderedDict((str(level), level_map) for level, level_map in enumerate(head.neck(build_maps(*size))))
    images = ImageList(torch.zeros(2, 3, *size), [size] * 2)
    truth = None if targets is None else [{"boxes": target.boxes, "labels": target.labels + 1} for target in targets]
    proposals, first = oracle.rpn(images, pyramid, truth)
    detections, second = oracle.roi_heads(pyramid, proposals, [size] * 2, truth)
    return detections if targets is None else {**first, **second}


@pytest.mark.parametrize("size", [(128, 128), (256, 192)])
def test_detections_are_torchvisions(size):
    head = build_detection().eval()
    expected = run_oracle(build_oracle(head).eval(), head, size)
    detections = head(build_features(*size))
    assert len(detections) == 2
    for detected, wanted in zip(detections, expected, strict=True):
        assert len(detected) > 10
        torch.testing.assert_close(detected.boxes, wanted["boxes"])
        torch.testing.assert_close(detected.scores, wanted["scores"])
        assert torch.equal(detected.labels, wanted["labels"] - 1)


@pytest.mark.parametrize("size", [(128, 128), (256, 192)])
def test_losses_are_torchvisions(size):
    """Both draw the same samples from the same seed."""
    head, targets = build_detection().train(), build_targets(*size)
    oracle = build_oracle(head).train()
    torch.manual_seed(3)
    expected = run_oracle(oracle, head, size, targets)
    torch.manual_seed(3)
    losses = head(build_features(*size), targets)
    assert set(losses) == set(LOSSES)
    for name, torchvision_name in LOSSES.items():
        assert losses[name].ndim == 0
        assert losses[name] > 0
        torch.testing.assert_close(losses[name], expected[torchvision_name])


def test_parameters_of_the_released_widths_are_torchvisions_one_to_one():
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    with torch.device("meta"):
        head = DetectionHead(FeatureInfo((320, 717, 1357, 1280), (8, 16, 32, 64)), num_classes=20)
        backbone: Any = nn.Identity()
        backbone.out_channels = 256
        anchors = AnchorGenerator(((32,), (64,), (128,), (256,)), ((0.5, 1.0, 2.0),) * 4)
        released = FasterRCNN(backbone, num_classes=21, rpn_anchor_generator=anchors)
    ours = {key: value.shape for key, value in head.state_dict().items() if not key.startswith("neck.")}
    assert ours == {key: value.shape for key, value in released.state_dict().items()}


@pytest.mark.parametrize("reduction", [(8, 16, 32, 64), (4, 8, 16, 32), (16, 32, 64, 128)])
def test_anchors_are_torchvisions_where_strides_divide_the_image(reduction):
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    info, sizes, ratios = FeatureInfo((4,) * 4, reduction), (20.0, 33.0, 77.7, 250.0), (0.3, 0.5, 1.0, 2.0, 2.7)
    head = DetectionHead(info, num_classes=2, channels=4, hidden_channels=4, anchor_sizes=sizes, aspect_ratios=ratios)
    maps = build_maps(256, 384, info=info)
    oracle = AnchorGenerator(tuple((size,) for size in sizes), (ratios,) * 4)
    expected = oracle(ImageList(torch.zeros(2, 3, 256, 384), [(256, 384)] * 2), maps)
    torch.testing.assert_close(head._place_anchors(maps), expected[0])


@pytest.mark.parametrize("size", [(65, 97), (500, 130), (129, 129)])
def test_anchors_stand_at_the_strides_whatever_the_size(size):
    head, maps = build_detection(), build_maps(*size)
    anchors = head._place_anchors(maps).view(-1, 3, 4)  # three per cell
    centres = (anchors[:, :, :2] + anchors[:, :, 2:]) / 2
    start = 0
    for level_map, stride in zip(maps, INFO.reduction, strict=True):
        height, width = level_map.shape[2:]
        cells = centres[start : start + height * width].view(height, width, 3, 2)
        assert torch.equal(cells[-1, -1, 0], torch.tensor([(width - 1.0) * stride, (height - 1.0) * stride]))
        assert torch.equal(cells[0, -1, 2], torch.tensor([(width - 1.0) * stride, 0.0]))
        start += height * width
    assert start == len(anchors)


def test_pooling_knows_the_strides_whatever_image_comes_first():
    for size in ((65, 65), (512, 512)):
        head = build_detection().eval()
        head(build_features(*size))
        pooler: Any = head.roi_heads.box_roi_pool
        assert pooler.scales == [1 / 8, 1 / 16, 1 / 32, 1 / 64]
        assert (pooler.map_levels.k_min, pooler.map_levels.k_max) == (3, 6)


@pytest.mark.parametrize("size", [(97, 201), (8, 8), (65, 64), (500, 129)])
def test_boxes_lie_in_the_image_best_first(size):
    for detected in build_detection(max_detections=20).eval()(build_features(*size)):
        assert isinstance(detected, Detections)
        assert 0 < len(detected) <= 20
        assert detected.boxes.min() >= 0
        assert detected.boxes[:, 2].max() <= size[1]
        assert detected.boxes[:, 3].max() <= size[0]
        assert detected.labels.max() < CLASSES
        assert detected.scores.tolist() == sorted(detected.scores.tolist(), reverse=True)


def test_a_threshold_drops_boxes_and_overlap_may_be_allowed():
    maps = build_maps(128, 128)
    scores = build_detection().eval()(maps)[0].scores
    middle = scores[len(scores) // 2].item()
    assert build_detection(score_threshold=middle).eval()(maps)[0].scores.min() > middle
    assert len(build_detection(score_threshold=1.0).eval()(maps)[0]) == 0
    few, many = (build_detection(nms_iou=iou, max_detections=10**6).eval()(maps)[0] for iou in (0.1, 0.9))
    assert len(few) < len(many)


def test_proposals_and_samples_can_be_fewer():
    maps, targets = build_maps(128, 128), build_targets(128, 128)
    head = build_detection(max_proposals=7, samples_per_image=4, nms_iou=1.0, max_detections=10**6)
    judged: list[int] = []
    handle = head.roi_heads.box_predictor.register_forward_hook(lambda _, inputs, out: judged.append(len(inputs[0])))
    head.train()(maps, targets)
    detections = head.eval()(maps)
    handle.remove()
    assert judged == [2 * 4, 2 * 7]
    assert all(len(detected) <= 7 * CLASSES for detected in detections)


def test_targets_decide_what_comes_out_and_not_the_mode():
    maps, targets = build_maps(128, 128), build_targets(128, 128)
    for head in (build_detection().train(), build_detection().eval()):
        assert set(head(maps, targets)) == set(LOSSES)
        assert [type(detected) for detected in head(maps)] == [Detections] * 2


def test_images_without_objects_train_the_background_alone():
    head = build_detection()
    losses = head(build_maps(128, 128), [NOTHING, NOTHING])
    torch.stack(list(losses.values())).sum().backward()
    assert losses["proposal_regression"] == 0
    assert losses["box_regression"] == 0
    assert losses["classification"] > 0
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("mixed", [True, False])
def test_boxes_are_as_fine_in_half_precision(mixed):
    """Both heads have weights rounded to bfloat16. Box arithmetic in bfloat16 would be off by pixels."""
    half = build_detection().eval().bfloat16()
    full = build_detection().eval()
    full.load_state_dict({key: value.float() for key, value in half.state_dict().items()})
    maps = [level_map.bfloat16() for level_map in build_maps(512, 512)]
    size = (512, 512)
    pyramid = full.neck([level_map.float() for level_map in maps])
    proposals = [torch.tensor([[301.25, 299.5, 331.75, 402.5]])] * 2
    expected, expected_deltas = full._box_outputs(pyramid, proposals, size)
    if mixed:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, deltas = full._box_outputs(pyramid, proposals, size)
    else:
        logits, deltas = half._box_outputs([level_map.bfloat16() for level_map in pyramid], proposals, size)
    assert {logits.dtype, deltas.dtype} == {torch.float32}
    torch.testing.assert_close(logits, expected, rtol=0.03, atol=0.03)
    torch.testing.assert_close(deltas, expected_deltas, rtol=0.03, atol=0.03)
    boxes = half(maps)[0].boxes
    assert boxes.dtype == torch.float32
    assert not torch.equal(boxes, boxes.bfloat16().float())


def test_it_learns_one_box():
    """The maps are 1 inside the box. After training, that box is the best detection."""
    from torchvision.ops import box_iou

    torch.manual_seed(0)
    head = build_detection(num_classes=3, channels=16, hidden_channels=32, samples_per_image=64, max_proposals=100)
    left, top, right, bottom = box = (24.0, 40.0, 80.0, 88.0)
    maps = []
    for channels, stride in zip(INFO.channels, INFO.reduction, strict=True):
        centres = (torch.arange(128 // stride) + 0.5) * stride
        inside = ((centres > top) & (centres < bottom))[:, None] & ((centres > left) & (centres < right))
        maps.append(0.1 * torch.randn(1, channels, *inside.shape) + inside)
    target = [Boxes(torch.tensor([box]), torch.tensor([2]))]
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(40):
        loss = torch.stack(list(head(maps, target).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        detected = head(maps)[0]
    assert detected.labels[0] == 2
    assert box_iou(detected.boxes[:1], torch.tensor([box])).item() > 0.6


# What is refused


def test_a_label_outside_the_classes_is_refused():
    targets = [NOTHING, Boxes(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([CLASSES]))]
    with pytest.raises(ValueError, match=r"labels must be 0 to 4 for 5 classes; got 5 in image 1"):
        build_detection()(build_maps(64, 64), targets)


def test_targets_that_are_not_one_an_image_are_refused():
    with pytest.raises(ValueError, match=r"one Boxes per image; got 1 for 2 images"):
        build_detection()(build_maps(64, 64), [NOTHING])


@pytest.mark.usefixtures("no_type_checker")
def test_targets_of_another_kind_are_refused():
    for targets in ([{"boxes": torch.zeros(0, 4)}] * 2, NOTHING):
        with pytest.raises(TypeError, match=r"targets must be a list of tadp.images.boxes.Boxes, one per image"):
            build_detection()(build_maps(64, 64), targets)


@pytest.mark.parametrize("box", [(64.0, 0, 70, 9), (0.0, 64, 9, 70), (-9.0, 0, 0, 9), (0.0, -9, 9, 0)])
def test_a_box_outside_its_image_is_refused(box):
    targets = [NOTHING, Boxes(torch.tensor([box]), torch.tensor([0]))]
    with pytest.raises(ValueError, match=r"of image 1 lies outside the image, which is 64 high and 64 wide. Boxes are"):
        build_detection()(build_maps(64, 64), targets)


def test_a_box_over_the_edge_is_taken():
    targets = [NOTHING, Boxes(torch.tensor([[-5.0, -5, 30, 70]]), torch.tensor([0]))]
    assert all(value.isfinite() for value in build_detection()(build_maps(64, 64), targets).values())


def test_images_of_another_size_than_the_maps_are_refused():
    with pytest.raises(ValueError, match=r"about 64x64 for these features; got 640x480. Scale the boxes instead"):
        build_detection()(build_maps(64, 64), image_size=(640, 480))


def test_strides_that_do_not_double_are_refused():
    with pytest.raises(
        ValueError, match=r"each stride must be twice the previous one; got \(8, 32\). Leave a level out"
    ):
        build_detection(FeatureInfo((4, 4), (8, 32)))


@pytest.mark.parametrize("reduction", [(14,), (14, 28), (12, 24, 48)])
def test_strides_of_other_backbones_are_pooled_where_they_are(reduction):
    """A transformer may have patches of 14 pixels; torchvision would round its stride to 16."""
    from torchvision.ops import roi_align

    info = FeatureInfo((4,) * len(reduction), reduction)
    head, maps = build_detection(info, channels=4), build_maps(168, 336, info=info)
    box = torch.tensor([[20.0, 30.0, 110.0, 120.0]])  # small, so it is pooled from the finest level
    pooled = head.roi_heads.box_roi_pool(
        {str(level): level_map for level, level_map in enumerate(maps)}, [box, box], [(168, 336)] * 2
    )
    expected = roi_align(maps[0], [box, box], 7, spatial_scale=1 / reduction[0], sampling_ratio=2)
    torch.testing.assert_close(pooled, expected)
    assert torch.stack(list(head(maps, build_targets(168, 336), image_size=(168, 336)).values())).isfinite().all()


@pytest.mark.parametrize(
    "options", [{"anchor_sizes": (32, 64)}, {"anchor_sizes": (0, 1, 2, 3)}, {"aspect_ratios": (0.0,)}]
)
def test_anchors_that_are_none_are_refused(options):
    with pytest.raises(ValueError, match=r"one side in pixels, over 0, for each of the 4 levels; got \["):
        build_detection(**options)


def test_options_that_are_none_are_refused():
    for name in ("score_threshold", "nms_iou"):
        for share in (-0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\]; got {share}"):
                build_detection(**{name: share})
    for name in ("max_detections", "max_proposals", "samples_per_image"):
        with pytest.raises(ValueError, match=rf"{name} must be 1 or more; got 0"):
            build_detection(**{name: 0})


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ImportError("no"), r"detection needs torchvision, .*: pip install 'tadp\[detection\]'"),
        (
            RuntimeError("operator torchvision::nms does not exist"),
            r"built for another torch than .*nms does not exist",
        ),
    ],
)
def test_without_a_fitting_torchvision_the_extra_is_named(raised, message, monkeypatch):
    real = builtins.__import__

    def broken(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("torchvision"):
            raise raised
        return real(name, *arguments, **options)

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(MissingExtraError, match=message):
        DetectionHead(INFO, num_classes=2)
