"""labelme's json: its shapes, masks, groups and names."""

import base64
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image, ImageDraw

from tadp import datasets
from tadp.datasets import LabelmeFolder
from tadp.errors import DatasetError, MissingDataError

HEIGHT, WIDTH = trees.SIZE


def shape(label: str, points: list, kind: str = "polygon", **more) -> dict:
    """A shape as labelme 5 writes it: _label_file.py, _dump_shape_to_json_obj."""
    empty = {"group_id": None, "description": "", "shape_type": kind, "flags": {}, "mask": None}
    return {"label": label, "points": points, **empty, **more}


def write(root: Path, name: str, shapes: list[dict], *, image: str | None = None, size=trees.SIZE) -> Path:
    path = root / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.7.0", "flags": {}, "shapes": shapes, "imagePath": image or f"{path.stem}.jpg"}
    path.write_text(json.dumps(content | {"imageData": None, "imageHeight": size[0], "imageWidth": size[1]}))
    if image is None:
        trees.write_image(path.with_suffix(".jpg"))
    return path


def png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def drawn(method: str, points) -> np.ndarray:
    """The pixels that labelme draws for a shape: _utils/shape.py, shape_to_mask."""
    canvas = Image.new("L", (WIDTH, HEIGHT))
    getattr(ImageDraw.Draw(canvas), method)(points, outline=1, fill=1)
    return np.asarray(canvas) > 0


def test_shapes_are_boxes_and_masks_in_the_order_of_the_file(tmp_path):
    patch = np.array([[1, 0, 1], [1, 1, 0]])
    write(
        tmp_path,
        "a",
        [
            shape("dog", [[10, 15], [2, 3]], "rectangle"),
            shape("cat", [[4.5, 4], [30, 4], [4.5, 20]]),
            shape("dog", [[25, 15], [25, 20]], "circle"),
            shape("cat", [[33, 1], [35, 2]], "mask", mask=png(patch)),
        ],
    )
    data = datasets.open(tmp_path)
    assert isinstance(data, LabelmeFolder)
    assert data.class_names == ("background", "cat", "dog")
    expected = np.zeros(trees.SIZE, np.int64)
    expected[drawn("rectangle", (2, 3, 10, 15))] = 2
    expected[drawn("polygon", [(4.5, 4), (30, 4), (4.5, 20)])] = 1
    expected[drawn("ellipse", (20, 10, 30, 20))] = 2
    expected[1:3, 33:36] = patch
    sample = data[0]
    assert np.array_equal(sample.mask, expected)
    boxes = sample.boxes.boxes.round().tolist()
    assert boxes == [[2, 3, 10, 15], [4, 4, 30, 20], [20, 10, 30, 20], [33, 1, 36, 3]]
    assert sample.boxes.labels.tolist() == [1, 0, 1, 0]


def test_shapes_of_one_group_are_one_object(tmp_path):
    left, right = [[1, 1], [9, 1], [9, 9]], [[20, 2], [30, 2], [30, 12]]
    write(tmp_path, "a", [shape("dog", left, group_id=1), shape("cat", left), shape("dog", right, group_id=1)])
    sample = LabelmeFolder(tmp_path)[0]
    assert sample.boxes.boxes.tolist() == [[1, 1, 30, 12], [1, 1, 9, 9]]
    assert sample.boxes.labels.tolist() == [1, 0]
    assert (sample.mask[drawn("polygon", [tuple(point) for point in right])] == 2).all()


def test_ignored_areas_are_255_and_background_is_0(tmp_path):
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    square = [[2, 2], [20, 2], [20, 20], [2, 20]]
    hole = [[5, 5], [8, 5], [8, 8], [5, 8]]
    write(
        tmp_path,
        "a",
        [shape("cat", square), shape("_background_", hole), shape("__ignore__", [[12, 12], [15, 15]], "rectangle")],
    )
    data = LabelmeFolder(tmp_path)
    assert data.box_class_names == ("dog", "cat")
    assert len(data[0].boxes) == 1
    assert data[0].mask[[3, 6, 13], [3, 6, 13]].tolist() == [2, 0, 255]


