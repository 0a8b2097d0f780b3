"""COCO json as labelling tools export it, and the rules of COCO itself."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import trees
from pycocotools import mask as coco_mask

from tadp import datasets
from tadp.datasets import CocoDataset
from tadp.datasets.readers.outlines import CocoOutline
from tadp.errors import DatasetError, MissingDataError

HEIGHT, WIDTH = trees.SIZE
SQUARE = [4.0, 5.0, 14.0, 5.0, 14.0, 15.0, 4.0, 15.0]


def row(number: int, **changes) -> dict:
    row = {"id": number, "image_id": 1, "category_id": 1, "bbox": [4, 5, 10, 10], "segmentation": [SQUARE]}
    return row | {"area": 100, "iscrowd": 0} | changes


def write(
    path: Path, annotations: list[dict], *, names=("a.jpg", "b.jpg"), categories=((1, "dog"), (2, "cat"))
) -> Path:
    images = [
        {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} for number, name in enumerate(names, 1)
    ]
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
        "categories": [{"id": number, "name": name, "supercategory": ""} for number, name in categories],
        "images": images,
        "annotations": annotations,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def run_lengths(mask: np.ndarray, *, compressed: bool) -> dict:
    coded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {"size": coded["size"], "counts": coded["counts"].decode()}
    flat = mask.T.ravel().astype(int)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": counts if flat[0] == 0 else [0, *counts]}


@pytest.fixture
def cvat(tmp_path):
    """CVAT's "COCO 1.0": annotations/instances_<subset>.json and images (datumaro's coco_format/converter.py)."""
    for name in ("a.jpg", "b.jpg"):
        trees.write_image(tmp_path / "export/images/default" / name)
    return tmp_path / "export"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
def test_boxes_and_polygons(cvat):
    write(
        cvat / "annotations/instances_default.json",
        [
            row(1),
            row(2, category_id=2, bbox=[20, 2.5, 30, 8], segmentation=[[20, 2.5, 40, 2.5, 20, 10.5]]),
            row(3, image_id=2),
        ],
    )
    data = datasets.open(cvat)
    assert isinstance(data, CocoDataset)
    assert data.image_ids == ["a", "b"]
    assert data.tasks == ("detection", "segmentation")
    assert (data.class_names, data.box_class_names) == (("background", "dog", "cat"), ("dog", "cat"))
    assert data[0].boxes.boxes.tolist() == [[4, 5, 14, 15], [20, 2.5, WIDTH, 10.5]]
    assert data[0].boxes.labels.tolist() == [0, 1]
    expected = np.zeros(trees.SIZE, np.int64)
    for value, polygon in ((1, SQUARE), (2, [20, 2.5, 40, 2.5, 20, 10.5])):
        (coded,) = coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)
        expected[coco_mask.decode(coded).astype(bool)] = value
    assert np.array_equal(data[0].mask, expected)
    assert (expected == 1).sum() == 100
    assert repr(data) == "<CocoDataset 'export': 2 images, boxes and masks of 2 classes>"


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths_are_drawn_and_crowds_are_marked(cvat, compressed):
    mask = np.random.default_rng(1).random(trees.SIZE) > 0.6
    crowd = row(1, segmentation=run_lengths(mask, compressed=compressed), bbox=[0, 0, WIDTH, HEIGHT], iscrowd=1)
    path = write(cvat / "annotations/instances_default.json", [crowd, row(2, image_id=2)])
    data = CocoDataset(path)
    assert np.array_equal(data[0].mask, mask.astype(np.int64))
    assert data[0].boxes.difficult.tolist() == [True]
    assert data[1].boxes.difficult.tolist() == [False]
    objects = data.without_crowds()
    assert [len(objects[0].boxes), len(objects[1].boxes)] == [0, 1]
    assert len(data[0].boxes) == 1


def test_masks_drawn_in_cvat_are_no_crowds(cvat):
    """datumaro writes iscrowd=1 for every mask, with the attributes of the object next to it."""
    mask = trees.quadrants(0, 1, 0, 0)
    drawn = row(1, segmentation=run_lengths(mask, compressed=False), iscrowd=1, attributes={"occluded": False})
    write(cvat / "annotations/instances_default.json", [drawn, row(2, image_id=2)])
    assert CocoDataset(cvat)[0].boxes.difficult.tolist() == [False]


def test_the_smaller_of_two_objects_is_in_front_in_any_order(cvat):
    large = row(1, bbox=[0, 0, WIDTH, HEIGHT], segmentation=[[0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]])
    small = row(2, category_id=2)
    for annotations in ([large, small], [small, large]):
        path = write(cvat / "annotations/instances_default.json", [*annotations, row(3, image_id=2)])
        mask = CocoDataset(path)[0].mask
        assert (mask == 2).sum() == 100
        assert (mask == 1).sum() == HEIGHT * WIDTH - 100


def test_an_object_with_only_a_box_is_unknown_in_a_mask(cvat):
    path = write(cvat / "annotations/instances_default.json", [row(1, segmentation=[]), row(2, image_id=2)])
    mask = CocoDataset(path)[0].mask
    assert (mask == 255).sum() == 100
    assert (mask[5:15, 4:14] == 255).all()
    path = write(path, [row(1, segmentation=[]), row(2, image_id=2, segmentation=[])])
    assert CocoDataset(path).tasks == ("detection",)
    assert CocoDataset(path)[0].mask is None


def test_label_studio_counts_categories_from_0_and_names_images_with_their_folder(tmp_path):
    """label-studio-converter, convert_to_coco: result.json, and file_name below it, of Windows too."""
    for name in ("a.jpg", "b.jpg"):
        trees.write_image(tmp_path / "images" / name)
    write(
        tmp_path / "result.json",
        [row(1, category_id=0), row(2, image_id=2, category_id=1, segmentation=[])],
        names=("images/a.jpg", "images\\b.jpg"),
        categories=((0, "cat"), (1, "dog")),
    )
    data = datasets.open(tmp_path)
    assert data.image_ids == ["images/a", "images/b"]
    assert [sample.boxes.labels.tolist() for sample in data] == [[0], [1]]
    assert data.box_class_names == ("cat", "dog")


def test_roboflow_has_a_json_in_the_folder_of_each_split_and_a_category_that_only_groups(tmp_path):
    """Roboflow's export "COCO": <split>/_annotations.coco.json; category 0 is the supercategory of the others."""
    for split in ("train", "valid"):
        trees.write_image(tmp_path / split / "a_jpg.rf.0a1.jpg")
        path = write(tmp_path / split / "_annotations.coco.json", [row(0)], names=("a_jpg.rf.0a1.jpg",))
        content = json.loads(path.read_text())
        content["categories"] = [
            {"id": 0, "name": "pets", "supercategory": "none"},
            {"id": 1, "name": "dog", "supercategory": "pets"},
            {"id": 2, "name": "cat", "supercategory": "pets"},
        ]
        path.write_text(json.dumps(content))
    data = datasets.open(tmp_path)
    assert data.box_class_names == ("dog", "cat")
    assert data.splits == {"train": ["train/a_jpg.rf.0a1"], "val": ["val/a_jpg.rf.0a1"]}
    assert data.image_paths["val/a_jpg.rf.0a1"] == tmp_path / "valid/a_jpg.rf.0a1.jpg"


