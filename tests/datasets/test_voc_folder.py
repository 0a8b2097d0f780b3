"""Labels in the file layout of Pascal VOC, as labelling tools export it."""

from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image

from tadp import datasets
from tadp.datasets import VOCFolder
from tadp.errors import DatasetError, MissingDataError

HEIGHT, WIDTH = trees.SIZE
DOG, CAT = (200, 30, 40), (10, 120, 250)


def annotation(objects: list[tuple[str, tuple[float, ...]]], *, database="Unknown", size=trees.SIZE) -> str:
    """An annotation as datumaro writes it for CVAT: plugins/voc_format/converter.py, _export_annotations."""
    boxes = "".join(
        f"<object><name>{name}</name><truncated>0</truncated><occluded>0</occluded><difficult>0</difficult><bndbox>"
        f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, (left, top, right, bottom) in objects
    )
    return (
        f"<annotation><folder></folder><filename>a.jpg</filename><source><database>{database}</database></source><size>"
        f"<width>{size[1]}</width><height>{size[0]}</height><depth></depth></size><segmented>0</segmented>{boxes}"
        "</annotation>"
    )


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def cvat(tmp_path):
    """CVAT's export "PASCAL VOC 1.1": labelmap.txt, lists by subset, and masks in the colours of labelmap.txt."""
    root = tmp_path / "export"
    write(
        root / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:200,30,40::\ncat:10,120,250::\n",
    )
    for name, split in (("a", "train"), ("seq/b", "val")):
        trees.write_image(root / "JPEGImages" / f"{name}.jpg")
        write(root / "Annotations" / f"{name}.xml", annotation([("cat", (0, 2.5, 10, 12)), ("dog", (5, 5, WIDTH, 20))]))
        write(root / "ImageSets/Main" / f"{split}.txt", f"{name}\n")
        write(root / "ImageSets/Main" / f"cat_{split}.txt", f"{name}  1\n")
    return root


def write_colored(root: Path, name: str, values: np.ndarray) -> None:
    path = root / "SegmentationClass" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([(0, 0, 0), DOG, CAT], np.uint8)[values]).save(path)


def test_boxes_of_cvat_are_counted_from_0_and_named_in_the_order_of_the_label_map(cvat):
    data = VOCFolder(cvat)
    assert data.image_ids == ["a", "seq/b"]
    assert data.box_class_names == ("dog", "cat")
    assert data.tasks == ("detection",)
    assert data.splits == {"train": ["a"], "val": ["seq/b"]}
    boxes = data[0].boxes
    assert boxes.boxes.tolist() == [[0, 2.5, 10, 12], [5, 5, WIDTH, 20]]
    assert boxes.labels.tolist() == [1, 0]
    assert data[0].mask is None
    assert repr(data) == "<VOCFolder 'export': 2 images, boxes of 2 classes>"


def test_masks_in_the_colours_of_the_label_map_are_classes(cvat):
    values = trees.quadrants(0, 1, 2, 2)
    for name in ("a", "seq/b"):
        write_colored(cvat, name, values)
    data = VOCFolder(cvat)
    assert data.tasks == ("detection", "segmentation")
    assert np.array_equal(data[1].mask, values)
    assert data.class_names == ("background", "dog", "cat")
    assert np.array_equal(
        VOCFolder(cvat, class_names=["background", "cat", "dog"])[1].mask, trees.quadrants(0, 2, 1, 1)
    )
    with pytest.warns(UserWarning, match="objects of the classes 'dog' are left out"):
        cats = VOCFolder(cvat, class_names=["cat"])
    assert np.array_equal(cats[1].mask, trees.quadrants(0, 0, 1, 1))
    assert cats[1].boxes.labels.tolist() == [0]


def test_images_with_masks_are_those_for_segmentation(cvat):
    write_colored(cvat, "a", trees.quadrants(0, 1, 2, 2))
    assert VOCFolder(cvat).tasks == ("detection",)
    with pytest.raises(MissingDataError, match=r"1 of 2 images have no mask, the first of them .*seq/b.jpg"):
        VOCFolder(cvat, task="segmentation")
    with pytest.warns(UserWarning, match=r"1 of 2 images have no mask.*they are left out"):
        data = VOCFolder(cvat, task="segmentation", unpaired="skip")
    assert data.image_ids == ["a"]
    assert "segmentation" in data.tasks
    write(cvat / "ImageSets/Segmentation/train.txt", "a\n")
    assert VOCFolder(cvat, task="segmentation").image_ids == ["a"]


