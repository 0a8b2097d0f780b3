"""Labels that could silently become others: bit depths, turned images, shifted classes, units, boxes, names, pipes."""

import os
import shutil
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image
from stored_images import write_pgm, write_png, write_tiff

from tadp.captions import CaptionTable
from tadp.datasets import ADE20K, Cityscapes, DarkZurich, MaskFolder, NYUDepthV2, PascalVOC, PascalVOCDetection
from tadp.errors import DatasetError, ImageError, MissingDataError, UnknownIdError

ORIENTATION = 0x0112
CLASSES = [f"class {number}" for number in range(16)]
COMPOSED = unicodedata.normalize("NFC", "Straße in Zürich é")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@pytest.fixture
def voc(tmp_path):
    return trees.voc(tmp_path / "VOCdevkit/VOC2012")


def save_turned(path: Path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


# Bit depths and formats


@pytest.mark.parametrize("depth", [2, 4])
def test_classes_in_few_bits_are_not_stretched(voc, depth):
    values = trees.quadrants(0, 1, 2, 3)
    write_png(voc / "SegmentationClass/2007_000033.png", values, depth=depth)
    assert (PascalVOC(voc, split="val")[0].mask == values).all()


def test_masks_of_a_folder_may_be_png_pgm_or_tiff_of_any_depth(tmp_path):
    writers = {
        "a.png": lambda path, values: write_png(path, values, depth=4, palette=True),
        "b.pgm": lambda path, values: write_pgm(path, values, white=15),
        "c.tif": lambda path, values: write_tiff(path, values, depth=4, photometric=0),
        "d.TIFF": lambda path, values: write_tiff(path, values, depth=32, sample_format=3),
        "e.pgm": lambda path, values: write_pgm(path, values, white=65535),
    }
    masks = {name: np.random.default_rng(seed).integers(0, 16, trees.SIZE) for seed, name in enumerate(writers)}
    (tmp_path / "masks").mkdir()
    for number, (name, write) in enumerate(writers.items()):
        trees.write_image(tmp_path / "photos" / f"{name[0]}.{('jfif', 'gif', 'avif', 'pgm', 'webp')[number]}")
        write(tmp_path / "masks" / name, masks[name])
    Image.new("L", trees.SIZE[::-1]).save(tmp_path / "photos/d.pgm")
    data = MaskFolder(tmp_path / "photos", tmp_path / "masks", class_names=CLASSES)
    assert data.image_ids == ["a", "b", "c", "d", "e"]
    for sample, mask in zip(data, masks.values(), strict=True):
        assert np.array_equal(sample.mask, mask)
    write_png(tmp_path / "masks/b.png", masks["b.pgm"], depth=4)
    with pytest.raises(ValueError, match=r"b.pgm and .*b.png share a name, and so an image; remove one"):
        MaskFolder(tmp_path / "photos", tmp_path / "masks", class_names=CLASSES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full(trees.SIZE, 1.5), "values that are not whole numbers"),
        (np.full(trees.SIZE, np.nan), "values that are not whole numbers"),
        (np.full(trees.SIZE, np.inf), "which is not a class"),
        (np.full(trees.SIZE, 1e30), "which is not a class"),
        (np.full(trees.SIZE, -1.0), "pixels of value -1, which is not a class"),
    ],
)
def test_a_mask_of_fractions_or_of_no_numbers_is_refused(voc, values, message):
    Image.fromarray(values.astype(np.float32)).save(voc / "SegmentationClass/2007_000033.png", "TIFF")
    with pytest.raises(DatasetError, match=rf"2007_000033.png has .*{message}"):
        PascalVOC(voc, split="val")[0]


def test_a_signed_minus_1_does_not_become_the_255_that_is_ignored(voc):
    write_tiff(voc / "SegmentationClass/2007_000033.png", np.full(trees.SIZE, -1), depth=8, sample_format=2)
    with pytest.raises(DatasetError, match="pixels of value -1, which is not a class"):
        PascalVOC(voc, split="val")[0]


def test_a_mask_that_is_a_jpeg_inside_is_refused(voc):
    Image.fromarray(np.zeros(trees.SIZE, np.uint8)).save(voc / "SegmentationClass/2007_000033.png", "JPEG")
    with pytest.raises(DatasetError, match=r"2007_000033.png is a JPEG file, which may change values"):
        PascalVOC(voc, split="val")[0]


