"""Behaviour that all data sets share: names, indices, captions, damaged files and workers."""

import pickle

import numpy as np
import pytest
import torch
import trees
from PIL import Image
from torch.utils.data import DataLoader

from tadp import datasets
from tadp.captions import CaptionTable
from tadp.datasets import ADE20K, PascalVOC, RenderedScenes, Sample, collate
from tadp.errors import CaptionError, DatasetError, ImageError, MissingDataError, UnknownIdError

VAL = ["2007_000033", "2007_000042"]


@pytest.fixture
def voc(tmp_path):
    return trees.voc(tmp_path / "VOCdevkit/VOC2012")


def many(root, count: int):
    """ADE20K's folders with `count` images."""
    for number in range(count):
        name = f"ADE_train_{number:08d}"
        trees.write_image(root / "images/training" / f"{name}.jpg")
        trees.write_mask(root / "annotations/training" / f"{name}.png", trees.quadrants(0, 1, 2, 3))
    return root


# Names


def test_the_namespace_is_what_it_says():
    assert dir(datasets) == sorted(datasets.__all__)
    assert set(datasets.__all__) == set(datasets._HOMES)
    for name in datasets.__all__:
        value = getattr(datasets, name)
        assert name == "IGNORE_LABEL" or (value.__name__, value.__module__) == (
            name,
            f"tadp.datasets.{datasets._HOMES[name]}",
        )


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(AttributeError, match="has no attribute 'COCO'; it has ADE20K, "):
        _ = datasets.COCO


# Samples


def test_a_sample_says_what_it_holds():
    image = np.zeros((4, 6, 3), np.uint8)
    assert repr(Sample(image, "a", "words", depth_m=np.zeros((4, 6), np.float32))) == "Sample('a', 4x6, depth_m)"
    assert Sample(image, "a").image_size == (4, 6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": np.zeros((4, 6, 3))}, TypeError, "image must be an array of uint8 with 3 axes; got float64"),
        ({"image": np.zeros((4, 6, 4), np.uint8)}, TypeError, r"an image must be \(H, W, 3\)"),
        ({"image": torch.zeros(4, 6, 3)}, TypeError, "image must be a NumPy array; got Tensor"),
        ({"mask": np.zeros((4, 6), np.float32)}, TypeError, "mask must be an array of int64 with 2 axes; got float32"),
        (
            {"depth_m": np.zeros((4, 6), np.uint16)},
            TypeError,
            "depth_m must be an array of float32 with 2 axes; got uint16",
        ),
        (
            {"boxes": [[1, 2, 3, 4]]},
            TypeError,
            r"boxes must be tadp.images.boxes.Boxes\(boxes, labels\); 'a' has a list",
        ),
        (
            {"mask": np.zeros((4, 5), np.int64)},
            ValueError,
            "mask must have the size of its image; 'a' has 4x5 for .* 4x6",
        ),
        ({"depth_m": np.zeros((6, 4), np.float32)}, ValueError, "depth_m must have the size of its image; 'a' has 6x4"),
    ],
)
def test_samples_that_do_not_fit_together_are_refused(change, error, message, no_type_checker):
    with pytest.raises(error, match=message):
        Sample(**{"image": np.zeros((4, 6, 3), np.uint8), "image_id": "a"} | change)


# Indices


def test_a_data_set_is_a_sequence(voc):
    data = PascalVOC(voc, split="trainaug")
    ids = ["2007_000032", "2007_000039", "2008_000008"]
    assert len(data) == 3
    assert data.image_ids == ids == [sample.image_id for sample in data]
    assert data[-1].image_id == ids[-1]
    assert [sample.image_id for sample in data[1:]] == ids[1:]
    assert data[::-1][0].image_id == ids[-1]
    assert repr(data) == "<Pascal VOC: 3 images>"
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"image {index} of 3"):
            data[index]


def test_images_are_those_of_the_files_and_may_be_written_to(voc):
    sample = PascalVOC(voc, split="val")[0]
    with Image.open(voc / "JPEGImages/2007_000033.jpg") as image:
        assert (sample.image == np.asarray(image)).all()
    sample.image[0, 0] = 1
    torch.from_numpy(sample.image)


def test_an_unknown_split_is_refused(voc, no_type_checker):
    with pytest.raises(ValueError, match="split must be one of train, val, trainval, trainaug; got 'test'"):
        PascalVOC(voc, split="test")
    with pytest.raises(ValueError, match="on_error must be one of raise, skip; got 'ignore'"):
        PascalVOC(voc, split="val", on_error="ignore")


# Captions