def test_coco_itself_has_a_folder_of_images_for_each_json(tmp_path):
    for split in ("train2017", "val2017"):
        trees.write_image(tmp_path / split / "000000000009.jpg")
        write(tmp_path / f"annotations/instances_{split}.json", [row(1)], names=("000000000009.jpg",))
        write(tmp_path / f"annotations/captions_{split}.json", [], names=("000000000009.jpg",))
    data = datasets.open(tmp_path)
    assert data.splits == {"train": ["train/000000000009"], "val": ["val/000000000009"]}
    assert data.image_paths["val/000000000009"] == tmp_path / "val2017/000000000009.jpg"


def test_an_image_outside_the_data_set_is_not_read(cvat):
    trees.write_image(cvat.parent / "private.jpg")
    for name in ("../../../private.jpg", "default/../../../../private.jpg", "..\\..\\..\\private.jpg"):
        write(cvat / "annotations/instances_default.json", [row(1)], names=("a.jpg", name))
        with pytest.raises(DatasetError, match=r"instances_default\.json lists the image .*outside the data set"):
            datasets.open(cvat)
    rows = [row(1), row(2, image_id=2)]
    write(cvat / "annotations/instances_default.json", rows, names=("a.jpg", "../default/b.jpg"))
    assert len(datasets.open(cvat)) == 2