# Images that their EXIF orientation turns


@pytest.fixture
def square(tmp_path):
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    return tmp_path


def open_square(root: Path) -> MaskFolder:
    return MaskFolder(root / "photos", root / "masks", class_names=CLASSES)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_square_image_is_turned_together_with_its_mask_or_refused(square, orientation):
    values = np.random.default_rng(0).integers(0, 16, (24, 24))
    save_turned(square / "photos/a.png", np.repeat(16 * values[..., None], 3, axis=2).astype(np.uint8), orientation)
    write_png(square / "masks/a.png", values, depth=4)
    with pytest.raises(
        DatasetError, match=rf"a.png is turned by its EXIF orientation \({orientation}\).*Save the image"
    ):
        open_square(square)[0]
    save_turned(square / "masks/a.png", values.astype(np.uint8), orientation)
    sample = open_square(square)[0]
    assert np.array_equal(sample.image[..., 0] // 16, sample.mask)
    write_png(square / "masks/a.png", np.full((24, 24), 7), depth=4)  # the same before and after the turn
    assert (open_square(square)[0].mask == 7).all()


def test_the_size_of_a_mask_tells_whether_it_is_upright(square):
    save_turned(square / "photos/a.png", np.zeros((24, 36, 3), np.uint8), 6)
    values = np.random.default_rng(0).integers(0, 16, (36, 24))
    write_png(square / "masks/a.png", values, depth=4)
    assert np.array_equal(open_square(square)[0].mask, values)
    write_png(square / "masks/a.png", values.T, depth=4)
    with pytest.raises(
        DatasetError, match=r"a.png is 24x36, and the image 'a' is 36x24 .* If its EXIF orientation turns"
    ):
        open_square(square)[0]


def test_depth_and_boxes_of_turned_images_are_refused_too(tmp_path, voc):
    nyu = trees.nyu(tmp_path / "nyu")
    path = nyu / "official_splits/test/bathroom/rgb_00045.jpg"
    with Image.open(path) as picture:
        save_turned(path, np.asarray(picture), 3)
    with pytest.raises(DatasetError, match=r"rgb_00045.jpg is turned by its EXIF orientation \(3\)"):
        NYUDepthV2(nyu, split="test")[0]
    path = voc / "JPEGImages/2007_000033.jpg"
    with Image.open(path) as picture:
        save_turned(path, np.asarray(picture), 2)
    with pytest.raises(
        DatasetError, match=r"2007_000033.jpg is turned by its EXIF orientation \(2\), and .*000033.xml"
    ):
        PascalVOCDetection(voc, split="val")[0]
    trees.write_annotation(voc / "Annotations/2007_000033.xml", [])
    assert len(PascalVOCDetection(voc, split="val")[0].boxes) == 0


# Shifted classes, and depth in another unit


def test_ade20k_masks_that_were_shifted_before_cause_one_warning(tmp_path):
    root = trees.ade20k(tmp_path)
    for number in (1, 2):
        path = root / f"annotations/training/ADE_train_{number:08d}.png"
        trees.write_mask(path, trees.quadrants(0, 1, 149, 255))
    with pytest.warns(
        UserWarning, match=r"00000001.png has pixels of 255 and otherwise 0 to 149 .* already shifted"
    ) as seen:
        assert len(list(ADE20K(root))) == 2
    assert len(seen) == 1


@pytest.mark.parametrize("values", [(0, 1, 13, 150), (1, 150, 255, 255), (0, 0, 3, 4)])
def test_ade20ks_own_masks_cause_no_warning(tmp_path, values):
    root = trees.ade20k(tmp_path)
    trees.write_mask(root / "annotations/training/ADE_train_00000001.png", trees.quadrants(*values))
    assert ADE20K(root)[0].mask is not None


@pytest.mark.parametrize("reader", [Cityscapes, DarkZurich])
def test_train_ids_in_a_file_of_ids_cause_one_warning(tmp_path, reader):
    root = (trees.cityscapes if reader is Cityscapes else trees.dark_zurich)(tmp_path)
    for path in root.rglob("*labelTrainIds.png"):
        path.unlink()
    for path in root.rglob("*labelIds.png"):
        trees.write_mask(path, trees.quadrants(0, 18, 8, 255))
    with pytest.warns(
        UserWarning, match=r"labelIds.png has pixels of 255 .* train ids.* Rename such files to .*TrainIds"
    ) as seen:
        assert len(list(reader(root))) == 2
    assert len(seen) == 1
    for path in root.rglob("*labelIds.png"):
        trees.write_mask(path, trees.quadrants(7, 26, 8, 255))
    assert reader(root)[0].mask is not None


def test_voc_masks_without_background_cause_one_warning(voc):
    for name in ("2007_000033", "2007_000042"):
        trees.write_mask(voc / f"SegmentationClass/{name}.png", trees.quadrants(255, 255, 255, 14))
    with pytest.warns(UserWarning, match=r"2007_000033.png is 255 in most places, which Pascal VOC") as seen:
        assert len(list(PascalVOC(voc, split="val"))) == 2
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("depth_mm", "message"),
    [(250, r"under 0.4 m in most places"), (25_000, "over 10 m in most places"), (2, "under 0.4 m"), (2500, None)],
)
def test_depth_that_no_kinect_measures_causes_a_warning(tmp_path, depth_mm, message):
    root = trees.nyu(tmp_path)
    values = np.full(trees.SIZE, depth_mm, np.uint16)
    values[:20] = 0  # unknown
    Image.fromarray(values).save(root / "official_splits/test/bathroom/sync_depth_00045.png")
    data = NYUDepthV2(root, split="test")
    if message is None:
        assert data[0].depth_m.max() == np.float32(2.5)
        return
    with pytest.warns(UserWarning, match=rf"sync_depth_00045.png has depths {message}.* another unit") as seen:
        samples = [data[0], data[0]]
    assert len(seen) == 1
    assert np.allclose(samples[1].depth_m.max(), depth_mm / 1000)


