"""Rows as Hugging Face's library `datasets` returns them: PIL images, bytes, lists of boxes."""

import io

import numpy as np
import pytest
import torch
import trees
from PIL import Image

from tadp.captions import CaptionTable
from tadp.datasets import RowDataset, split
from tadp.errors import DatasetError, ImageError

NAMES = ("dog", "cat")


def picture(name: str) -> Image.Image:
    return Image.fromarray(trees.pixels(name))


def content(image: Image.Image) -> dict:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": None}


def row(name: str, **more) -> dict:
    """A row of cppe-5 on the hub: image_id, image, width, height, objects of id, area, bbox (COCO's) and category."""
    objects = {
        "id": [1, 2],
        "area": [50, 4],
        "bbox": [[2.0, 3.0, 10.0, 5.0], [20.0, 1.0, 4.0, 1.0]],
        "category": [1, 0],
    }
    return {"image_id": name, "image": picture(name), "width": 36, "height": 24, "objects": objects} | more


def test_objects_are_boxes():
    data = RowDataset([row("a"), row("b")], objects="objects", image_id="image_id", class_names=NAMES)
    assert data.image_ids == ["a", "b"]
    assert data.tasks == ("detection",)
    assert np.array_equal(data[1].image, trees.pixels("b"))
    assert data[0].boxes.boxes.tolist() == [[2, 3, 12, 8], [20, 1, 24, 2]]
    assert data[0].boxes.labels.tolist() == [1, 0]
    listed = row("a", objects=[{"bbox": [2, 3, 12, 8], "label": "cat"}])
    corners = RowDataset([listed], objects="objects", class_names=NAMES, box_format="xyxy")
    assert corners[0].boxes.boxes.tolist() == [[2, 3, 12, 8]]
    assert corners[0].boxes.labels.tolist() == [1]


@pytest.mark.parametrize("form", ["picture", "bytes", "array", "path"])
def test_masks_and_depth_in_any_form(form, tmp_path):
    mask = trees.quadrants(0, 1, 1, 255).astype(np.uint8)
    depth = np.full(trees.SIZE, 1500, np.uint16)
    values = {"mask": mask, "depth": depth, "image": trees.pixels("a")}
    for key, array in values.items():
        image = Image.fromarray(array)
        image.save(tmp_path / f"{key}.png")
        forms = {"picture": image, "bytes": content(image), "array": array, "path": str(tmp_path / f"{key}.png")}
        values[key] = forms[form]
    data = RowDataset([values], mask="mask", depth="depth", class_names=NAMES)
    assert data.tasks == ("segmentation", "depth")
    assert np.array_equal(data[0].mask, mask)
    assert np.allclose(data[0].depth_m, 1.5)
    assert np.array_equal(data[0].image, trees.pixels("a"))


def test_tensors_have_their_channels_first():
    """As `with_format("torch")` returns images and masks, (3, H, W) and (1, H, W)."""
    mask = trees.quadrants(0, 1, 1, 255).astype(np.uint8)
    image = torch.from_numpy(trees.pixels("a")).movedim(-1, 0)
    rows = [{"image": image, "mask": torch.from_numpy(mask)[None], "depth": torch.full((1, *trees.SIZE), 2.5)}]
    data = RowDataset(rows, mask="mask", depth="depth", class_names=NAMES)
    assert np.array_equal(data[0].image, trees.pixels("a"))
    assert np.array_equal(data[0].mask, mask)
    assert data[0].depth_m.tolist() == np.full(trees.SIZE, 2.5).tolist()


class Columns(list):
    """A table like a `datasets.Dataset`, which returns a column without the images of its rows."""

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


def test_ids_are_read_without_the_images(monkeypatch):
    table = Columns([row("a"), row("b"), row("c")])
    read = []
    monkeypatch.setattr(
        Columns, "__getitem__", lambda self, key, own=Columns.__getitem__: read.append(key) or own(self, key)
    )
    data = RowDataset(table, objects="objects", image_id="image_id", class_names=NAMES)
    assert data.image_ids == ["a", "b", "c"]
    assert read == ["image_id", 0]  # the column, and the first row, whose columns are checked
    with pytest.raises(DatasetError, match="row 1 has no value in the column 'image_id'"):
        RowDataset(
            Columns([row("a"), row("b", image_id=None)]), objects="objects", image_id="image_id", class_names=NAMES
        )


def test_splits_and_streams_are_refused(no_type_checker):
    with pytest.raises(
        DatasetError, match="RowDataset has two classes whose names only differ in case or blanks: 'dog'"
    ):
        RowDataset([row("a")], objects="objects", class_names=["dog", "Dog"])
    with pytest.raises(TypeError, match=r"those of one split; got a mapping with train, test. Pass rows\['train'\]"):
        RowDataset({"train": [row("a")], "test": [row("b")]}, objects="objects", class_names=NAMES)
    with pytest.raises(TypeError, match=r"must have a length and numbers; got generator. .* without streaming=True"):
        RowDataset((row(name) for name in "ab"), objects="objects", class_names=NAMES)


