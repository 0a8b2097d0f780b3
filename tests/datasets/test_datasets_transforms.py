"""Transforms of size and window change image, mask, depth and boxes together."""

import numpy as np
import pytest
import torch

from tadp.datasets import (
    CenterCrop,
    PadTo,
    RandomCrop,
    RandomFlip,
    RandomResize,
    RenderedScenes,
    Resize,
    Sample,
)
from tadp.images.boxes import Boxes

SCENES = RenderedScenes(8, 2, size=96)[:]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def marked(row: int, column: int, *, side: int = 6, size: tuple[int, int] = (60, 80)) -> Sample:
    """A black picture with one bright square, which mask, depth and a box mark."""
    image, mask = np.zeros((*size, 3), np.uint8), np.zeros(size, np.int64)
    depth_m = np.full(size, 9, np.float32)
    window = slice(row, row + side), slice(column, column + side)
    image[window], mask[window], depth_m[window] = 255, 5, 2
    boxes = Boxes(
        torch.tensor([[column, row, column + side, row + side], [0, 0, 1, 1]], dtype=torch.float32),
        torch.tensor([5, 1]),
        torch.tensor([True, False]),
    )
    return Sample(image, "marked", "a square", mask, depth_m, boxes)


def bounds(plane: np.ndarray) -> list[int]:
    """Left, top, right and bottom of the area that is true."""
    rows, columns = np.nonzero(plane)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def of_square(sample: Sample) -> list[float]:
    (index,) = torch.nonzero(sample.boxes.labels == 5)[:, 0]
    assert bool(sample.boxes.difficult[index])
    return sample.boxes.boxes[index].tolist()


TOGETHER = [
    (Resize((120, 160)), 1),
    (Resize((30, 40)), 1),
    (Resize(90), 1),
    (RandomResize((0.5, 2.0)), 1),
    (RandomResize((0.5, 2.0), size=48, longest=60), 1),
    (RandomCrop((50, 64)), 0),
    (RandomCrop((200, 70), cat_max_ratio=0.99), 0),
    (CenterCrop((40, 44)), 0),
    (RandomFlip(1.0), 0),
    (RandomFlip(0.0), 0),
    (PadTo((64, 99)), 0),
]


@pytest.mark.parametrize(("transform", "tolerance"), TOGETHER, ids=lambda value: repr(value))
def test_a_marked_square_is_where_image_mask_depth_and_box_say(transform, tolerance):
    for seed in range(4):
        sample = transform(marked(24, 30), rng(seed))
        box = of_square(sample)
        assert np.abs(np.subtract(bounds(sample.mask == 5), box)).max() <= tolerance
        assert bounds(sample.depth_m == 2) == bounds(sample.mask == 5)
        assert np.abs(np.subtract(bounds(sample.image[..., 0] > 127), bounds(sample.mask == 5))).max() <= tolerance
        assert sample.mask.shape == sample.depth_m.shape == sample.image.shape[:2]
        assert (sample.image_id, sample.caption) == ("marked", "a square")


def test_all_in_a_row_keep_scenes_together():
    transforms = [RandomResize((0.8, 2.0)), RandomCrop(80, cat_max_ratio=0.9), RandomFlip(), PadTo(80)]
    for seed, sample in enumerate(SCENES):
        depths = {}
        for label in sample.boxes.labels.tolist():
            depths[label] = set(sample.depth_m[sample.mask == label + 1].tolist())
        generator = rng(seed)
        for transform in transforms:
            sample = transform(sample, generator)
        assert sample.image.shape == (80, 80, 3)
        for box, label in zip(sample.boxes.boxes.tolist(), sample.boxes.labels.tolist(), strict=True):
            inside = sample.mask == label + 1
            left, top, right, bottom = bounds(inside)  # a clipped box need not be tight
            assert min(left - box[0], top - box[1], box[2] - right, box[3] - bottom) >= -1
            assert set(sample.depth_m[inside].tolist()) == depths[label]