def test_shapes_without_area_are_left_out(tmp_path):
    triangle = [[1, 1], [9, 1], [9, 9]]
    write(tmp_path, "a", [shape("dog", triangle), shape("dog", [[1, 1], [9, 1]]), shape("dog", triangle, "linestrip")])
    with pytest.warns(
        UserWarning,
        match=r"2 labels have no area \(left out\); .*a.json, shape 2: a polygon must have three points",
    ):
        assert len(LabelmeFolder(tmp_path)[0].boxes) == 1
    write(tmp_path, "a", [shape("dog", triangle), shape("dog", [[1, 1]], "point")])
    with pytest.warns(UserWarning, match=r"a.json, shape 2: a shape must have an area; it is a point"):
        LabelmeFolder(tmp_path)


def test_images_may_be_in_another_folder(tmp_path):
    trees.write_image(tmp_path / "photos/a.jpg")
    write(tmp_path / "json", "a", [shape("dog", [[1, 1], [9, 1], [9, 9]])], image="..\\photos\\a.jpg")
    data = LabelmeFolder(tmp_path / "json")
    assert data.image_ids == ["a"]
    assert LabelmeFolder(tmp_path).image_ids == ["photos/a"]


def test_images_without_json_and_json_without_image(tmp_path):
    triangle = [[1, 1], [9, 1], [9, 9]]
    write(tmp_path, "a", [shape("dog", triangle)])
    trees.write_image(tmp_path / "b.jpg")
    with pytest.raises(MissingDataError, match=r"1 of 2 images have no json file, the first of them .*b.jpg"):
        LabelmeFolder(tmp_path)
    assert [len(sample.boxes) for sample in LabelmeFolder(tmp_path, unpaired="empty")] == [1, 0]
    (tmp_path / "b.jpg").unlink()
    write(tmp_path, "c", [shape("dog", triangle)], image="c.jpg")
    with pytest.warns(UserWarning, match=r"1 label file has no image \(not used\), the first: .*c.json"):
        assert len(LabelmeFolder(tmp_path)) == 1


def test_many_large_masks_stay_compressed(tmp_path):
    large = png(np.ones((4000, 4000)))
    write(tmp_path, "a", [shape("dog", [[0, 0], [3999, 3999]], "mask", mask=large)] * 20, size=(4000, 4000))
    data = LabelmeFolder(tmp_path)
    assert len(pickle.dumps(data)) < 2_000_000  # 320 MB as pixels


def test_files_that_are_wrong_are_named(tmp_path):
    triangle = [[1, 1], [9, 1], [9, 9]]
    for shapes, message in (
        ([{"label": "dog"}], r"a.json, shape 1: a shape must have a label, points"),
        (
            [shape("dog", triangle, "mask", mask="no png")],
            r"a.json, shape 1: a shape must have a label, points, and a mask",
        ),
        ([shape("dog", [[50, 50], [60, 50], [60, 60]])], r"a.json, shape 1: a box must be inside its image of 24x36"),
        (
            [shape("dog", [[30, 20], [40, 30]], "mask", mask=png(np.ones((10, 10))))],
            r"shape 1: a mask of 10x10 at left 30",
        ),
        (
            [shape("dog", [[1, 1], [3, 3]], "mask", mask=png(np.ones((3, 3, 3))))],
            r"a.json, shape 1: a shape must have a label, points, and a mask",
        ),
        ([shape("Dog", triangle), shape("dog", triangle)], "only differ in case or blanks"),
    ):
        write(tmp_path, "a", shapes)
        with pytest.raises(DatasetError, match=message):
            LabelmeFolder(tmp_path)
    write(tmp_path, "a", [shape("dog", triangle)], size=(10, 10))
    with pytest.raises(DatasetError, match=r"a.json is 10x10, and the image 'a' is 24x36"):
        LabelmeFolder(tmp_path)[0]
    (tmp_path / "a.json").write_text('{"shapes": ')
    with pytest.raises(DatasetError, match=r"a.json cannot be read as json"):
        LabelmeFolder(tmp_path)
