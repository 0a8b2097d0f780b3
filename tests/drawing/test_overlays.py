"""Pictures of classes, depth and boxes."""

import numpy as np
import pytest
import torch
from PIL import Image

from tadp.drawing import SHORT_PX, box_picture, class_color, class_picture, depth_picture, sheet
from tadp.errors import ImageError, OptionError
from tadp.images.boxes import Boxes, Detections

NAMES = ["background", "dog", "cat"]
GREY = (100, 100, 100)
UNKNOWN = (150, 150, 150)


def photo(width, height, color=GREY):
    return Image.new("RGB", (width, height), color)


def colors(picture):
    """The colours of a picture."""
    return {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()}


def drawn(picture, plain):
    """The area where two pictures differ: left, top, and the exclusive right and bottom."""
    rows, columns = np.nonzero((np.asarray(picture) != np.asarray(plain)).any(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def boxes_of(*edges, labels=None):
    return Boxes(torch.tensor(edges, dtype=torch.float32), torch.tensor(labels or [0] * len(edges)))


# Classes


def test_colours_are_those_of_the_voc_devkit_and_all_differ():
    assert [class_color(label) for label in (0, 1, 2, 3, 8, 15, 20)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (64, 0, 0), (192, 128, 128), (0, 64, 128),
    ]  # fmt: skip
    assert len({class_color(label) for label in range(256)}) == 256


def test_each_class_has_its_own_colour_whatever_else_is_there():
    size = SHORT_PX
    both = torch.zeros(size, size, dtype=torch.int64)
    both[:100], both[100:200] = 2, 1
    alone = torch.where(both == 2, 2, 0)
    image = photo(size, size)
    two, single = (np.asarray(class_picture(image, labels, NAMES, opacity=1.0)) for labels in (both, alone))
    assert tuple(two[50, 50]) == tuple(single[50, 50]) == class_color(2)
    assert tuple(two[150, 50]) == class_color(1)
    assert tuple(single[150, 50]) == tuple(two[250, 50]) == GREY  # background is left clear


def test_without_a_background_no_class_is_black():
    labels = torch.zeros(SHORT_PX, SHORT_PX, dtype=torch.int64)
    pixels = np.asarray(class_picture(photo(SHORT_PX, SHORT_PX), labels, ["dog", "cat"], opacity=1.0))
    assert tuple(pixels[0, 0]) == class_color(1)


@pytest.mark.parametrize("opacity", [0.0, 0.25, 1.0])
def test_opacity_is_the_share_of_the_colour(opacity):
    labels = torch.ones(SHORT_PX, SHORT_PX, dtype=torch.int64)
    pixel = np.asarray(class_picture(photo(SHORT_PX, SHORT_PX), labels, NAMES, opacity=opacity))[0, 0]
    expected = [(1 - opacity) * grey + opacity * color for grey, color in zip(GREY, class_color(1), strict=True)]
    np.testing.assert_allclose(pixel, expected, atol=0.5)


@pytest.mark.parametrize("label", [255, -1, 3])
def test_what_is_no_class_is_left_clear_and_has_no_legend(label):
    labels = torch.full((SHORT_PX, SHORT_PX), label)
    picture = class_picture(photo(SHORT_PX, SHORT_PX), labels, NAMES)
    assert picture.size == (SHORT_PX, SHORT_PX)
    assert colors(picture) == {GREY}


def test_the_legend_grows_with_the_classes_that_are_there():
    names = [f"a class with the name {k}" for k in range(6)]
    heights = []
    for count in (1, 6):
        labels = torch.arange(SHORT_PX)[:, None].expand(SHORT_PX, SHORT_PX) % count
        picture = class_picture(photo(SHORT_PX, SHORT_PX), labels, names)
        assert picture.width == SHORT_PX
        heights.append(picture.height)
    assert SHORT_PX < heights[0] < heights[1]


@pytest.mark.parametrize(("width", "height"), [(40, 80), (8, 8), (700, 500)])
def test_small_pictures_are_enlarged_and_large_ones_are_not(width, height):
    picture = class_picture(photo(width, height), torch.zeros(height, width, dtype=torch.int64), NAMES)
    scale = max(SHORT_PX / min(width, height), 1)
    assert picture.size == (round(width * scale), round(height * scale))


def test_a_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"must have the image's size; got \(20, 10\) for an image of \(10, 20\)"):
        class_picture(photo(20, 10), torch.zeros(20, 10, dtype=torch.int64), NAMES)


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_an_opacity_that_is_no_share_is_refused(opacity):
    with pytest.raises(ValueError, match=f"opacity must be from 0 to 1; got {opacity}"):
        class_picture(photo(8, 8), torch.zeros(8, 8, dtype=torch.int64), NAMES, opacity=opacity)


def test_an_image_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png"):
        class_picture(tmp_path / "gone.png", torch.zeros(4, 4, dtype=torch.int64), NAMES)
    with pytest.raises(ImageError, match=r"gone\.png"):
        box_picture(tmp_path / "gone.png", boxes_of([0.0, 0.0, 1.0, 1.0]), NAMES)


def test_text_keeps_its_share_of_a_large_picture():
    size = 1000
    labels, depth = torch.ones(size, size, dtype=torch.int64), torch.ones(size, size)
    boxes = boxes_of([0.0, 0.0, 200.0, 200.0])
    pictures = (
        class_picture(photo(size, size), labels, NAMES),
        depth_picture(depth),
        box_picture(photo(size, size), boxes, ["dog"], note="a note"),
    )
    large = (
        class_picture(photo(3 * size, 3 * size), labels.repeat(3, 3), NAMES),
        depth_picture(depth.repeat(3, 3)),
        box_picture(photo(3 * size, 3 * size), boxes_of([0.0, 0.0, 600.0, 600.0]), ["dog"], note="a note"),
    )
    for once, thrice in zip(pictures, large, strict=True):
        assert thrice.size == (3 * once.width, 3 * once.height)
        shrunk = np.asarray(thrice.resize(once.size, Image.Resampling.BOX)).astype(float)
        assert np.abs(shrunk - np.asarray(once)).mean() < 0.3  # the text is smoother


# Depth


def test_depth_goes_from_red_to_blue_in_steps_of_equal_ratio():
    depth = torch.tensor([1.0, 4.0, 16.0]).repeat_interleave(SHORT_PX // 2)[None].expand(SHORT_PX, -1)
    pixels = np.asarray(depth_picture(depth)).astype(int)
    near, middle, far = (pixels[0, column] for column in (0, 3 * SHORT_PX // 4, 3 * SHORT_PX // 2 - 1))
    assert tuple(near) == (158, 1, 66)
    assert tuple(far) == (94, 79, 162)
    np.testing.assert_allclose(middle, (242, 234, 146), atol=1)  # half-way between the fifth and the sixth colour
    doubled = np.asarray(depth_picture(2 * depth))
    assert (doubled[:SHORT_PX] == pixels[:SHORT_PX]).all()  # only the metres below the bar differ
    assert (doubled != pixels).any()


@pytest.mark.parametrize("unknown", [0.0, -1.0, float("nan"), float("inf")])
def test_unknown_depth_is_grey_and_does_not_stretch_the_range(unknown):
    depth = torch.full((SHORT_PX, SHORT_PX), 2.0)
    depth[:, 160:] = 5.0
    plain = np.asarray(depth_picture(depth))
    depth[:10] = unknown
    pixels = np.asarray(depth_picture(depth))
    assert colors(pixels[:10]) == {UNKNOWN}
    assert (pixels[10:] == plain[10:]).all()


@pytest.mark.parametrize("value", [float("nan"), 0.0, 3.0])
def test_depth_that_is_the_same_everywhere_is_drawn(value):
    pixels = np.asarray(depth_picture(torch.full((8, 12), value)))
    assert pixels.shape == (SHORT_PX + 52, 480, 3)
    assert colors(pixels[:SHORT_PX]) == {(158, 1, 66) if value == 3 else UNKNOWN}


# Boxes


def test_a_box_is_drawn_where_it_is():
    image = photo(400, 400)
    picture = box_picture(image, boxes_of([100.0, 150.0, 300.0, 350.0], labels=[1]), NAMES)
    pixels = np.asarray(picture)
    assert tuple(pixels[250, 100]) == tuple(pixels[349, 200]) == tuple(pixels[250, 299]) == class_color(2)
    assert tuple(pixels[250, 200]) == GREY
    left, top, right, bottom = drawn(picture, image)
    assert (left, right, bottom) == (100, 300, 350)
    assert 120 < top < 150  # the name is above the box


@pytest.mark.parametrize("edges", [(0.0, 0.0, 400.0, 400.0), (390.0, 0.0, 400.0, 10.0), (0.0, 395.0, 3.0, 400.0)])
def test_a_name_stays_in_the_picture(edges):
    image = photo(400, 400)
    picture = box_picture(image, boxes_of(edges, labels=[1]), ["x", "a rather long name"])
    assert picture.size == image.size
    left, top, right, bottom = drawn(picture, image)
    assert right - left > 100  # the name is whole
    assert bottom - top >= 16


def test_boxes_grow_with_a_small_picture():
    pixels = np.asarray(box_picture(photo(40, 40), boxes_of([10.0, 20.0, 30.0, 40.0]), NAMES))
    assert pixels.shape == (SHORT_PX, SHORT_PX, 3)
    assert tuple(pixels[240, 80]) == tuple(pixels[240, 239]) == class_color(1)
    assert tuple(pixels[240, 160]) == GREY


def test_the_surest_box_lies_on_top():
    edges = torch.tensor([[50.0, 100.0, 300.0, 300.0]] * 2)
    detections = Detections(edges, torch.tensor([0, 1]), torch.tensor([0.9, 0.3]))
    pixels = np.asarray(box_picture(photo(400, 400), detections, NAMES))
    assert tuple(pixels[200, 50]) == class_color(1)


def filled(picture, label):
    """The number of pixels inside areas of a class's colour. Lines of that colour, 3 pixels wide, do not count."""
    hit = (np.asarray(picture) == class_color(label + 1)).all(-1)
    return int(np.lib.stride_tricks.sliding_window_view(hit, (5, 5)).all((2, 3)).sum())


@pytest.mark.parametrize("top", [0.0, 100.0, 200.0])
def test_no_name_lies_on_another(top):
    edges = [[50.0, top, 300.0, top + 200], [60.0, top + 5, 310.0, top + 190], [40.0, top + 2, 290.0, top + 195]]
    labels, scores = torch.tensor([0, 1, 3]), torch.tensor([0.9, 0.3, 0.5])
    boxes, names = torch.tensor(edges), ["one", "two", "three", "four"]
    together = box_picture(photo(400, 400), Detections(boxes, labels, scores), names)
    for k, label in enumerate(labels.tolist()):
        single = Detections(boxes[k : k + 1], labels[k : k + 1], scores[k : k + 1])
        assert filled(together, label) > 0.6 * filled(box_picture(photo(400, 400), single, names), label) > 0


def test_no_boxes_leave_the_picture_and_a_note_stands_below():
    none = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert colors(box_picture(photo(400, 400), none, NAMES)) == {GREY}
    noted = box_picture(photo(400, 400), none, NAMES, note="nothing above 0.5")
    assert noted.height == 434
    assert len(colors(noted.crop((0, 400, 400, 434)))) > 1


def test_a_label_without_a_name_is_drawn_as_its_number():
    image, boxes = photo(400, 400), boxes_of([100.0, 100.0, 200.0, 200.0], labels=[7])
    assert np.array_equal(
        np.asarray(box_picture(image, boxes, NAMES)), np.asarray(box_picture(image, boxes, [*"abcdefg", "7"]))
    )


# Sheets


@pytest.mark.parametrize("titles", [(), ("image", "truth")])
def test_a_sheet_holds_every_picture_whole(titles):
    red, green, blue, white = (photo(*size, color) for size, color in (
        ((30, 20), (255, 0, 0)), ((10, 40), (0, 255, 0)), ((50, 20), (0, 0, 255)), ((10, 10), (1, 2, 3)),
    ))  # fmt: skip
    pixels = np.asarray(sheet([[red, green], [blue, white]], titles=titles)).reshape(-1, 3)
    for picture in (red, green, blue, white):
        color = picture.getpixel((0, 0))
        assert (pixels == color).all(axis=1).sum() == picture.width * picture.height


@pytest.mark.parametrize("lengths", [(), (0,), (2, 1)])
def test_rows_that_make_no_sheet_are_refused(lengths):
    with pytest.raises(ValueError, match="a sheet needs at least one row, and rows of the same length; got"):
        sheet([[photo(8, 8)] * length for length in lengths])


CITYSCAPES_ROAD, CITYSCAPES_SIDEWALK = [128, 64, 128], [244, 35, 232]


@pytest.mark.parametrize(
    ("colors", "expected"),
    [
        ("cityscapes", [CITYSCAPES_ROAD, CITYSCAPES_SIDEWALK]),
        ("voc", [[0, 0, 0], [128, 0, 0]]),
        ([(1, 2, 3), (4, 5, 6), (7, 8, 9)], [[1, 2, 3], [4, 5, 6]]),
        (np.array([[1, 2, 3], [4, 5, 6]]), [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_classes_and_boxes_take_the_colours_of_a_palette(colors, expected):
    labels = torch.zeros(SHORT_PX, SHORT_PX, dtype=torch.int64)
    labels[:, SHORT_PX // 2 :] = 1
    names = ["road", "sidewalk"]
    pixels = np.asarray(class_picture(photo(SHORT_PX, SHORT_PX), labels, names, opacity=1.0, colors=colors))
    assert pixels[5, 5].tolist() == expected[0]
    assert pixels[5, SHORT_PX - 5].tolist() == expected[1]
    boxes = Boxes(torch.tensor([[50.0, 100.0, 200.0, 300.0]]), torch.tensor([1]))
    drawn = np.asarray(box_picture(photo(SHORT_PX, SHORT_PX), boxes, names, colors=colors))
    assert drawn[200, 50].tolist() == expected[1]


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        ("camvid", "colors must be one of voc, cityscapes, None; got 'camvid'"),
        ([(1, 2, 3)], "from 0 to 255 for each of 2 classes; got 1 colours"),
        ([(1, 2, 3), (1, 2, 256)], "from 0 to 255 for each of 2 classes; got 2 colours"),
        ([(1, 2), (3, 4)], "from 0 to 255 for each of 2 classes"),
    ],
)
def test_a_palette_that_does_not_fit_is_refused(colors, message, no_type_checker):
    labels = torch.zeros(SHORT_PX, SHORT_PX, dtype=torch.int64)
    with pytest.raises(OptionError, match=message):
        class_picture(photo(SHORT_PX, SHORT_PX), labels, ["road", "sidewalk"], colors=colors)