def test_captions_come_from_a_table_or_any_mapping(voc, tmp_path):
    captions = {name: f"the caption of {name}" for name in VAL}
    table = CaptionTable()
    table.update(captions)
    table.to_json(tmp_path / "captions.json")
    with CaptionTable.create(tmp_path / "captions.db") as on_disk:
        on_disk.update(captions)
    for source in (captions, table, CaptionTable.from_json(tmp_path / "captions.json")):
        assert [sample.caption for sample in PascalVOC(voc, split="val", captions=source)] == list(captions.values())
    with CaptionTable.open(tmp_path / "captions.db") as on_disk:
        assert PascalVOC(voc, split="val", captions=on_disk)[1].caption == captions[VAL[1]]
    assert PascalVOC(voc, split="val")[0].caption is None


def test_a_missing_caption_is_named_at_once_with_the_table_and_what_its_ids_look_like(voc, tmp_path):
    table = CaptionTable()
    table.add("2007_000033.jpg", "a plane")
    table.to_json(tmp_path / "captions.json")
    table = CaptionTable.open(tmp_path / "captions.json")
    message = (
        r"captions.json, images: 1> has no caption for '2007_000033', nor for 1 more of its 2 images. Its ids look "
        r"like '2007_0"
    )
    with pytest.raises(UnknownIdError, match=message):
        PascalVOC(voc, split="val", captions=table)
    with pytest.raises(UnknownIdError, match=r"a mapping of 1 captions has no caption for '2007_000042'. Its ids"):
        PascalVOC(voc, split="val", captions={"2007_000033": "a plane"})
    with pytest.raises(UnknownIdError, match=r"has no caption for '2007_000033', .* It is empty"):
        PascalVOC(voc, split="val", captions={})


def test_captions_that_are_none_are_refused(voc, no_type_checker):
    with pytest.raises(TypeError, match=r"got str. To read a file, use CaptionTable.open\(path\)"):
        PascalVOC(voc, split="val", captions="captions.json")
    with pytest.raises(
        CaptionError, match=r"a caption must be a string; the caption of '2007_000033' is of type dict. To read the"
    ):
        PascalVOC(voc, split="val", captions={name: {"captions": ["a plane"]} for name in VAL})


def test_image_paths_are_what_a_table_is_filled_from(voc):
    data = PascalVOC(voc, split="val")
    table = CaptionTable()
    table.fill(data.image_paths, lambda paths: [f"the image {path.name}" for path in paths])
    assert PascalVOC(voc, split="val", captions=table)[0].caption == "the image 2007_000033.jpg"


# Missing and damaged files


