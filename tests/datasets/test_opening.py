"""`datasets.open`: names, layouts, and what it says about folders that it does not know."""

import json
import shutil

import numpy as np
import pytest
import trees
from PIL import Image

from tadp import datasets
from tadp.errors import DatasetError, MissingDataError


@pytest.fixture
def masks(tmp_path):
    for name in ("a", "b"):
        trees.write_image(tmp_path / "images" / f"{name}.jpg")
        trees.write_mask(tmp_path / "masks" / f"{name}.png", trees.quadrants(0, 1, 1, 0))
    return tmp_path


def test_names_of_data_sets_are_opened_as_before(tmp_path):
    assert repr(datasets.open("scenes", split="train", count=3)) == "<rendered scenes: 3 images>"
    voc = trees.voc(tmp_path / "VOC2012")
    assert datasets.open("voc", voc, split="val").image_ids == ["2007_000033", "2007_000042"]
    with pytest.raises(ValueError, match="voc needs its folder"):
        datasets.open("voc")
    with pytest.raises(
        MissingDataError, match=r"'nowhere' is neither a folder nor the name of a data set \(scenes, voc,"
    ):
        datasets.open("nowhere")


def test_an_unknown_layout_says_what_is_there_and_which_readers_there_are(tmp_path):
    trees.write_image(tmp_path / "pictures/a.jpg")
    (tmp_path / "pictures/a.csv").write_text("a,1\n")
    (tmp_path / "notes").mkdir()
    with pytest.raises(DatasetError) as raised:
        datasets.open(tmp_path)
    message = str(raised.value)
    assert "it has the folders notes, pictures, and these files: " in message
    assert ".csv 1" in message
    assert ".jpg 1" in message
    for reader in ("CocoDataset", "YoloDataset", "LabelmeFolder", "VOCFolder", "MaskFolder", "DepthFolder"):
        assert f"{reader} (" in message
    archive = tmp_path / "export.zip"
    archive.write_bytes(b"PK")
    with pytest.raises(DatasetError, match=r"one file of kind .zip; unpack archives first"):
        datasets.open(archive)


def test_an_archive_unpacked_into_a_folder_of_its_name_is_opened(masks, tmp_path_factory):
    outer = tmp_path_factory.mktemp("outer")
    masks.rename(outer / "export")
    assert len(datasets.open(outer, class_names=["ground", "ball"])) == 2


def test_masks_need_names_from_a_file_or_the_user(masks):
    with pytest.raises(
        DatasetError, match=r"the masks in .*masks do not say how their classes are called. Pass class_names="
    ):
        datasets.open(masks)
    assert datasets.open(masks, class_names=["ground", "ball"]).class_names == ("ground", "ball")
    (masks / "classes.txt").write_text("ground\nball\n")
    assert datasets.open(masks).class_names == ("ground", "ball")
    renamed = datasets.open(masks, class_names={"ground": None, "ball": "red ball"})
    assert renamed.class_names == ("red ball",)
    assert np.array_equal(renamed[0].mask, trees.quadrants(255, 0, 0, 255))


def test_colours_and_names_of_cvats_segmentation_masks(tmp_path):
    """CVAT's "Segmentation mask 1.1": the layout of Pascal VOC with coloured masks and labelmap.txt, without XML."""
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:200,30,40::\n")
    trees.write_image(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "SegmentationClass").mkdir()
    colors = np.array([(0, 0, 0), (200, 30, 40)], np.uint8)[trees.quadrants(0, 1, 1, 0)]
    Image.fromarray(colors).save(tmp_path / "SegmentationClass/a.png")
    trees.write_list(tmp_path / "ImageSets/Segmentation/default.txt", ["a"])
    data = datasets.open(tmp_path)
    assert data.tasks == ("segmentation",)
    assert data.class_names == ("background", "dog")
    assert np.array_equal(data[0].mask, trees.quadrants(0, 1, 1, 0))