def test_masks_of_labelme_have_values_in_the_order_of_class_names(tmp_path):
    """labelme's examples/semantic_segmentation/labelme2voc.py: a name per line, pictures with a palette, no XML."""
    write(tmp_path / "class_names.txt", "_background_\ndog\ncat")
    trees.write_image(tmp_path / "JPEGImages/a.jpg")
    trees.write_mask(tmp_path / "SegmentationClass/a.png", trees.quadrants(0, 1, 2, 255), palette=True)
    np.save(tmp_path / "SegmentationClass/a.npy", trees.quadrants(0, 1, 2, -1))
    data = datasets.open(tmp_path)
    assert isinstance(data, VOCFolder)
    assert data.tasks == ("segmentation",)
    assert data.class_names == ("background", "dog", "cat")
    assert np.array_equal(data[0].mask, trees.quadrants(0, 1, 2, 255))


def test_xml_files_next_to_the_images_of_each_split(tmp_path):
    """Roboflow's export "Pascal VOC XML": train/a_jpg.rf.<hash>.jpg and .xml, valid and test."""
    for split in ("train", "valid"):
        trees.write_image(tmp_path / split / f"{split}_jpg.rf.0a1.jpg")
        write(
            tmp_path / split / f"{split}_jpg.rf.0a1.xml", annotation([("dog", (1, 2, 9, 9))], database="roboflow.com")
        )
    data = datasets.open(tmp_path)
    assert data.splits == {"train": ["train/train_jpg.rf.0a1"], "val": ["valid/valid_jpg.rf.0a1"]}
    assert data[0].boxes.boxes.tolist() == [[1, 2, 9, 9]]
    assert datasets.open(tmp_path, split="val").image_ids == ["valid/valid_jpg.rf.0a1"]


def test_pixels_of_pascal_voc_itself_count_from_1(tmp_path):
    trees.write_image(tmp_path / "JPEGImages/a.jpg")
    write(tmp_path / "Annotations/a.xml", annotation([("dog", (1, 1, 10, 12))], database="The VOC2012 Database"))
    assert VOCFolder(tmp_path)[0].boxes.boxes.tolist() == [[0, 0, 10, 12]]


def test_boxes_without_area_are_left_out_and_those_outside_are_refused(cvat):
    path = write(cvat / "Annotations/a.xml", annotation([("dog", (5, 5, 5, 9)), ("dog", (1, 1, 9, 9))]))
    with pytest.warns(UserWarning, match=r"1 label has no area \(left out\); .*a.xml, object 1: a box must have"):
        data = VOCFolder(cvat)
    assert data[0].boxes.boxes.tolist() == [[1, 1, 9, 9]]
    write(path, annotation([("dog", (1, 1, 9, 9)), ("dog", (50, 5, 60, 9))]))
    with pytest.raises(
        DatasetError,
        match=r"a.xml, object 2: a box must be inside its image of 24x36 .*; got 50, 5, 60, 9.*bad_labels='skip'",
    ):
        VOCFolder(cvat)
    with pytest.warns(UserWarning, match=r"1 label contradicts the image \(left out\)"):
        assert len(VOCFolder(cvat, bad_labels="skip")[0].boxes) == 1


def test_the_size_in_the_xml_must_be_that_of_the_image(cvat):
    write(cvat / "Annotations/a.xml", annotation([("dog", (1, 1, 9, 9))], size=(48, 72)))
    with pytest.raises(DatasetError, match=r"a.xml is 48x72, and the image 'a' is 24x36"):
        VOCFolder(cvat)[0]


@pytest.mark.parametrize(("first", "second"), [("Dog", "dog"), ("hot dog", "hotdog"), ("hot dog", "hot_dog")])
def test_names_that_differ_only_in_case_or_blanks_are_refused(cvat, first, second):
    (cvat / "labelmap.txt").unlink()
    write(cvat / "Annotations/a.xml", annotation([(first, (1, 1, 9, 9))]))
    write(cvat / "Annotations/seq/b.xml", annotation([(second, (1, 1, 9, 9))]))
    with pytest.raises(
        DatasetError, match=rf"only differ in case or blanks: '{first}' .*a.xml.* and '{second}' .*b.xml"
    ):
        VOCFolder(cvat)
    data = VOCFolder(cvat, class_names={first: second})
    assert data.box_class_names == (second,)
    with pytest.raises(
        DatasetError, match=r"only differ in case or blanks|differs from those in class_names only in case"
    ):
        VOCFolder(cvat, class_names=[second])