def test_depth_may_be_big_endian_and_not_negative(tmp_path):
    root = trees.nyu(tmp_path)
    path = root / "official_splits/test/bathroom/sync_depth_00045.png"
    values = np.random.default_rng(0).integers(500, 9999, trees.SIZE)
    for write in (
        lambda: write_pgm(path, values, white=65535),
        lambda: write_pgm(path, values, white=9999),
        lambda: write_tiff(path, values, depth=16),
        lambda: write_tiff(path, values, depth=32, sample_format=2),
    ):
        write()
        assert np.array_equal(NYUDepthV2(root, split="test")[0].depth_m, (values / 1000).astype(np.float32))
    write_tiff(path, -values, depth=16, sample_format=2)
    with pytest.raises(DatasetError, match="negative depth, -"):
        NYUDepthV2(root, split="test")[0]


# Boxes


def annotation(path: Path, box: tuple, *, difficult: str = "0", size: tuple[int, int] = trees.SIZE) -> None:
    trees.write_annotation(path, [("dog", box, 0)])
    text = path.read_text().replace(
        "<difficult>0</difficult>", difficult if "<" in difficult else f"<difficult>{difficult}</difficult>"
    )
    text = text.replace(f"<width>{trees.SIZE[1]}<", f"<width>{size[1]}<").replace(
        f"<height>{trees.SIZE[0]}<", f"<height>{size[0]}<"
    )
    path.write_text(text)


@pytest.mark.parametrize(
    ("box", "clipped"),
    [((0, 0, 9, 9), (0, 0, 9, 9)), ((1, 1, 37, 25), (0, 0, 36, 24)), ((-5, 3, 40, 30.5), (0, 2, 36, 24))],
)
def test_boxes_beyond_the_edge_are_clipped_with_one_warning(voc, box, clipped):
    for name in ("2007_000033", "2007_000042"):
        annotation(voc / f"Annotations/{name}.xml", box)
    with pytest.warns(
        UserWarning, match=r"2007_000033.xml, object 0: the box .* reaches beyond its image of 24x36"
    ) as seen:
        boxes = [sample.boxes.boxes.tolist() for sample in PascalVOCDetection(voc, split="val")]
    assert len(seen) == 1
    assert boxes == [[list(clipped)]] * 2