@pytest.mark.parametrize("transform", [transform for transform, _ in TOGETHER], ids=repr)
def test_what_a_sample_lacks_it_lacks_after_and_what_came_in_is_unchanged(transform):
    bare = Sample(marked(1, 1).image, "bare")
    after = transform(bare, rng())
    assert (after.mask, after.depth_m, after.boxes, after.caption) == (None, None, None, None)
    assert (bare.image == marked(1, 1).image).all()
    torch.from_numpy(after.image)  # PyTorch refuses negative strides


@pytest.mark.parametrize("transform", [transform for transform, _ in TOGETHER], ids=repr)
def test_boxes_without_difficult_and_no_boxes_pass(transform):
    image = marked(1, 1).image
    single = Boxes(torch.tensor([[30.0, 24, 36, 30]]), torch.tensor([3]))
    boxes = transform(Sample(image, "a", boxes=single), rng()).boxes
    assert boxes.difficult is None
    assert boxes.labels.tolist() == [3]
    empty = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert transform(Sample(image, "a", boxes=empty), rng()).boxes.boxes.shape == (0, 4)


# Resize


def test_a_size_is_of_the_shorter_side_up_to_a_longest():
    wide, tall = (Sample(np.zeros((*size, 3), np.uint8), "a") for size in ((100, 300), (300, 100)))
    assert Resize(50)(wide).image_size == (50, 150)
    assert Resize(50)(tall).image_size == (150, 50)
    assert Resize(50, longest=120)(wide).image_size == (40, 120)
    assert Resize(50, longest=150)(wide).image_size == (50, 150)
    assert Resize((33, 44))(wide).image_size == (33, 44)
    assert Resize(1)(Sample(np.zeros((9, 5000, 3), np.uint8), "a")).image_size == (1, 556)


def test_a_size_it_already_has_changes_nothing():
    assert Resize(60)(marked(3, 4)) is not None
    sample = marked(3, 4)
    assert Resize(60)(sample) is sample


def test_twice_the_size_repeats_each_label_twice_and_half_of_it_is_the_same_again():
    sample = SCENES[0]
    twice = Resize((192, 192))(sample)
    assert (twice.mask == sample.mask.repeat(2, 0).repeat(2, 1)).all()
    assert (twice.depth_m == sample.depth_m.repeat(2, 0).repeat(2, 1)).all()
    restored = Resize((96, 96))(twice)
    assert (restored.mask == sample.mask).all()
    assert torch.equal(restored.boxes.boxes, sample.boxes.boxes)


def test_a_third_of_the_size_takes_the_middle_one_of_three():
    sample = SCENES[3]
    third = Resize(32)(sample)
    assert (third.mask == sample.mask[1::3, 1::3]).all()
    assert (third.depth_m == sample.depth_m[1::3, 1::3]).all()


def test_labels_and_depths_are_never_mixed():
    sample = Resize((61, 47))(SCENES[0])
    assert set(np.unique(sample.mask)) <= set(np.unique(SCENES[0].mask))
    assert set(np.unique(sample.depth_m)) <= set(np.unique(SCENES[0].depth_m))


def test_ratios_are_drawn_evenly_over_the_range():
    sample = Sample(np.zeros((100, 100, 3), np.uint8), "a")
    own, generator = RandomResize((0.5, 2.0)), rng()
    sides = [own(sample, generator).image_size[0] for _ in range(400)]
    assert 50 <= min(sides) < 60
    assert 190 < max(sides) <= 200
    assert abs(np.mean(sides) - 125) < 5


@pytest.mark.parametrize("image_size", [(333, 500), (500, 333), (512, 683), (400, 2400)])
@pytest.mark.parametrize("ratio", [0.5, 0.83, 1.0, 1.77, 2.0])
def test_sizes_are_those_of_mmseg(image_size, ratio):
    """mmseg uses img_scale=(2048, 512) with a ratio. It may lose a pixel, because it truncates the scale."""
    longest, shortest = int(2048 * ratio), int(512 * ratio)
    factor = min(longest / max(image_size), shortest / min(image_size))
    expected = [int(side * factor + 0.5) for side in image_size]
    sample = Sample(np.zeros((*image_size, 3), np.uint8), "a")
    resized = RandomResize((ratio, ratio), size=512, longest=2048)(sample, rng()).image_size
    assert np.abs(np.subtract(resized, expected)).max() <= 2
    if (512 * ratio).is_integer() and (2048 * ratio).is_integer():
        assert list(resized) == expected