def test_class_names_that_are_not_there_are_refused(cvat):
    with pytest.raises(
        DatasetError, match=r"has none of the classes in class_names \('bird'\); its classes are 'dog', 'cat'"
    ):
        VOCFolder(cvat, class_names=["bird"])
    with pytest.raises(DatasetError, match="has no class 'bird'; its classes are 'dog', 'cat'"):
        VOCFolder(cvat, class_names={"bird": "cat"})
    with pytest.raises(DatasetError, match=r"'dog' .*differs from those in class_names only in case"):
        VOCFolder(cvat, class_names=["Dog", "cat"])


def test_images_without_labels_and_labels_without_images(cvat):
    trees.write_image(cvat / "JPEGImages/c.jpg")
    with pytest.raises(
        MissingDataError,
        match=r"1 of 3 images have no XML file, the first of them .*c.jpg.* unpaired='empty'.*unpaired='skip'",
    ):
        VOCFolder(cvat)
    with pytest.warns(UserWarning, match="1 of 3 images have no XML file"):
        assert VOCFolder(cvat, unpaired="skip").image_ids == ["a", "seq/b"]
    data = VOCFolder(cvat, unpaired="empty")
    assert [len(sample.boxes) for sample in data] == [2, 0, 2]
    (cvat / "JPEGImages/c.jpg").unlink()
    write(cvat / "Annotations/d.xml", annotation([]))
    with pytest.warns(UserWarning, match=r"1 label file has no image \(not used\), the first: .*d.xml"):
        assert len(VOCFolder(cvat)) == 2


def test_an_xml_file_of_two_images_of_one_name_is_refused(cvat):
    for folder in ("one", "two"):
        trees.write_image(cvat / "JPEGImages" / folder / "same.jpg")
    write(cvat / "Annotations" / "same.xml", annotation([]))
    with (
        pytest.warns(UserWarning, match="1 label file has no image"),
        pytest.raises(MissingDataError, match=r"same.xml may belong to .*one/same.jpg or .*two/same.jpg: move"),
    ):
        VOCFolder(cvat)


def test_two_images_of_one_name_are_refused(cvat):
    trees.write_image(cvat / "JPEGImages/a.png")
    with pytest.raises(DatasetError, match=r"a.jpg and .*a.png share a name"):
        VOCFolder(cvat)


def test_a_list_that_names_an_image_that_is_not_there_is_refused(cvat):
    write(cvat / "ImageSets/Main/train.txt", "a\nz\n")
    with pytest.raises(DatasetError, match=r"train.txt has 'z', which is not an image of"):
        VOCFolder(cvat)


def test_masks_without_names_need_names(tmp_path):
    trees.write_image(tmp_path / "JPEGImages/a.jpg")
    trees.write_mask(tmp_path / "SegmentationClass/a.png", trees.quadrants(0, 1, 2, 255), palette=True)
    with pytest.raises(DatasetError, match=r"no labelmap.txt or class_names.txt .* Pass class_names="):
        VOCFolder(tmp_path)
    data = VOCFolder(tmp_path, class_names=["background", "dog", "cat"])
    assert np.array_equal(data[0].mask, trees.quadrants(0, 1, 2, 255))


def test_a_damaged_label_map_is_refused(cvat):
    write(cvat / "labelmap.txt", "background:0,0,0::\ndog\n")
    with pytest.raises(DatasetError, match=r"labelmap.txt, line 2: a line must be a name and a colour"):
        VOCFolder(cvat)


def test_a_colour_that_is_not_in_the_label_map_is_refused(cvat):
    for name in ("a", "seq/b"):
        write_colored(cvat, name, trees.quadrants(0, 1, 2, 2))
    write(cvat / "labelmap.txt", "background:0,0,0::\ndog:200,30,40::\ncat:1,2,3::\n")
    with pytest.raises(
        DatasetError, match=r"a.png has 432 pixels whose colour is not in the palette .*\(10, 120, 250\)"
    ):
        VOCFolder(cvat)[0]