def test_what_contradicts_the_image_is_refused(cvat):
    path = cvat / "annotations/instances_default.json"
    wrong_size = run_lengths(np.ones((10, 10), bool), compressed=True)
    short = {"size": list(trees.SIZE), "counts": [3, 4]}
    damaged = {"size": list(trees.SIZE), "counts": "zz"}
    for change, message in (
        ({"bbox": [40, 5, 10, 10]}, "a box must be inside its image of 24x36"),
        ({"bbox": [float("nan"), 5, 10, 10]}, "a box must have finite numbers"),
        ({"segmentation": wrong_size}, r"run lengths must have the size of their image, 24x36 .*got \(10, 10\)"),
        ({"segmentation": short}, "run lengths must add up to the pixels of 24x36; they add up to 7"),
        ({"segmentation": damaged}, "run lengths must add up to the pixels of 24x36"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "x and y in turn"),
    ):
        write(path, [row(1), row(7, **change), row(2, image_id=2)])
        with pytest.raises(DatasetError, match=rf"instances_default.json, annotation 7: .*{message}"):
            CocoDataset(cvat)
        with pytest.warns(UserWarning, match=r"1 label contradicts the image \(left out\); .*annotation 7"):
            assert len(CocoDataset(cvat, bad_labels="skip")[0].boxes) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [4, 5, 0, 10]}, "a box must have an area; got left, top, right, bottom = 4, 5, 4, 15"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon must have three points or more; it has 2"),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, "bbox": None},
            "a mask must have pixels; all of it is empty",
        ),
    ],
)
def test_objects_without_area_are_left_out(cvat, change, message):
    write(cvat / "annotations/instances_default.json", [row(1), row(7, **change), row(2, image_id=2)])
    with pytest.warns(UserWarning, match=rf"1 label has no area \(left out\); .*annotation 7: {message}"):
        assert len(CocoDataset(cvat)[0].boxes) == 1


def test_a_missing_box_is_that_of_the_outline(cvat):
    lengths = run_lengths(trees.quadrants(0, 1, 0, 0), compressed=True)
    annotations = [row(1), row(2, image_id=2, segmentation=lengths)]
    for annotation in annotations:
        del annotation["bbox"]
    data = CocoDataset(write(cvat / "annotations/instances_default.json", annotations))
    assert data[0].boxes.boxes.tolist() == [[4, 5, 14, 15]]
    assert data[1].boxes.boxes.tolist() == [[WIDTH / 2, 0, WIDTH, HEIGHT / 2]]


def test_the_box_of_a_large_region_takes_little_memory():
    outline = CocoOutline({"size": [4000, 4000], "counts": [0, 16_000_000]})
    tracemalloc.start()
    try:
        assert outline.box() == (0, 0, 4000, 4000)
        assert tracemalloc.get_traced_memory()[1] < 100e6  # the indices of its pixels take 256 MB
    finally:
        tracemalloc.stop()