# Crop


def test_a_crop_is_a_window_of_its_size_anywhere():
    sample = SCENES[1]
    corners = set()
    for seed in range(60):
        window = RandomCrop((94, 95), min_visible=0)(sample, rng(seed))
        matches = [
            (top, left)
            for top in range(3)
            for left in range(2)
            if (sample.image[top : top + 94, left : left + 95] == window.image).all()
        ]
        corners |= set(matches)
        assert len(matches) == 1
    assert corners == {(top, left) for top in range(3) for left in range(2)}


def test_a_crop_larger_than_the_image_is_what_there_is():
    assert RandomCrop(100)(marked(3, 4), rng()).image_size == (60, 80)
    assert RandomCrop((20, 100))(marked(3, 4), rng()).image_size == (20, 80)
    assert CenterCrop((100, 20))(marked(3, 4)).image_size == (60, 20)


def test_the_middle_is_the_middle():
    sample = marked(24, 30)
    assert of_square(CenterCrop((60, 20))(sample)) == [0, 24, 6, 30]


def test_a_box_is_clipped_and_dropped_with_its_label_when_little_is_left():
    boxes = Boxes(
        torch.tensor([[0.0, 0, 20, 20], [15, 0, 35, 20], [10, 10, 20, 20], [0, 25, 20, 30], [19.5, 19.5, 20, 20]]),
        torch.arange(5),
        torch.tensor([False, True, True, False, False]),
    )
    sample = Sample(np.zeros((40, 40, 3), np.uint8), "a", boxes=boxes)
    kept = CenterCrop(20, min_visible=0.25)(sample).boxes  # the window is from 10 to 30 both ways
    # A quarter of box 0 is left, 3/8 of box 1, all of box 2, half of box 3, and all of box 4, which is under a pixel.
    assert kept.labels.tolist() == [0, 1, 2, 3]
    assert kept.boxes.tolist() == [[0, 0, 10, 10], [5, 0, 20, 10], [0, 0, 10, 10], [0, 15, 10, 20]]
    assert kept.difficult.tolist() == [False, True, True, False]
    assert CenterCrop(20, min_visible=0.26)(sample).boxes.labels.tolist() == [1, 2, 3]
    assert CenterCrop(20, min_visible=1)(sample).boxes.labels.tolist() == [2]


def test_a_box_outside_the_window_is_dropped_even_if_nothing_need_be_left():
    assert CenterCrop(20, min_visible=0)(marked(0, 0)).boxes.labels.tolist() == []


def test_windows_of_one_class_are_drawn_again():
    mask = np.zeros((100, 400), np.int64)
    mask[:, 200:] = 1
    mask[:, 300:] = 255
    sample = Sample(np.zeros((100, 400, 3), np.uint8), "a", mask=mask)

    def share_mixed(ratio: float) -> float:
        windows = [RandomCrop(100, cat_max_ratio=ratio)(sample, rng(seed)).mask for seed in range(200)]
        labelled = [window[window != 255] for window in windows]
        return np.mean([0.25 < np.mean(window) < 0.75 if window.size else False for window in labelled])

    # 49 of 301 corners are good, so one draw is good with 0.16, and one of eleven draws with 1 - (1 - 0.16) ** 11.
    assert abs(share_mixed(1.0) - 49 / 301) < 0.08
    assert abs(share_mixed(0.75) - (1 - (1 - 49 / 301) ** 11)) < 0.08


def test_ignored_pixels_alone_are_no_class():
    sample = Sample(np.zeros((9, 9, 3), np.uint8), "a", mask=np.full((9, 9), 255))
    assert RandomCrop(4, cat_max_ratio=0.5)(sample, rng()).image_size == (4, 4)


# Flip and pad