def test_an_object_without_a_name_is_refused_by_file_or_left_out(cvat):
    (cvat / "labelmap.txt").unlink()
    write(cvat / "Annotations/a.xml", annotation([("", (0, 2.5, 10, 12)), ("dog", (5, 5, 20, 20))]))
    with pytest.raises(DatasetError, match=r"a\.xml, object 1 has a class without a name\. .*class_names=\{'': None\}"):
        VOCFolder(cvat)
    assert VOCFolder(cvat, class_names={"": None}).box_class_names == ("cat", "dog")


def test_a_colour_of_the_label_map_is_from_0_to_255(cvat):
    write(cvat / "labelmap.txt", "background:0,0,0::\ndog:0,0,256::\n")
    with pytest.raises(DatasetError, match=r"labelmap\.txt, line 2: a line must be a name and a colour"):
        VOCFolder(cvat)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/{}", "annots/{}"),
        ("photos/{}", "Annotations/{}"),
        ("photos/{}", "xml/{}"),
        ("images/seq/{}", "annots/{}"),
        ("images/{}", "annots/seq/{}"),
    ],
)
def test_xml_files_in_a_folder_of_another_name_belong_to_the_images_of_their_names(tmp_path, images, labels):
    for name in ("a", "b"):
        trees.write_image(tmp_path / f"{images.format(name)}.jpg")
        write(tmp_path / f"{labels.format(name)}.xml", annotation([(f"class {name}", (1, 1, 9, 9))]))
    data = datasets.open(tmp_path)
    assert isinstance(data, VOCFolder)
    assert [data.classes_in(image_id) for image_id in data.image_ids] == [{"class a"}, {"class b"}]


def test_of_xml_files_of_one_name_the_one_in_a_folder_of_the_same_name_belongs_to_an_image(tmp_path):
    for part in ("train", "val"):
        trees.write_image(tmp_path / part / "images/a.jpg")
        write(tmp_path / part / "annots/a.xml", annotation([(part, (1, 1, 9, 9))]))
    data = datasets.open(tmp_path)
    assert {image_id: data.classes_in(image_id) for image_id in data.image_ids} == {
        "train/images/a": {"train"},
        "val/images/a": {"val"},
    }


def test_xml_files_that_could_belong_to_several_images_are_not_guessed(tmp_path):
    for part in ("first", "second"):
        trees.write_image(tmp_path / "images" / part / "a.jpg")
    write(tmp_path / "annots/a.xml", annotation([("dog", (1, 1, 9, 9))]))
    with pytest.raises(MissingDataError, match=r"fit no image, such as .*a\.xml\. Give each label file the name"):
        VOCFolder(tmp_path)


@pytest.mark.parametrize("database", ["Unknown", "The VOC2007 Database"])
@pytest.mark.parametrize("states_size", [True, False])
def test_boxes_beyond_the_image_are_clipped_with_one_warning(tmp_path, database, states_size):
    for name in ("a", "b"):
        trees.write_image(tmp_path / f"images/{name}.jpg")
        text = annotation([("dog", (-2, 0, 10, 12)), ("dog", (5, 5, WIDTH + 1, HEIGHT + 9))], database=database)
        text = text if states_size else text.replace("<size>", "<other>").replace("</size>", "</other>")
        write(tmp_path / f"Annotations/{name}.xml", text)
    with pytest.warns(UserWarning, match=r"beyond the image \(clipped\); the first: .*a.xml, object 1: -") as seen:
        samples = list(VOCFolder(tmp_path))
    left = 5 if database == "Unknown" else 4
    assert samples[0].boxes.boxes.tolist() == [[0, 0, 10, 12], [left, left, WIDTH, HEIGHT]]
    assert len(samples[1].boxes) == 2
    assert len(seen) == 1


def test_an_annotation_with_the_size_of_another_image_in_fractions(tmp_path):
    trees.write_image(tmp_path / "images/a.jpg")
    write(tmp_path / "Annotations/a.xml", annotation([("dog", (1, 1, 9, 9))], size=(200.0, 300.0)))
    with pytest.raises(DatasetError, match=r"a.xml is 200x300, and the image 'a' is"):
        VOCFolder(tmp_path)[0]


def test_masks_of_another_scale_are_refused_or_scaled(cvat):
    values = trees.quadrants(0, 1, 2, 2)
    for name in ("a", "seq/b"):
        write_colored(cvat, name, values[::2, ::2] if name == "a" else values)
    with pytest.raises(DatasetError, match=r"a.png is 12x18, and the image 'a' is 24x36 .* pass resize_labels=True"):
        VOCFolder(cvat)[0]
    assert np.array_equal(VOCFolder(cvat, resize_labels=True)[0].mask, values)
    with pytest.warns(UserWarning, match=r"1 mask differs from the image in size, so 1 of 2 images are left out"):
        assert VOCFolder(cvat, bad_labels="skip").image_ids == ["seq/b"]