def test_images_that_are_not_there_or_have_no_annotations(cvat):
    path = write(cvat / "annotations/instances_default.json", [row(1)], names=("a.jpg", "b.jpg", "c.jpg"))
    with pytest.raises(MissingDataError, match=r"1 of 3 images in the json are not there, the first of them .*c.jpg"):
        CocoDataset(path)
    with pytest.warns(UserWarning, match="1 of") as warned:
        assert CocoDataset(path, unpaired="skip").image_ids == ["a"]
    assert "1 of 3 images in the json are not there" in str(warned[0].message)
    assert "1 of 2 images have no annotations" in str(warned[1].message)
    write(path, [row(1)])
    with pytest.warns(
        UserWarning, match=r"1 of 2 images have no annotations, .*b.jpg; they are taken as images without"
    ):
        assert [len(sample.boxes) for sample in CocoDataset(cvat)] == [1, 0]
    assert len(CocoDataset(cvat, unpaired="empty")) == 2


def test_a_name_in_two_folders_is_refused(tmp_path):
    for folder in ("x", "y"):
        trees.write_image(tmp_path / folder / "a.jpg")
    write(tmp_path / "result.json", [row(1)], names=("a.jpg",))
    with pytest.raises(
        DatasetError, match=r"result.json: 'a.jpg' fits two images of the same name, 'x/a.jpg' and 'y/a.jpg'"
    ):
        CocoDataset(tmp_path)
    assert CocoDataset(tmp_path, images=tmp_path / "y").image_paths["a"] == tmp_path / "y/a.jpg"


def test_what_is_not_coco_json_is_refused(cvat):
    path = write(cvat / "annotations/instances_default.json", [row(1), row(2, image_id=2)])
    whole = path.read_text()
    for text, message in (
        (whole[:-20], "cannot be read as json"),
        (whole.replace('"categories"', '"kinds"'), "must have a list of categories"),
        (whole.replace('"category_id"', '"category"'), "entry 0 of annotations has no 'category_id'"),
        (whole.replace('"image_id": 1', '"image_id": 9'), "annotation 1: there is no image with the id 9"),
        (whole.replace('"category_id": 1', '"category_id": 9'), "annotation 1: there is no category with the id 9"),
        (whole.replace("[4, 5, 10, 10]", '"all"'), "annotation 1: bbox must be four numbers"),
        (whole.replace("b.jpg", "a.jpg"), "lists the image 'a.jpg' twice"),
    ):
        path.write_text(text)
        with pytest.raises(DatasetError, match=rf"instances_default.json.*{message}"):
            CocoDataset(path)
    with pytest.raises(MissingDataError, match=r"no COCO json was found in .*images"):
        CocoDataset(cvat / "images")


@pytest.mark.parametrize("foreign", [[{"id": 1, "annotations": [{"id": 2}]}], {"annotations": []}])
def test_another_tools_json_next_to_coco_json_is_left_out_with_a_warning(tmp_path, foreign):
    trees.write_image(tmp_path / "train/a.jpg")
    write(tmp_path / "train/_annotations.coco.json", [row(1)], names=["a.jpg"])
    (tmp_path / "train/project-3.json").write_text(json.dumps(foreign))
    with pytest.warns(UserWarning, match=r"project-3\.json is not COCO json, .*so it is not used"):
        data = datasets.open(tmp_path)
    assert data.image_ids == ["a"]


def test_coco_json_without_a_part_is_refused_next_to_another(tmp_path):
    for part in ("train", "val"):
        trees.write_image(tmp_path / part / "a.jpg")
        path = write(tmp_path / part / "_annotations.coco.json", [row(1)], names=["a.jpg"])
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: content[name] for name in ("annotations", "categories")}))
    with pytest.raises(DatasetError, match=r"val/_annotations\.coco\.json must have a list of images"):
        datasets.open(tmp_path)


def test_categories_that_differ_only_in_case_are_refused(cvat):
    write(
        cvat / "annotations/instances_default.json", [row(1), row(2, image_id=2)], categories=((1, "dog"), (2, "Dog "))
    )
    with pytest.raises(DatasetError, match=r"differ in case or blanks: 'dog' .*annotation 2\) and 'Dog '"):
        CocoDataset(cvat)
    assert CocoDataset(cvat, class_names={"Dog ": "dog"}).box_class_names == ("dog",)


