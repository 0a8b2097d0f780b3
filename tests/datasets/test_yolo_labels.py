"""YOLO's text labels in the layouts of Ultralytics, darknet and labelling tools."""

from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image, ImageDraw

from tadp import datasets
from tadp.datasets import YoloDataset
from tadp.errors import DatasetError, MissingDataError

HEIGHT, WIDTH = trees.SIZE
BOX = "1 0.5 0.25 0.5 0.5\n"  # 9, 0, 27, 12
TRIANGLE = "0 0 0 0.5 0 0 0.5\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def ultralytics(tmp_path):
    """CVAT's "Ultralytics YOLO": datumaro's YOLOv8DetectionConverter writes path, names and a list for each subset."""
    root = tmp_path / "export"
    write(root / "data.yaml", "names:\n  0: dog\n  1: cat\npath: .\ntrain: train.txt\nval: val.txt\n")
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        trees.write_image(root / "images" / split / f"{name}.jpg")
        write(root / "labels" / split / f"{name}.txt", BOX)
    write(root / "train.txt", "data/images/train/a.jpg\ndata/images/train/b.jpg\n")
    write(root / "val.txt", "data/images/val/c.jpg\n")
    return root


def test_boxes_are_fractions_and_splits_are_those_of_the_yaml(ultralytics):
    data = datasets.open(ultralytics)
    assert isinstance(data, YoloDataset)
    assert data.image_ids == ["train/a", "train/b", "val/c"]
    assert data.splits == {"train": ["train/a", "train/b"], "val": ["val/c"]}
    assert data.tasks == ("detection",)
    assert data.box_class_names == ("dog", "cat")
    assert data[0].boxes.boxes.tolist() == [[9, 0, 27, 12]]
    assert data[0].boxes.labels.tolist() == [1]
    assert YoloDataset(ultralytics / "data.yaml").image_ids == data.image_ids


def test_polygons_make_masks(ultralytics):
    write(ultralytics / "labels/train/a.txt", BOX + TRIANGLE)
    data = YoloDataset(ultralytics)
    assert data.tasks == ("detection", "segmentation")
    assert data.class_names == ("background", "dog", "cat")
    sample = data[0]
    assert sample.boxes.boxes.tolist() == [[9, 0, 27, 12], [0, 0, 18, 12]]
    canvas = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(canvas).polygon([(0, 0), (18, 0), (0, 12)], fill=1, outline=1)
    triangle = np.asarray(canvas) > 0
    assert (sample.mask[triangle] == 1).all()  # the two boxes have one size; the triangle is drawn later
    assert (sample.mask[:12, 9:27][~triangle[:12, 9:27]] == 255).all()  # only a box
    assert np.count_nonzero(sample.mask) == np.count_nonzero(triangle | (sample.mask == 255))
    assert np.unique(data[1].mask).tolist() == [0, 255]


def test_roboflow_names_folders_from_the_folder_above(tmp_path):
    """Roboflow's "YOLOv8": ../train/images in data.yaml, which is next to train, and a test that is not there."""
    write(
        tmp_path / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['dog', 'cat']\n",
    )
    for split in ("train", "valid"):
        trees.write_image(tmp_path / split / "images/a_jpg.rf.0a1.jpg")
        write(tmp_path / split / "labels/a_jpg.rf.0a1.txt", BOX)
    with pytest.warns(UserWarning, match=r"test is '../test/images', which is not there; it is not used") as warned:
        data = datasets.open(tmp_path)
    assert len(warned) == 1
    assert data.splits == {"train": ["train/a_jpg.rf.0a1"], "val": ["valid/a_jpg.rf.0a1"]}
    assert [len(sample.boxes) for sample in data] == [1, 1]