def test_coloured_masks_have_a_palette():
    colors = np.array([(0, 0, 0), (200, 10, 10)], np.uint8)
    rows = [row("a", mask=Image.fromarray(colors[trees.quadrants(0, 1, 1, 0)]))]
    data = RowDataset(rows, mask="mask", class_names=NAMES, palette=[(0, 0, 0), (200, 10, 10)])
    assert np.array_equal(data[0].mask, trees.quadrants(0, 1, 1, 0))
    with pytest.raises(DatasetError, match=r"the mask of row 0 is a colour picture \(mode RGB\)"):
        RowDataset(rows, mask="mask", class_names=NAMES)[0]


def test_rows_are_captioned_split_and_taken_apart():
    data = RowDataset([row(str(number)) for number in range(5)], objects="objects", class_names=NAMES)
    table = CaptionTable()
    table.fill(data.image_paths, lambda images: [f"{image.width} wide" for image in images])
    parts = split(data, fraction=0.4)
    assert sorted(parts["train"].image_ids + parts["val"].image_ids) == data.image_ids
    described = parts["val"].with_captions(table)
    assert described[0].caption == "36 wide"
    assert np.array_equal(described[1].image, trees.pixels(described.image_ids[1]))


def test_rows_are_read_when_they_are_used():
    class Counted(list):
        read = 0

        def __getitem__(self, index):
            Counted.read += 1
            return super().__getitem__(index)

    data = RowDataset(Counted(row(str(number)) for number in range(50)), objects="objects", class_names=NAMES)
    before = Counted.read
    assert before <= 2
    assert data[7].image_id == "7"
    assert Counted.read == before + 1


def test_what_is_wrong_is_named_with_its_row():
    whole = {"bbox": [[2, 3, 10, 5]], "category": [1]}
    for changes, message in (
        (
            {"objects": whole | {"category": [2]}},
            r"the objects of row 1, object 1: unknown class 2; the class_names",
        ),
        ({"objects": whole | {"category": ["bird"]}}, "unknown class 'bird'"),
        ({"objects": whole | {"bbox": [[2, 3, 10]]}}, "object 1: a box must have four numbers and a class"),
        ({"objects": whole | {"bbox": [[50, 3, 10, 5]]}}, "object 1: a box must be inside its image of 24x36"),
        ({"objects": {"boxes": []}}, "must have bbox or boxes, and category"),
        ({"objects": None}, "row 1 has no value in the column 'objects'"),
    ):
        data = RowDataset([row("a"), row("b", **changes)], objects="objects", class_names=NAMES)
        with pytest.raises(DatasetError, match=message):
            data[1]
    data = RowDataset([row("a", objects=whole | {"bbox": [[2, 3, 0, 5]]})], objects="objects", class_names=NAMES)
    with pytest.warns(UserWarning, match="the objects of row 0, object 1: a box must have an area"):
        assert len(data[0].boxes) == 0
    with pytest.raises(ImageError, match="row 0 has bytes that are not an image"):
        RowDataset([row("a", image={"bytes": b"?", "path": None})], objects="objects", class_names=NAMES)[0]
    small = row("a", mask=Image.new("L", (4, 4)))
    with pytest.raises(DatasetError, match="the mask of row 0 is 4x4, and the image '0' is 24x36"):
        RowDataset([small], mask="mask", class_names=NAMES)[0]


def test_columns_and_ids_are_checked_at_once():
    with pytest.raises(DatasetError, match=r"row 0 has no column 'label'; its columns are image_id, image"):
        RowDataset([row("a")], mask="label", class_names=NAMES)
    with pytest.raises(DatasetError, match="rows 0 and 1 have the same id, 'a'"):
        RowDataset([row("a"), row("a")], objects="objects", image_id="image_id", class_names=NAMES)
    with pytest.raises(ValueError, match="a data set needs labels"):
        RowDataset([row("a")])
    with pytest.raises(ValueError, match="no class_names"):
        RowDataset([row("a")], objects="objects")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "objects",
            {"bbox": [[2, 3, 10, 5]], "category": [-1]},
            "object 1: unknown class -1; the class_names are dog, cat",
        ),
        ("objects", {"bbox": [[2, 3, 10, 5]] * 2, "category": [1]}, "must have one class per box"),
        ("objects", {"bbox": [[10**400, 3, 10, 5]], "category": [1]}, "a box must have four numbers"),
        ("mask", np.full(trees.SIZE, "1"), "the mask of row 0 must be an image or an array of numbers; got <U1"),
        ("depth", Image.new("L", trees.SIZE[::-1], 9), "the depth of row 0 is a picture of mode L; depth must have 16"),
        ("image", np.zeros(9, np.uint8), r"the image of row 0: image is an array of shape \(9,\)"),
    ],
)
def test_what_is_wrong_in_a_row_is_named_with_its_row(column, value, message):
    named = {"objects": "objects"} if column == "image" else {column: column}
    data = RowDataset([row("a", **{column: value})], class_names=NAMES, **named)
    with pytest.raises((DatasetError, ImageError), match=message):
        data[0]


def test_a_row_is_a_mapping():
    with pytest.raises(DatasetError, match=r"row 0 must be a mapping from columns to values; got 5\."):
        RowDataset([5], objects="objects", class_names=NAMES)