def test_labelmes_own_list_of_labels_counts_from_the_ignored_one(cvat):
    (cvat / "labelmap.txt").unlink()
    write(cvat / "class_names.txt", "__ignore__\n_background_\ndog\ncat\n")
    for name in ("a", "seq/b"):
        trees.write_mask(cvat / f"SegmentationClass/{name}.png", trees.quadrants(0, 1, 2, 255))
    data = VOCFolder(cvat)
    assert np.array_equal(data[0].mask, trees.quadrants(0, 1, 2, 255))
    assert data.class_names == ("background", "dog", "cat")


@pytest.mark.parametrize("file", ["labelmap.txt", "class_names.txt"])
def test_a_class_that_is_listed_twice_is_refused(cvat, file):
    lines = ["background:0,0,0::", "dog:1,1,1::", "dog:2,2,2::"]
    write(cvat / file, "\n".join(lines if file == "labelmap.txt" else [line.partition(":")[0] for line in lines]))
    with pytest.raises(DatasetError, match=rf"{file} lists the class 'dog' twice"):
        VOCFolder(cvat)


def test_an_xml_file_of_another_split_or_a_mask_is_not_taken(tmp_path):
    for name in ("train/a.jpg", "val/b.jpg", "masks/train/c.png"):
        trees.write_image(tmp_path / name)
    for name in ("train/a", "train/b", "train/c"):
        write(tmp_path / f"boxes/{name}.xml", annotation([("dog", (1, 2, 9, 9))]))
    with (
        pytest.warns(UserWarning, match=r"2 label files have no image"),
        pytest.raises(MissingDataError, match=r"1 of 2 images have no XML file, .*val/b\.jpg"),
    ):
        VOCFolder(tmp_path)


@pytest.fixture
def colored(tmp_path):
    """Coloured masks in the layout of Pascal VOC, without labelmap.txt."""
    trees.write_image(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "SegmentationClass").mkdir()
    colors = np.array([(0, 0, 0), (224, 64, 64), (224, 224, 192)], np.uint8)[trees.quadrants(0, 1, 2, 0)]
    Image.fromarray(colors).save(tmp_path / "SegmentationClass/a.png")
    return tmp_path


def test_coloured_masks_without_label_map_take_a_palette(colored):
    with pytest.raises(
        DatasetError,
        match=r"palette of VOCFolder .*is not known.*#000000 \(50\.0% .*#e04040 \(25\.0% .*--palette '#000000=back",
    ) as error:
        VOCFolder(colored)
    assert error.value.option == "palette"
    unknown = {"#e0e0c0": 255}
    for options in (
        {"palette": {"#000000": "background", (224, 64, 64): "cheetah"} | unknown},
        {"palette": {"#000000": "background", "#e04040": "big cat"} | unknown, "class_names": {"big cat": "cheetah"}},
        {"palette": {"#000000": 0, "#e04040": 1} | unknown, "class_names": ["cheetah"]},
    ):
        data = datasets.open(colored, **options)
        assert data.class_names == ("background", "cheetah")
        assert np.array_equal(data[0].mask, trees.quadrants(0, 1, 255, 0))
        assert data.classes_in("a") == {"background", "cheetah"}
    data = VOCFolder(colored, class_names=["background", "cheetah"], palette=["#000000", "#e04040"])
    with pytest.raises(DatasetError, match=r"whose colour is not in the palette .*\(224, 224, 192\)"):
        data[0]


def test_values_of_voc_masks_get_a_meaning(tmp_path):
    trees.write_image(tmp_path / "JPEGImages/a.jpg")
    trees.write_mask(tmp_path / "SegmentationClass/a.png", trees.quadrants(0, 127, 254, 0))
    names = ["background", "fire", "smoke"]
    with pytest.raises(DatasetError, match=r"127 means fire and 254 means smoke, .*\(--labels 127=1,254=2\)"):
        VOCFolder(tmp_path, class_names=names)[0]
    data = VOCFolder(tmp_path, class_names=names, labels={127: 1, 254: 2})
    assert np.array_equal(data[0].mask, trees.quadrants(0, 1, 2, 0))