def test_darknet_has_labels_next_to_the_images(tmp_path):
    """CVAT's "YOLO 1.1": obj.data, obj.names and obj_<subset>_data (datumaro's yolo_format/converter.py)."""
    write(tmp_path / "obj.names", "dog\ncat\n")
    write(
        tmp_path / "obj.data",
        "classes = 2\ntrain = data/train.txt\nval = data/val.txt\nnames = data/obj.names\nbackup = backup/\n",
    )
    for split, name in (("train", "a"), ("val", "b")):
        trees.write_image(tmp_path / f"obj_{split}_data" / f"{name}.jpg")
        write(tmp_path / f"obj_{split}_data" / f"{name}.txt", BOX if name == "a" else "")
        write(tmp_path / f"{split}.txt", f"data/obj_{split}_data/{name}.jpg\n")
    data = datasets.open(tmp_path)
    assert data.splits == {"train": ["obj_train_data/a"], "val": ["obj_val_data/b"]}
    assert [len(sample.boxes) for sample in data] == [1, 0]


def test_label_studio_lists_names_in_classes_txt(tmp_path):
    """label-studio-converter, convert_to_yolo: classes.txt, notes.json, images and labels."""
    write(tmp_path / "classes.txt", "dog\ncat\n")
    write(
        tmp_path / "notes.json", '{"categories": [{"id": 0, "name": "dog"}], "info": {"contributor": "Label Studio"}}'
    )
    trees.write_image(tmp_path / "images/0a1b2c3d-a.jpg")
    write(tmp_path / "labels/0a1b2c3d-a.txt", BOX)
    data = datasets.open(tmp_path)
    assert data.image_ids == ["0a1b2c3d-a"]
    assert data.splits == {}
    assert data[0].boxes.labels.tolist() == [1]


@pytest.mark.parametrize("folder", ["annotations", "Labels", "txt/deep"])
def test_labels_in_a_folder_of_another_name_belong_to_the_images_of_their_names(ultralytics, folder):
    for path in sorted((ultralytics / "labels").rglob("*.txt")):
        place = path.relative_to(ultralytics / "labels")
        write(ultralytics / folder / place, path.read_text())
        path.unlink()
    data = datasets.open(ultralytics)
    assert [len(sample.boxes) for sample in data] == [1, 1, 1]
    write(ultralytics / "older" / "train" / "a.txt", BOX)
    write(ultralytics / "older" / "val" / "a.txt", BOX)
    with pytest.raises(MissingDataError, match="1 of 3 images have no text file"):
        YoloDataset(ultralytics)
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        write(ultralytics / "older" / split / f"{name}.txt", BOX)
    with pytest.raises(DatasetError, match=r"a\.txt may both be labels of one image, .* into a folder .labels. next"):
        YoloDataset(ultralytics)


def test_folders_of_splits_may_hold_images_and_labels_or_be_in_them(tmp_path):
    """Roboflow writes train/images and valid/labels, Ultralytics images/train and labels/val; some without a yaml."""
    for kind, image, text in (
        ("a", "{0}/images/x.jpg", "{0}/labels/x.txt"),
        ("b", "images/{0}/x.jpg", "labels/{0}/x.txt"),
        ("c", "{0}/x.jpg", "{0}/x.txt"),
    ):
        for split in ("train", "valid", "test"):
            trees.write_image(tmp_path / kind / image.format(split))
            write(tmp_path / kind / text.format(split), BOX)
        with pytest.raises(
            MissingDataError, match=r"no data\.yaml, .* so classes have no names\. Pass class_names=…, one"
        ):
            datasets.open(tmp_path / kind)
        data = datasets.open(tmp_path / kind, class_names=["dog", "cat"])
        assert data.splits == {"train": ["train/x"], "val": ["valid/x"], "test": ["test/x"]}
        assert data[0].boxes.labels.tolist() == [1]
        write(tmp_path / kind / "data.yaml", "names: [dog, cat]\n")
        assert datasets.open(tmp_path / kind).splits == data.splits


def test_labelimg_writes_classes_txt_into_the_folders_of_labels(tmp_path):
    for split in ("train", "val"):
        trees.write_image(tmp_path / "images" / split / f"{split}.jpg")
        write(tmp_path / "labels" / split / f"{split}.txt", BOX)
        write(tmp_path / "labels" / split / "classes.txt", "dog\ncat\n")
    assert datasets.open(tmp_path).box_class_names == ("dog", "cat")
    write(tmp_path / "labels/val/classes.txt", "cat\ndog\n")
    with pytest.raises(MissingDataError, match="so classes have no names"):
        datasets.open(tmp_path)