def test_an_annotation_of_another_image_is_refused_by_its_size(voc):
    annotation(voc / "Annotations/2007_000033.xml", (1, 1, 9, 9), size=(30, 40))
    with pytest.raises(
        DatasetError, match=r"000033.xml is 30x40, and the image '2007_000033' is 24x36 .* Download or export both"
    ):
        PascalVOCDetection(voc, split="val")[0]
    for unknown in ((0, 0), ("", "")):
        annotation(voc / "Annotations/2007_000033.xml", (1, 1, 9, 9), size=unknown)
        assert len(PascalVOCDetection(voc, split="val")[0].boxes) == 1


@pytest.mark.parametrize(
    ("difficult", "expected"),
    [("1", True), (" 1\n", True), ("0", False), ("", False), ("Unspecified", False), ("-1", False), ("0" * 5000, False),
     ("2", False), ("9" * 5000, False), ("<difficult/>", False), ("<other/>", False)],
)  # fmt: skip
def test_an_empty_or_unknown_difficult_counts_as_0(voc, difficult, expected):
    annotation(voc / "Annotations/2007_000033.xml", (1, 1, 9, 9), difficult=difficult)
    assert PascalVOCDetection(voc, split="val")[0].boxes.difficult.tolist() == [expected]


@pytest.mark.parametrize("encoding", ["utf-7", "klingon", "utf-32"])
def test_an_annotation_in_an_unknown_encoding_is_named(voc, encoding):
    path = voc / "Annotations/2007_000033.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + path.read_bytes())
    with pytest.raises(ImageError, match=r"000033.xml cannot be read"):
        PascalVOCDetection(voc, split="val")[0]


# Names in another Unicode form, byte-order marks, pipes