def test_a_flip_twice_is_the_identity():
    sample = SCENES[2]
    once = RandomFlip(1.0)(sample, rng())
    twice = RandomFlip(1.0)(once, rng())
    for name in ("image", "mask", "depth_m"):
        assert (getattr(twice, name) == getattr(sample, name)).all()
        assert (getattr(once, name) != getattr(sample, name)).any()
    assert torch.equal(twice.boxes.boxes, sample.boxes.boxes)


def test_half_are_flipped():
    sample, generator = marked(3, 4), rng()
    flips = [RandomFlip()(sample, generator) is not sample for _ in range(400)]
    assert abs(np.mean(flips) - 0.5) < 0.07


@pytest.mark.parametrize(("fill", "value"), [("edge", 255), ("zero", 0), ("grey", 128)])
def test_nothing_is_known_of_what_is_padded(fill, value):
    sample = marked(54, 74)  # the square is in the corner
    padded = PadTo((70, 90), fill=fill)(sample)
    assert padded.image_size == (70, 90)
    assert (padded.image[:60, :80] == sample.image).all()
    assert (padded.image[60:, 80:] == value).all()
    assert (padded.mask[60:] == 255).all()
    assert (padded.mask[:, 80:] == 255).all()
    assert (padded.depth_m[60:] == 0).all()
    assert (padded.depth_m[:, 80:] == 0).all()
    assert torch.equal(padded.boxes.boxes, sample.boxes.boxes)


def test_an_image_larger_than_its_padding_is_refused():
    with pytest.raises(
        ValueError, match=r"'marked' is 60x80 \(height x width\), which is larger than the padded size, 70x70"
    ):
        PadTo(70)(marked(1, 1))


# Bad arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Resize(0), "a size must be 1 pixel or more each way; got 0"),
        (lambda: Resize((10, 0)), r"each way; got \(10, 0\)"),
        (lambda: Resize(10, longest=9), "got size=10 and longest=9"),
        (lambda: Resize((10, 10), longest=20), r"got size=\(10, 10\) and longest=20"),
        (lambda: RandomResize((0.0, 1.0)), r"ratio must be \(smallest, largest\), both over 0; got \(0.0, 1.0\)"),
        (lambda: RandomResize((2.0, 1.0)), r"over 0; got \(2.0, 1.0\)"),
        (lambda: RandomResize(longest=10), "longest=10 needs a size"),
        (lambda: RandomCrop(0), "each way; got 0"),
        (lambda: RandomCrop(9, cat_max_ratio=0), r"cat_max_ratio must be in \(0, 1\]; got 0"),
        (lambda: RandomCrop(9, min_visible=1.5), r"min_visible must be in \[0, 1\]; got 1.5"),
        (lambda: CenterCrop(9, min_visible=-1), r"min_visible must be in \[0, 1\]; got -1"),
        (lambda: RandomFlip(2), r"probability must be in \[0, 1\]; got 2"),
        (lambda: PadTo(9, fill="red"), "fill must be one of edge, zero, grey; got 'red'"),
    ],
)
def test_bad_arguments_are_refused(make, message, no_type_checker):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomCrop([32, 32]), r"number of pixels, or \(height, width\); got \[32, 32\]"),
        (lambda: Resize(32.5), r"or \(height, width\); got 32.5"),
        (lambda: PadTo((8, 8, 3)), r"or \(height, width\); got \(8, 8, 3\)"),
        (lambda: RandomResize(2.0), r"ratio must be \(smallest, largest\), such as \(0.5, 2.0\); got 2.0"),
    ],
)
def test_sizes_and_ratios_of_another_kind_are_refused(make, message, no_type_checker):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_negative_label_is_no_class_of_a_crop():
    """Other libraries ignore -1. A model is built for such masks with ignore_label=-1."""
    sample = Sample(np.zeros((40, 40, 3), np.uint8), "a", mask=np.full((40, 40), -1))
    cropped = RandomCrop(20, cat_max_ratio=0.75)(sample, np.random.default_rng(0))
    assert cropped.mask.min() == cropped.mask.max() == -1