def test_texts_next_to_images_that_are_not_labels_are_not_yolo(tmp_path):
    trees.write_image(tmp_path / "a.jpg")
    write(tmp_path / "a.txt", "a dog next to a cat")
    with pytest.raises(DatasetError, match=r"the layout of .* is not that of a data set"):
        datasets.open(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.5 0.5", "unknown class 2; the 2 names are numbered from 0"),
        ("-1 0.5 0.5 0.5 0.5", "unknown class -1"),
        ("0.5 0.5 0.5 0.5 0.5", "a label must be a class number and four numbers of a box"),
        ("0 0.5 0.5 0.5", "a label must be a class number and four numbers of a box"),
        ("0 0.5 0.5 0.5 0.5 0.9", "a label must be a class number and four numbers of a box"),
        ("dog 0.5 0.5 0.5 0.5", "a label must be a class number and four numbers of a box"),
        ("0 18 6 9 12", "coordinates must be fractions of the image's width and height, 0 to 1"),
        ("0 nan 0.5 0.5 0.5", "coordinates must be fractions"),
    ],
)
def test_lines_that_are_no_labels_are_refused(ultralytics, line, message):
    write(ultralytics / "labels/train/b.txt", f"{BOX}\n{line}\n")
    with pytest.raises(DatasetError, match=rf"b.txt, line 3: {message}"):
        YoloDataset(ultralytics)


def test_class_numbers_without_a_name_are_counted_and_refused_or_left_out(ultralytics):
    write(ultralytics / "labels/train/b.txt", f"{BOX}\n7 0.5 0.5 0.5 0.5\n7 0.4 0.4 0.2 0.2\n")
    message = r"b.txt, line 3: unknown class 7; the 2 names .*data\.yaml lists other classes .*7 \(2\)\. "
    with pytest.raises(DatasetError, match=message + r"Correct the names in .*bad_labels='skip'"):
        YoloDataset(ultralytics)
    with pytest.warns(UserWarning, match=message + "Labels without a name are left out"):
        data = YoloDataset(ultralytics, bad_labels="skip")
    assert data[1].boxes.labels.tolist() == [1]