def test_a_task_chooses_among_labels(masks):
    for name in ("a", "b"):
        path = masks / "depth" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full(trees.SIZE, 1500, np.uint16)).save(path)
    assert datasets.open(masks, task="depth").tasks == ("depth",)
    assert datasets.open(masks, task="segmentation", class_names=["ground", "ball"]).tasks == ("segmentation",)
    with pytest.raises(
        DatasetError,
        match=r"no labels for detection: its layout is that of MaskFolder \(segmentation\) and DepthFolder \(depth\)",
    ):
        datasets.open(masks, task="detection")


def test_labels_for_another_task_are_refused(tmp_path):
    trees.write_image(tmp_path / "a.jpg")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "segmentation": []}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [box],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"boxes of 1 class> has labels for detection, not for segmentation"):
        datasets.open(tmp_path, task="segmentation")


def test_a_split_and_captions_from_a_file(masks):
    (masks / "captions.json").write_text(json.dumps({"a": {"captions": ["a ball"]}, "b": {"captions": ["two balls"]}}))
    data = datasets.open(masks, class_names=["ground", "ball"], captions=masks / "captions.json")
    assert data[1].caption == "two balls"
    with pytest.raises(DatasetError, match="has no split 'val'; its splits are: none"):
        datasets.open(masks, class_names=["ground", "ball"], split="val")


def test_masks_that_cannot_be_paired_say_why(tmp_path):
    trees.write_image(tmp_path / "images/a.jpg")
    trees.write_mask(tmp_path / "masks/a_L.png", trees.quadrants(0, 1, 1, 0))
    with (
        pytest.raises(MissingDataError, match=r"masks/a.png is not there.* pass mask_suffix='_mask'"),
        pytest.warns(UserWarning, match=r"1 mask file has no image .*a_L.png"),
    ):
        datasets.open(tmp_path, class_names=["ground", "ball"])
    data = datasets.open(tmp_path, class_names=["ground", "ball"], mask_suffix="_L")
    assert repr(data) == "<MaskFolder 'images': 1 image, masks of 2 classes>"
    (tmp_path / "masks/a_L.png").rename(tmp_path / "masks/a.jpg")
    with pytest.raises(MissingDataError, match=r"masks/a.png is not there.*JPEG is not suitable"):
        datasets.open(tmp_path, class_names=["ground", "ball"])


def test_a_folder_of_several_data_sets_names_them(masks, tmp_path_factory):
    outer = tmp_path_factory.mktemp("outer")
    for name in ("data/lion", "data/tiger"):
        shutil.copytree(masks, outer / name)
    with pytest.raises(
        DatasetError,
        match=rf"not a data set itself\. .*{outer}/data/lion \(MaskFolder\), .*/data/tiger \(MaskFolder\)\.",
    ):
        datasets.open(outer)
    trees.write_image(outer / "raccoon/images/a.jpg")
    (outer / "raccoon/annotations").mkdir()
    (outer / "raccoon/annotations/a.xml").write_text("<annotation/>")
    with pytest.raises(DatasetError, match=r"several data sets: .*raccoon \(VOCFolder\), .*lion \(MaskFolder\)"):
        datasets.open(outer)


def test_relative_folders_are_also_looked_for_in_that_of_the_data(masks, monkeypatch, tmp_path_factory):
    (masks / "images").rename(masks / "photos")
    (masks / "masks").rename(masks / "truth")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    data = datasets.open(masks, images="photos", masks="truth", class_names=["ground", "ball"])
    assert {path.parent for path in data.image_paths.values()} == {masks / "photos"}
    with pytest.raises(MissingDataError, match=rf"masks must be a folder; there is neither .*/truht nor {masks}"):
        datasets.open(masks, images="photos", masks="truht", class_names=["ground", "ball"])


def test_boxes_without_outlines_name_the_masks_next_to_them(tmp_path):
    for folder in ("images", "masks"):
        trees.write_image(tmp_path / folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "segmentation": []}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(
        DatasetError,
        match=rf"boxes but no outlines\. There are masks in .*--images {tmp_path}/images --masks {tmp_path}/masks",
    ):
        datasets.open(tmp_path, task="segmentation")