@pytest.fixture
def fire(tmp_path):
    """images and masks with folders of the same names, and two json files of which one does not begin with instances_.

    One image of each split is missing, but its mask is there.
    """
    for split, names in (("train", ("a", "b", "c")), ("val", ("a", "d"))):
        for name in names:
            trees.write_image(tmp_path / f"masks/{split}/{name}.png")
            if name not in "cd":
                trees.write_image(tmp_path / f"images/{split}/{name}.jpg")
        start = "" if split == "train" else "val_"
        rows = [row(number, image_id=number) for number in range(1, len(names) + 1)]
        write(
            tmp_path / f"annotations/{start}instances_default.json",
            rows,
            names=tuple(f"{split}/{name}.jpg" for name in names),
        )
    return tmp_path


def test_a_mask_is_not_taken_for_a_missing_image_and_missing_images_are_counted(fire):
    with pytest.raises(
        MissingDataError, match=rf"2 of 5 images in the json are not there, .*first .*{fire}/images/train/c\.jpg"
    ):
        datasets.open(fire)
    with pytest.warns(UserWarning, match="2 of 5 images"):
        data = datasets.open(fire, unpaired="skip")
    assert {path.relative_to(fire).parts[0] for path in data.image_paths.values()} == {"images"}
    assert data.splits == {"train": ["train/a", "train/b"], "val": ["val/a"]}


@pytest.mark.parametrize("folder", ["truth", "images/val"])
def test_an_image_of_another_folder_is_not_taken_for_a_missing_one(fire, folder):
    (fire / "masks").rename(fire / "truth")
    trees.write_image(fire / folder / ("train/c.png" if folder == "truth" else "c.jpg"))
    (fire / "annotations/val_instances_default.json").unlink()
    with pytest.raises(MissingDataError, match=r"1 of 3 images .*images/train/c\.jpg"):
        datasets.open(fire)


def test_a_missing_image_of_a_single_split_has_its_path_once(fire):
    (fire / "annotations/instances_default.json").unlink()
    (fire / "images/val/a.jpg").rename(fire / "images/val/z.jpg")
    with pytest.raises(MissingDataError, match=rf"2 of 2 .*{fire}/images/val/a\.jpg"):
        datasets.open(fire)


def test_json_files_that_are_not_read_are_named(cvat):
    write(cvat / "annotations/instances_default.json", [row(1), row(2, image_id=2)])
    write(cvat / "annotations/old.json", [row(1)], names=("a.jpg",))
    write(cvat / "annotations/person_keypoints_default.json", [row(1)], names=("a.jpg",))
    with pytest.warns(UserWarning, match=r"old\.json is not read: neither its name nor those of its images") as caught:
        data = datasets.open(cvat)
    assert len(caught) == 1
    assert data.image_ids == ["a", "b"]
    (cvat / "annotations/old.json").unlink()
    write(cvat / "annotations/instances_train.json", [row(1), row(2, image_id=2)])
    write(cvat / "annotations/train_again.json", [row(1)], names=("a.jpg",))
    (cvat / "annotations/instances_default.json").unlink()
    with pytest.warns(UserWarning, match=r"train_again\.json is not read: it lists images of another json file again"):
        assert datasets.open(cvat).image_ids == ["train/a", "train/b"]


def test_folders_in_the_file_names_of_one_json_are_its_splits(tmp_path):
    for name in ("train/a.jpg", "valid/a.jpg"):
        trees.write_image(tmp_path / "images" / name)
    write(tmp_path / "annotations/instances_default.json", [row(1)], names=("train/a.jpg", "valid/a.jpg"))
    with pytest.warns(UserWarning, match="1 of 2 images have no annotations"):
        assert datasets.open(tmp_path).splits == {"train": ["train/a"], "val": ["valid/a"]}