def test_folders_of_images_and_labels_may_be_links(ultralytics, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    write(linked / "data.yaml", "train: images/train\nval: images/val\nnames: [dog, cat]\n")
    for name in ("images", "labels"):
        (linked / name).symlink_to(ultralytics / name)
    assert YoloDataset(linked).image_ids == YoloDataset(ultralytics).image_ids


def test_boxes_without_area_are_left_out_and_rounding_is_clipped(ultralytics):
    write(ultralytics / "labels/train/b.txt", "0 0.5 0.5 0 0.5\n0 0.9 0.5 0.2000002 0.5\n")
    with pytest.warns(UserWarning, match=r"1 label has no area \(left out\); .*b.txt, line 1: a box must have an"):
        data = YoloDataset(ultralytics)
    assert data[1].boxes.boxes[:, 2].tolist() == [WIDTH]


def test_boxes_outside_their_image_are_refused_or_left_out(ultralytics):
    write(ultralytics / "labels/train/b.txt", f"{BOX}\n0 1.5 0.5 0.2 0.2\n0 18 6 9 12\n")
    message = r"b.txt, line 3: coordinates must be fractions .* got '0 1.5 0.5 0.2 0.2'. 1 more label contradicts the "
    with pytest.raises(DatasetError, match=message + r"image. .*leave out such labels: bad_labels='skip'"):
        YoloDataset(ultralytics)
    with pytest.warns(UserWarning, match=r"2 labels contradict the image \(left out\); .*b.txt, line 3"):
        data = YoloDataset(ultralytics, bad_labels="skip")
    assert [len(sample.boxes) for sample in data] == [1, 1, 1]


def test_images_without_text_file_and_text_files_without_image(ultralytics):
    (ultralytics / "labels/train/b.txt").unlink()
    with pytest.raises(MissingDataError, match=r"1 of 3 images have no text file, the first of them .*b.jpg.*='empty'"):
        YoloDataset(ultralytics)
    assert [len(sample.boxes) for sample in YoloDataset(ultralytics, unpaired="empty")] == [1, 0, 1]
    with pytest.warns(UserWarning, match=r"1 of 3 images have no text file.*; they are left out"):
        data = YoloDataset(ultralytics, unpaired="skip")
    assert data.splits == {"train": ["train/a"], "val": ["val/c"]}
    write(ultralytics / "labels/train/b.txt", BOX)
    write(ultralytics / "labels/train/z.txt", BOX)
    with pytest.warns(UserWarning, match=r"1 label file has no image \(not used\), the first: .*z.txt"):
        YoloDataset(ultralytics)


def test_a_line_of_two_points_among_polygons_is_left_out(ultralytics):
    write(ultralytics / "labels/train/b.txt", "0 0.1 0.1 0.9 0.1 0.5 0.5\n0 0.1 0.1 0.5 0.5\n0 0.5 0.5 1.0 1.0\n")
    with pytest.warns(
        UserWarning, match=r"1 label has no area \(left out\); .*b.txt, line 2: .* this line has two, or"
    ):
        data = YoloDataset(ultralytics)
    assert [len(sample.boxes) for sample in data] == [1, 2, 1]


def test_a_text_file_in_another_folder_is_named(ultralytics):
    """Without labels, its image would train as one without objects."""
    (ultralytics / "labels/train/b.txt").rename(ultralytics / "labels/val/b.txt")
    with (
        pytest.warns(UserWarning, match="1 label file has no image"),
        pytest.raises(
            MissingDataError,
            match=r"val/b.txt may belong to .*train/b.jpg: move it to a folder with the name of the image's",
        ),
    ):
        YoloDataset(ultralytics)


def test_a_val_that_is_train_is_no_split(tmp_path):
    """Ultralytics' coco128.yaml has one folder for both."""
    write(
        tmp_path / "coco128.yaml",
        "path: ../datasets/coco128\ntrain: images/train2017\nval: images/train2017\nnames: [dog, cat]",
    )
    trees.write_image(tmp_path / "images/train2017/a.jpg")
    write(tmp_path / "labels/train2017/a.txt", BOX)
    with pytest.warns(UserWarning, match="val has the images of train, so it is not used as a split"):
        data = datasets.open(tmp_path)
    assert data.splits == {"train": ["a"]}


@pytest.mark.parametrize(
    ("path", "train"),
    [
        ("{there}", "images/train"),
        ("{there}", "{there}/images/train"),
        ("../../{name}", "images/train"),
        ("/nowhere/export", "/nowhere/export/images/train"),
    ],
)
def test_a_path_of_another_machine_is_the_folder_of_the_yaml(ultralytics, tmp_path_factory, path, train):
    """Tools write where the export was made; that folder may exist here and hold something else."""
    there = tmp_path_factory.mktemp("there")
    trees.write_image(there / "images/train/secret.jpg")
    write(there / "labels/train/secret.txt", BOX)
    path, train = (text.format(there=there, name=there.name) for text in (path, train))
    write(ultralytics / "data.yaml", f"path: {path}\ntrain: {train}\nval: images/val\nnames: [dog, cat]\n")
    data = YoloDataset(ultralytics)
    assert data.splits == {"train": ["train/a", "train/b"], "val": ["val/c"]}
    assert all(image.is_relative_to(ultralytics) for image in data.image_paths.values())


def test_a_split_outside_the_data_set_is_refused(ultralytics, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    write(ultralytics / "data.yaml", f"train: {outside}\nnames: [dog, cat]\n")
    with pytest.raises(DatasetError, match=r"train in data\.yaml leads to .*, outside the data set\. Move data\.yaml"):
        YoloDataset(ultralytics)


def test_a_yaml_that_is_no_data_set_is_refused(ultralytics):
    path = ultralytics / "data.yaml"
    for text, message in (
        ("names: [dog\n", "cannot be read as YAML"),
        ("- names\n", "must have entries such as names and train"),
        ("names: {1: dog}\n", "names must be numbered from 0 without gaps"),
        ("names: []\n", "names must list the classes"),
        ("names: [dog, cat]\nkpt_shape: [17, 3]\n", "is of key points"),
    ):
        write(path, text)
        with pytest.raises(DatasetError, match=rf"data.yaml.*{message}"):
            YoloDataset(ultralytics)