@pytest.mark.parametrize(("listed", "on_disk"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_names_match_in_any_unicode_form(tmp_path, voc, listed, on_disk):
    (voc / "JPEGImages/2007_000033.jpg").rename(voc / f"JPEGImages/{on_disk}.jpg")
    (voc / "SegmentationClass/2007_000033.png").rename(voc / f"SegmentationClass/{on_disk}.png")
    trees.write_list(voc / "ImageSets/Segmentation/val.txt", [listed])
    for captions in ({on_disk: "a street"}, CaptionTable({on_disk: "a street"})):
        data = PascalVOC(voc, split="val", captions=captions)
        assert data.image_ids == [listed]
        assert data[0].caption == "a street"
        assert data[0].mask.max() == 255
    with pytest.raises(UnknownIdError, match="no caption for"):
        PascalVOC(voc, split="val", captions={f"{on_disk}!": "a street"})
    nyu = trees.nyu(tmp_path / "nyu")
    (nyu / "official_splits/test/bathroom").rename(nyu / "official_splits/test" / on_disk)
    trees.write_list(
        nyu / "test_list.txt",
        [f"/{name}/rgb_00045.jpg /{name}/sync_depth_00045.png" for name in [listed.replace(" ", "_")]],
    )
    (nyu / "official_splits/test" / on_disk).rename(nyu / "official_splits/test" / on_disk.replace(" ", "_"))
    assert NYUDepthV2(nyu, split="test")[0].depth_m.max() > 9
    trees.write_list(nyu / "test_list.txt", [f"/{listed.replace(' ', '_')}/rgb_00046.jpg x.png"])
    with pytest.raises(MissingDataError, match=r"rgb_00046.jpg is not there"):
        NYUDepthV2(nyu, split="test")


def test_images_and_masks_of_a_folder_match_in_any_unicode_form(tmp_path):
    trees.write_image(tmp_path / f"photos/{COMPOSED}.png")
    trees.write_mask(tmp_path / f"masks/{DECOMPOSED}.png", trees.quadrants(0, 1, 2, 3))
    data = MaskFolder(tmp_path / "photos", tmp_path / "masks", class_names=CLASSES, captions={DECOMPOSED: "a street"})
    assert data.image_ids == [COMPOSED]
    assert data[0].mask.max() == 3
    assert data[0].caption == "a street"
    trees.write_image(tmp_path / f"photos/{DECOMPOSED}.jpg")
    with pytest.raises(ValueError, match="share a name, and so a mask"):
        MaskFolder(tmp_path / "photos", tmp_path / "masks", class_names=CLASSES)


def test_hidden_files_and_folders_are_not_images_or_masks(tmp_path):
    trees.write_image(tmp_path / "photos/a.jpg")
    trees.write_mask(tmp_path / "masks/a.png", trees.quadrants(0, 1, 2, 3))
    for folder in ("photos", "masks"):
        (tmp_path / folder / "._a.png").write_bytes(b"\0\5\x16\7")  # a resource fork of macOS
        (tmp_path / folder / "b.png").mkdir()
    assert MaskFolder(tmp_path / "photos", tmp_path / "masks", class_names=CLASSES).image_ids == ["a"]


def test_a_byte_order_mark_is_not_part_of_the_first_name(voc, tmp_path):
    lists = [
        voc / "ImageSets/Segmentation/val.txt",
        voc / "ImageSets/Main/val.txt",
        trees.nyu(tmp_path) / "test_list.txt",
    ]
    for path in lists:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert PascalVOC(voc, split="val").image_ids[0] == "2007_000033"
    assert PascalVOCDetection(voc, split="val").image_ids[0] == "2007_000033"
    assert NYUDepthV2(tmp_path, split="test").image_ids == ["/bathroom/rgb_00045.jpg"]


def test_links_to_a_folder_above_are_not_followed_for_ever(tmp_path):
    root = trees.cityscapes(tmp_path)
    expected = Cityscapes(root).image_ids
    (root / "leftImg8bit/train/aachen/loop").symlink_to(root / "leftImg8bit/train")
    assert Cityscapes(root).image_ids == expected
    moved = (root / "leftImg8bit/train/zurich").rename(tmp_path / "zurich elsewhere")
    (root / "leftImg8bit/train/zurich").symlink_to(moved)
    assert Cityscapes(root).image_ids == expected


def test_pipes_and_folders_in_place_of_files_are_refused(voc):
    for path, message in (
        (voc / "SegmentationClass/2007_000033.png", "000033.png is a pipe or device"),
        (voc / "Annotations/2007_000042.xml", r"000042.xml cannot be read \(.*000042.xml is a pipe or a device"),
        (voc / "JPEGImages/2007_000033.jpg", "000033.jpg is a pipe or device"),
    ):
        path.unlink()
        os.mkfifo(path)
        data = (PascalVOCDetection if path.suffix == ".xml" else PascalVOC)(voc, split="val")
        with pytest.raises(ImageError, match=message):
            data[1 if path.suffix == ".xml" else 0]
    path = voc / "ImageSets/Segmentation/val.txt"
    path.unlink()
    for make, remove, why in (
        (os.mkfifo, Path.unlink, r".*val.txt is a pipe or a device"),
        (Path.mkdir, Path.rmdir, "Is a directory"),
    ):
        make(path)
        with pytest.raises(DatasetError, match=rf"val.txt cannot be read: {why}"):
            PascalVOC(voc, split="val")
        remove(path)


def test_a_list_leads_to_no_file_outside_the_data_set(voc):
    path = voc / "ImageSets/Segmentation/val.txt"
    shutil.copy(voc / "JPEGImages/2007_000033.jpg", voc.parent / "secret.jpg")
    for name in ("../../secret", "a/../../secret"):
        path.write_text(f"{name}\n")
        with pytest.raises(DatasetError, match=r"val\.txt lists '.*secret', which is outside the data set"):
            PascalVOC(voc, split="val")
    path.write_text(f"{voc.parent}/secret\n")
    with pytest.raises(MissingDataError, match=r"JPEGImages/.*secret\.jpg is not there"):
        PascalVOC(voc, split="val")


def test_no_label_is_read_with_a_warning_that_has_no_cause(voc, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (PascalVOC(voc, split="trainval"), PascalVOCDetection(voc), ADE20K(trees.ade20k(tmp_path))):
            assert list(data)


def test_train_ids_without_255_are_noticed_too(tmp_path):
    root = trees.cityscapes(tmp_path)
    for path in root.rglob("*labelTrainIds.png"):
        path.unlink()
    for path in root.rglob("*labelIds.png"):
        trees.write_mask(path, trees.quadrants(0, 2, 10, 13))
    with pytest.warns(UserWarning, match=r"labelIds.png has .* few known classes, .* a second time"):
        Cityscapes(root)[0]
    for path in root.rglob("*labelIds.png"):
        trees.write_mask(path, trees.quadrants(0, 1, 2, 3))  # no labels, as in the files of the test split
    assert (Cityscapes(root)[0].mask == 255).all()