def test_a_missing_file_is_noticed_at_the_start_with_what_to_get(voc):
    (voc / "JPEGImages/2007_000042.jpg").unlink()
    (voc / "SegmentationClass/2007_000033.png").unlink()
    message = r"SegmentationClassAug.2007_000033.png is not there \(1 more file is missing\). .* SBD"
    with pytest.raises(MissingDataError, match=message) as caught:
        PascalVOC(voc, split="val")
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("broken", ["JPEGImages/2007_000033.jpg", "SegmentationClass/2007_000033.png"])
def test_a_file_cut_short_is_named(voc, broken):
    data = PascalVOC(voc, split="val")
    trees.cut_short(voc / broken)
    assert data[1].image_id == "2007_000042"
    with pytest.raises(ImageError, match=rf"{broken} (cannot be read|is damaged).* \(.+\). Copy or download"):
        data[0]


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_a_file_that_is_no_image_is_named(voc, content):
    (voc / "JPEGImages/2007_000033.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"2007_000033.jpg is not an image that Pillow can read"):
        PascalVOC(voc, split="val")[0]


def test_a_file_that_went_away_is_named(voc):
    data = PascalVOC(voc, split="val")
    (voc / "JPEGImages/2007_000033.jpg").unlink()
    with pytest.raises(ImageError, match=r"no such file: .*2007_000033.jpg"):
        data[0]


def test_damaged_files_are_skipped_when_asked_with_a_warning_and_a_list(tmp_path):
    root = many(tmp_path, 5)
    data = ADE20K(root, on_error="skip")
    for number in (1, 2, 4):
        trees.cut_short(root / f"annotations/training/ADE_train_{number:08d}.png")
    ids = data.image_ids
    with pytest.warns(UserWarning, match="skipped") as warned:
        assert [data[index].image_id for index in range(5)] == [ids[0], ids[3], ids[3], ids[3], ids[0]]
    assert len(warned) == 3  # one per file, although image 2 was read twice
    assert f"skipped {ids[1]!r}, used {ids[3]!r} instead: " in str(warned[0].message)
    assert set(data.skipped) == {ids[1], ids[2], ids[4]}
    assert all(f"{image_id[:-4]}.png is damaged or cut short" in why for image_id, why in data.skipped.items())


def test_when_nothing_can_be_read_skipping_ends(voc):
    data = PascalVOC(voc, split="val", on_error="skip")
    for name in VAL:
        trees.cut_short(voc / f"JPEGImages/{name}.jpg")
    with pytest.raises(ImageError, match=r"2 images in a row cannot be read; the first: .*2007_000042.jpg"):
        data[1]


def test_wrong_labels_are_never_skipped(voc):
    trees.write_mask(voc / "SegmentationClass/2007_000033.png", trees.quadrants(0, 21, 33, 255))
    with pytest.raises(DatasetError, match=r"2007_000033.png has pixels of value 21, 33, which is not a class"):
        PascalVOC(voc, split="val", on_error="skip")[0]


# Workers


def test_data_sets_are_pickled(voc):
    table = CaptionTable()
    table.update({name: name for name in VAL})
    data = pickle.loads(pickle.dumps(PascalVOC(voc, split="val", captions=table)))
    assert (data[1].image_id, data[1].caption) == (VAL[1], VAL[1])
    scenes = pickle.loads(pickle.dumps(RenderedScenes(2, 5)))
    assert (scenes[1].image == RenderedScenes(2, 5)[1].image).all()


def test_workers_read_the_same(tmp_path):
    data = ADE20K(many(tmp_path, 5))
    batches = list(DataLoader(data, batch_size=2, num_workers=2, collate_fn=collate))
    assert [image_id for batch in batches for image_id in batch.image_ids] == data.image_ids
    assert torch.equal(batches[1].masks[0], torch.from_numpy(data[2].mask))


# Rendered scenes


def test_rendered_scenes_come_with_everything():
    data = RenderedScenes(6, 3, size=96)
    for sample, scene in zip(data, data.scenes, strict=True):
        assert (sample.image == scene.image).all()
        assert (sample.mask == scene.mask).all()
        assert (sample.depth_m == scene.depth_m).all()
        assert sample.depth_m.max() == datasets.scenes.MAX_DEPTH_M  # the sky
        assert sample.caption == scene.caption()
        assert (sample.boxes.boxes.numpy() == scene.boxes).all()
        names = [data.box_class_names[label] for label in sample.boxes.labels]
        assert names == scene.names
        for (left, top, right, bottom), name in zip(sample.boxes.boxes.int().tolist(), names, strict=True):
            assert data.class_names.index(name) in sample.mask[top:bottom, left:right]
    assert data.image_ids == [f"plain-3-00000{k}" for k in range(6)] == [sample.image_id for sample in data]
    assert data[-1].image_id == data[5].image_id
    assert [sample.image_id for sample in data[4:]] == data.image_ids[4:]


def test_rendered_scenes_take_captions_and_styles():
    assert RenderedScenes(1, style=None).image_ids == ["mixed-0-000000"]
    assert "night" in RenderedScenes(1, style="night")[0].caption
    assert RenderedScenes(1, captions={"plain-0-000000": "a scene"})[0].caption == "a scene"
    with pytest.raises(UnknownIdError, match="rendered scenes: a mapping of 1 captions has no caption for 'plain-0-00"):
        RenderedScenes(2, captions={"plain-0-000000": "a scene"})
    assert len(RenderedScenes(0, captions={})) == 0


def test_masks_and_depth_of_other_widths_are_widened():
    image = np.zeros((4, 6, 3), np.uint8)
    sample = Sample(image, "a", mask=np.full((4, 6), 200, np.uint8), depth_m=np.full((4, 6), 1.5))
    assert sample.mask.dtype == np.int64
    assert (sample.mask == 200).all()
    assert sample.depth_m.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"image": np.zeros((4, 4, 3))}, r"Pass \(255 \* image\)"),
        ({"image": np.zeros((4, 4), np.uint8)}, r"Pass np.stack"),
        ({"image": np.zeros((3, 4, 4), np.uint8)}, r"Pass image.transpose\(1, 2, 0\)"),
        ({"image": np.zeros((4, 4, 4), np.uint8)}, r"Pass np.asarray\(picture.convert"),
        ({"mask": np.zeros((4, 4))}, r"Pass mask.astype\(np.int64\)"),
        ({"depth_m": np.zeros((4, 4), np.uint16)}, r"Pass metres as floats: millimetres / 1000"),
    ],
)
def test_an_array_of_the_wrong_kind_is_told_how_to_mend_it(change, hint, no_type_checker):
    with pytest.raises(TypeError, match=hint):
        Sample(**{"image": np.zeros((4, 4, 3), np.uint8), "image_id": "a"} | change)
