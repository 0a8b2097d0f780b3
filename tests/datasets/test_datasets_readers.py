"""Each reader on the folders of its data set: the right files, classes and numbers."""

import shutil

import numpy as np
import pytest
import torch
import trees
from PIL import Image

from tadp.datasets import (
    ADE20K,
    Augmented,
    Cityscapes,
    Comic2k,
    DarkZurich,
    MaskFolder,
    NighttimeDriving,
    NYUDepthV2,
    PascalVOC,
    PascalVOCDetection,
    RandomFlip,
    Watercolor2k,
)
from tadp.errors import DatasetError, ImageError, MissingDataError
from tadp.images import to_pil
from tadp.language.class_names import (
    ADE20K_CLASSES,
    CITYSCAPES_CLASSES,
    COMIC_CLASSES,
    VOC_CLASSES,
    WATERCOLOR_CLASSES,
)


@pytest.fixture
def voc(tmp_path):
    return trees.voc(tmp_path / "VOCdevkit/VOC2012")


@pytest.fixture
def nyu(tmp_path):
    return trees.nyu(tmp_path / "nyu_depth_v2")


def corners(plane: np.ndarray) -> list:
    return [plane[0, 0], plane[0, -1], plane[-1, 0], plane[-1, -1]]


# Pascal VOC, segmentation


def test_voc_takes_its_own_masks_and_sbds_where_there_is_none(voc):
    data = PascalVOC(voc)
    assert data.image_ids == ["2007_000032", "2007_000039", "2008_000008"]
    assert [corners(sample.mask) for sample in data] == [[0, 1, 20, 255], [0, 1, 20, 255], [0, 13, 13, 15]]
    assert data.class_names == ("background", *VOC_CLASSES)
    assert [data.class_names[value] for value in (1, 13, 20)] == ["airplane", "horse", "television"]


@pytest.mark.parametrize(("split", "count"), [("train", 2), ("val", 2), ("trainval", 4), ("trainaug", 3)])
def test_voc_has_four_splits(voc, split, count):
    assert len(PascalVOC(voc, split=split)) == count


def test_trainaug_may_be_a_list_of_paths_or_sbds_part_of_it(voc):
    lists = voc / "ImageSets/Segmentation"
    expected = PascalVOC(voc).image_ids
    trees.write_list(
        lists / "trainaug.txt", [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in expected]
    )
    assert PascalVOC(voc).image_ids == expected
    (lists / "trainaug.txt").unlink()
    trees.write_list(lists / "aug.txt", ["2008_000008"])
    assert PascalVOC(voc).image_ids == expected


def test_without_the_list_of_trainaug_it_says_where_there_is_one(voc):
    (voc / "ImageSets/Segmentation/trainaug.txt").unlink()
    with pytest.raises(
        MissingDataError, match=r"trainaug.txt, which is not there. It lists the 10,582 images .* aug.txt"
    ):
        PascalVOC(voc)


def test_a_root_that_is_one_folder_off_is_put_right(voc, tmp_path):
    for wrong in (tmp_path, tmp_path / "VOCdevkit", voc / "JPEGImages", voc / "Annotations"):
        with pytest.raises(MissingDataError, match=rf"needs {wrong}/JPEGImages, .* Did you mean {voc}\?"):
            PascalVOC(wrong)
        with pytest.raises(MissingDataError, match=rf"Did you mean {voc}\?"):
            PascalVOCDetection(wrong)


def test_a_mask_of_colours_is_refused(voc):
    path = voc / "SegmentationClass/2007_000033.png"
    Image.open(path).convert("RGB").save(path)
    with pytest.raises(DatasetError, match=r"2007_000033.png is a colour picture \(mode RGB\)"):
        PascalVOC(voc, split="val")[0]


def test_a_mask_of_another_size_is_refused(voc):
    trees.write_mask(voc / "SegmentationClass/2007_000033.png", np.zeros((36, 24)))
    with pytest.raises(
        DatasetError, match=r"2007_000033.png is 36x24, and the image '2007_000033' is 24x36 \(height x"
    ):
        PascalVOC(voc, split="val")[0]


def test_a_mask_of_16_bits_is_read_and_its_values_are_checked(voc):
    path = voc / "SegmentationClass/2007_000033.png"
    Image.fromarray(np.full(trees.SIZE, 7, np.uint16)).save(path)
    assert (PascalVOC(voc, split="val")[0].mask == 7).all()
    Image.fromarray(np.full(trees.SIZE, 256 + 7, np.uint16)).save(path)
    with pytest.raises(DatasetError, match=r"pixels of value 263, .* masks of Pascal VOC have 0 to 20 and 255"):
        PascalVOC(voc, split="val")[0]


@pytest.mark.parametrize(("content", "message"), [(b"\n \n", "is empty"), (b"\xff\xfe\x00", "it is not UTF-8 text")])
def test_a_list_that_is_none_is_refused(voc, content, message):
    (voc / "ImageSets/Segmentation/val.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=f"val.txt.* {message}"):
        PascalVOC(voc, split="val")


# Boxes in VOC's XML


def test_boxes_count_from_0_with_right_and_bottom_exclusive(voc):
    boxes = PascalVOCDetection(voc)[0].boxes
    height, width = trees.SIZE
    assert boxes.boxes.tolist() == [[0, 0, width, height], [4, 6, 5, 9], [1.5, 2, 10, 8]]
    assert [VOC_CLASSES[label] for label in boxes.labels] == ["airplane", "person", "television"]
    assert boxes.labels.dtype == torch.int64
    assert boxes.difficult.tolist() == [False, True, False]


def test_an_image_without_objects_has_no_boxes(voc):
    boxes = PascalVOCDetection(voc)[1].boxes
    assert boxes.boxes.shape == (0, 4)
    assert len(boxes.labels) == len(boxes.difficult) == 0


def test_labels_count_the_classes_that_are_wanted(voc):
    data = PascalVOCDetection(voc, class_names=("television", "person"))
    assert data.class_names == data.box_class_names == ("television", "person")
    assert data[0].boxes.labels.tolist() == [1, 0]
    assert data[0].boxes.difficult.tolist() == [True, False]


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        (("aeroplane", "person"), "'aeroplane' is spelled 'airplane' here"),
        (("zebra",), "'zebra' is not a class of Pascal VOC. Its classes are airplane, bicycle"),
        (("cat", "dog", "cat"), "class names must be unique; 'cat' is class 0 and 2"),
        ((), r"no class_names; give at least one name"),
    ],
)
def test_classes_that_are_none_are_refused(voc, class_names, message):
    with pytest.raises(ValueError, match=message):
        PascalVOCDetection(voc, class_names=class_names)


@pytest.mark.parametrize(
    ("name", "box", "message"),
    [
        (
            "dog",
            (5, 5, 4, 9),
            r"2007_000033.xml, object 0: a box must have an area; got \(5.0, 5.0, 4",
        ),
        ("dog", (9, 5, 3, 9), "object 0: a box must have an area"),
        ("dog", (37, 1, 40, 9), r"object 0: the box .* lies outside its image of 24x36"),
        ("zebra", (1, 1, 4, 9), "object 0: 'zebra' is not a class of Pascal VOC; its classes are airplane"),
        (
            "dog",
            ("left", 1, 4, 9),
            r"object 0: a box must have the numbers xmin, ymin, xmax, ymax, .*; got \['left', '1'",
        ),
        ("dog", ("", 1, 4, 9), "object 0: a box must have the numbers xmin"),
        ("dog", ("nan", 1, 4, 9), "object 0: a box must have the numbers xmin"),
    ],
)
def test_wrong_boxes_are_refused_with_file_and_object(voc, name, box, message):
    trees.write_annotation(voc / "Annotations/2007_000033.xml", [(name, box, 0)])
    with pytest.raises(DatasetError, match=message):
        PascalVOCDetection(voc, split="val")[0]


def test_a_box_of_one_pixel_is_one(voc):
    trees.write_annotation(voc / "Annotations/2007_000033.xml", [("dog", (36, 24, 36, 24), 0)])
    assert PascalVOCDetection(voc, split="val")[0].boxes.boxes.tolist() == [[35, 23, 36, 24]]


def test_an_annotation_cut_short_is_named_and_may_be_skipped(voc):
    trees.cut_short(voc / "Annotations/2007_000033.xml")
    with pytest.raises(ImageError, match=r"Annotations/2007_000033.xml cannot be read \(.*line"):
        PascalVOCDetection(voc, split="val")[0]
    with pytest.warns(UserWarning, match="skipped '2007_000033'"):
        assert PascalVOCDetection(voc, split="val", on_error="skip")[0].image_id == "2007_000042"


def test_annotations_or_lists_that_are_missing_are_asked_for(voc):
    (voc / "Annotations/2007_000042.xml").unlink()
    with pytest.raises(MissingDataError, match=r"2007_000042.xml is not there. Get Pascal VOC 2012 or 2007"):
        PascalVOCDetection(voc, split="val")
    with pytest.raises(
        MissingDataError, match=r"ImageSets/Main/test.txt, which is not there. Get .* VOCtest_06-Nov-2007"
    ):
        PascalVOCDetection(voc, split="test")


@pytest.mark.parametrize("reader", [Watercolor2k, Comic2k])
def test_drawings_have_six_classes_or_vocs(tmp_path, reader):
    root = trees.cross_domain(tmp_path / "drawings")
    data = reader(root)
    assert data.image_ids == ["91846963", "250278059"]
    assert len(reader(root, split="train")) == 1
    assert data.class_names == WATERCOLOR_CLASSES == COMIC_CLASSES
    assert data[0].boxes.boxes.tolist() == [[1, 2, 20, 22], [0, 0, 9, 9]]
    assert data[0].boxes.labels.tolist() == [0, 5]
    in_voc = reader(root, class_names=VOC_CLASSES)[0].boxes.labels
    assert [VOC_CLASSES[label] for label in in_voc] == ["bicycle", "person"]
    with pytest.raises(ValueError, match=f"{reader.__name__} has none of sheep; it has bicycle"):
        reader(root, class_names=("sheep",))
    trees.write_annotation(root / "Annotations/91846963.xml", [("sheep", (1, 1, 5, 5), 0)])
    with pytest.raises(DatasetError, match=f"'sheep' is not a class of {reader.__name__}"):
        _ = reader(root)[0]
    with pytest.raises(MissingDataError, match=f"{reader.__name__} needs .* Get {reader.__name__} of Inoue"):
        reader(tmp_path / "nowhere")


# ADE20K


def test_ade20ks_zero_is_ignored_and_classes_count_from_0(tmp_path):
    data = ADE20K(trees.ade20k(tmp_path))
    assert data.image_ids == ["ADE_train_00000001.jpg", "ADE_train_00000002.jpg"]
    assert corners(data[0].mask) == [255, 0, 12, 149]
    assert [data.class_names[k] for k in (0, 12, 149)] == ["wall", "person", "flag"]
    assert len(ADE20K(tmp_path, split="validation")) == 1


def test_a_class_beyond_ade20ks_150_is_refused(tmp_path):
    root = trees.ade20k(tmp_path)
    trees.write_mask(root / "annotations/training/ADE_train_00000002.png", trees.quadrants(0, 151, 3, 200))
    with pytest.raises(
        DatasetError, match=r"00000002.png has pixels of value 151, 200, .* ADE20K have 0 to 150 and 255"
    ):
        ADE20K(root)[1]


def test_ade20k_says_what_to_get(tmp_path):
    with pytest.raises(MissingDataError, match=r"images/training, which is not there. Get ADEChallengeData2016.zip"):
        ADE20K(tmp_path)
    (tmp_path / "images/training").mkdir(parents=True)
    (tmp_path / "annotations/training").mkdir(parents=True)
    with pytest.raises(MissingDataError, match=r"ADE20K: no images were found. Get"):
        ADE20K(tmp_path)


def test_names_of_classes_are_as_many_as_there_are_and_differ():
    assert len(set(ADE20K_CLASSES)) == len(ADE20K_CLASSES) == 150
    assert len(set(CITYSCAPES_CLASSES)) == len(CITYSCAPES_CLASSES) == 19
    assert set(WATERCOLOR_CLASSES) < set(VOC_CLASSES)
    for name in (*ADE20K_CLASSES, *CITYSCAPES_CLASSES):
        assert name == name.strip().lower()


# Cityscapes and its like


def test_cityscapes_ids_become_train_ids(tmp_path):
    data = Cityscapes(trees.cityscapes(tmp_path))
    assert data.image_ids == [f"{city}/{city}_000000_000019_leftImg8bit.png" for city in ("aachen", "zurich")]
    assert corners(data[0].mask) == [0, 18, 255, 255]  # road, bicycle, unlabeled, caravan
    assert (data[0].mask == data[1].mask).all()  # the second file has train ids from Cityscapes' scripts
    assert data.class_names == CITYSCAPES_CLASSES
    assert Cityscapes(tmp_path, split="val").image_ids == ["frankfurt/frankfurt_000000_000019_leftImg8bit.png"]


def test_all_ids_of_cityscapes_have_the_train_ids_of_its_scripts(tmp_path):
    root = trees.cityscapes(tmp_path)
    evaluated = dict(zip((7, 8, 11, 12, 13, 17, 19, 20, 21, 22), range(10), strict=True)) | {
        **{23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15},
        **{31: 16, 32: 17, 33: 18},
    }
    ids = np.arange(34).repeat(26)[: trees.SIZE[0] * trees.SIZE[1]].reshape(trees.SIZE)
    trees.write_mask(root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png", ids)
    mask = Cityscapes(root)[0].mask
    assert {int(value): set(mask[ids == value].tolist()) for value in np.unique(ids)} == {
        int(value): {evaluated.get(int(value), 255)} for value in np.unique(ids)
    }


def test_ids_in_a_file_of_train_ids_are_refused(tmp_path):
    root = trees.cityscapes(tmp_path)
    trees.write_mask(
        root / "gtFine/train/zurich/zurich_000000_000019_gtFine_labelTrainIds.png", trees.quadrants(7, 33, 0, 29)
    )
    with pytest.raises(DatasetError, match=r"labelTrainIds.png has pixels of value 29, 33, .* have 0 to 18 and 255"):
        Cityscapes(root)[1]


def test_dark_zurich_has_the_ids_of_the_authors_captions(tmp_path):
    data = DarkZurich(trees.dark_zurich(tmp_path))
    assert data.image_ids[0] == "night/GOPR0356/GOPR0356_frame_000375_rgb_anon.png"
    assert len(data) == 2
    assert corners(data[0].mask) == [0, 10, 13, 255]
    for path in (tmp_path / "gt").rglob("*_labelTrainIds.png"):
        path.unlink()
    assert corners(DarkZurich(tmp_path)[0].mask) == [0, 10, 13, 255]


def test_nighttime_driving_has_the_ids_of_the_authors_captions(tmp_path):
    data = NighttimeDriving(trees.nighttime_driving(tmp_path))
    assert data.image_ids == ["night/01_frame_1536_leftImg8bit.png", "night/0_frame_0453_leftImg8bit.png"]
    assert corners(data[0].mask) == [0, 2, 8, 255]


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (Cityscapes, r"leftImg8bit/train, .* Get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"),
        (DarkZurich, r"rgb_anon/val, .* Get Dark_Zurich_val_anon.zip"),
        (NighttimeDriving, r"leftImg8bit/test, .* Get NighttimeDrivingTest.zip"),
    ],
)
def test_street_scenes_say_what_to_get(tmp_path, reader, message):
    with pytest.raises(MissingDataError, match=message):
        reader(tmp_path)


def test_an_image_without_its_mask_is_named(tmp_path):
    root = trees.cityscapes(tmp_path)
    (root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(
        MissingDataError, match=r"Cityscapes: .*aachen_000000_000019_gtFine_labelIds.png is not there. Get"
    ):
        Cityscapes(root)


# NYU Depth v2


def test_nyus_millimetres_become_metres(nyu):
    data = NYUDepthV2(nyu, split="test")
    depth_m = data[0].depth_m
    assert depth_m.dtype == np.float32
    assert (depth_m[:4] == 0).all()  # unknown
    assert np.allclose(depth_m[5], 2.345)
    assert np.isclose(depth_m[-1, -1], 9.999)
    assert data.class_names == ()
    assert data.image_ids == ["/bathroom/rgb_00045.jpg"]
    assert NYUDepthV2(nyu).image_ids == ["/kitchen_0028b/rgb_00045.jpg", "/living_room_0019/rgb_00111.jpg"]


def test_the_room_is_read_from_the_name_of_the_folder(nyu, tmp_path):
    data = NYUDepthV2(nyu)
    assert [sample.room for sample in data] == ["kitchen", "living_room"] == data.rooms
    [test] = NYUDepthV2(nyu, split="test")
    assert test.room == "bathroom"
    assert NYUDepthV2(nyu).room_names[0] == "printer_room"
    rooms = {
        "study_room_0004": "study_room", "office_kitchen_0001a": "office_kitchen", "nyu_office_0": "office",
        "home_office_0013": "home_office", "garage_0001": None,
    }  # fmt: skip
    for folder in rooms:
        shutil.copytree(nyu / "sync" / "kitchen_0028b", nyu / "sync" / folder)
    lines = [f"/{folder}/rgb_00045.jpg /{folder}/sync_depth_00045.png" for folder in rooms]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    assert NYUDepthV2(nyu, file_list=tmp_path / "list.txt").rooms == list(rooms.values())
    assert Augmented(data, [RandomFlip(1.0)])[1].room == "living_room"


def test_the_list_may_be_elsewhere_and_have_more_columns(nyu, tmp_path):
    trees.write_list(tmp_path / "other.txt", ["bathroom/rgb_00045.jpg bathroom/sync_depth_00045.png 518.8579"])
    data = NYUDepthV2(nyu, split="test", file_list=tmp_path / "other.txt")
    assert data.image_ids == ["bathroom/rgb_00045.jpg"]
    assert data[0].depth_m.max() > 9


def test_nyu_says_what_to_get_and_where_the_list_is(nyu, tmp_path):
    with pytest.raises(MissingDataError, match=rf"official_splits/test, which is not there. Did you mean {nyu}\?"):
        NYUDepthV2(tmp_path, split="test")
    (nyu / "test_list.txt").unlink()
    with pytest.raises(
        MissingDataError, match=r"needs the list .*test_list.txt, .* datasets/depth/filenames/nyudepthv2"
    ):
        NYUDepthV2(nyu, split="test")
    (nyu / "sync/living_room_0019/sync_depth_00111.png").unlink()
    with pytest.raises(MissingDataError, match=r"sync_depth_00111.png is not there. Get sync.zip, the 24,231 pairs"):
        NYUDepthV2(nyu)
    trees.write_list(nyu / "train_list.txt", ["/kitchen_0028b/rgb_00045.jpg"])
    with pytest.raises(DatasetError, match=r"train_list.txt, line 1: a line must have an image and its depth"):
        NYUDepthV2(nyu)


def test_depth_of_8_bits_or_another_size_is_refused(nyu):
    path = nyu / "official_splits/test/bathroom/sync_depth_00045.png"
    Image.fromarray(np.full(trees.SIZE, 200, np.uint8)).save(path)
    with pytest.raises(DatasetError, match=r"sync_depth_00045.png is a picture of mode L; depth must be a 16-bit grey"):
        NYUDepthV2(nyu, split="test")[0]
    Image.fromarray(np.full((12, 18), 200, np.uint16)).save(path)
    with pytest.raises(
        DatasetError, match=r"sync_depth_00045.png is 12x18, and the image '/bathroom/rgb_00045.jpg' is 24x36"
    ):
        NYUDepthV2(nyu, split="test")[0]
    Image.fromarray(np.random.default_rng(0).integers(0, 9999, trees.SIZE, dtype=np.uint16)).save(path)
    trees.cut_short(path)
    with pytest.raises(ImageError, match=r"sync_depth_00045.png is damaged or cut short"):
        NYUDepthV2(nyu, split="test")[0]


# Your own folders


@pytest.fixture
def own(tmp_path):
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for number, suffix in enumerate(("jpg", "png")):
        Image.fromarray(np.full((30, 40, 3), 50 * number, np.uint8)).save(tmp_path / "photos" / f"{number}.{suffix}")
        Image.fromarray(np.full((30, 40), number, np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    return tmp_path


def test_a_mask_folder_pairs_images_and_masks_by_name(own):
    data = MaskFolder(own / "photos", own / "masks", class_names=["ground", "ball"], captions={"0": "a", "1": "b"})
    assert data.image_ids == ["0", "1"]
    assert [sample.caption for sample in data] == ["a", "b"]
    assert [int(sample.mask.max()) for sample in data] == [0, 1]
    assert data.class_names == ("ground", "ball")


@pytest.mark.parametrize("kind", ["16 bits", "transparent", "turned"])
def test_images_are_read_as_predict_reads_them(kind, own):
    path = own / "photos/1.png"
    noise = np.random.default_rng(0).integers(0, 65536, (30, 40), dtype=np.uint16)
    if kind == "16 bits":
        Image.fromarray(noise).save(path)
    elif kind == "transparent":
        Image.fromarray(np.dstack([noise >> 8] * 4).astype(np.uint8)).save(path)
    else:
        exif = Image.Exif()
        exif[0x0112] = 3  # upside down
        Image.fromarray((noise >> 8).astype(np.uint8)).save(path, exif=exif)
    seen = MaskFolder(own / "photos", own / "masks", class_names=["ground", "ball"])[1].image
    assert np.array_equal(seen, np.asarray(to_pil(path)))
    assert 100 < seen.mean() < 230  # not all white, as 16 bits cut to 8 would be


def test_a_mask_of_black_and_white_is_told_of_once(own):
    for name in ("0.png", "1.png"):
        Image.fromarray(np.tile(np.array([0, 255], np.uint8), (30, 20))).save(own / "masks" / name)
    data = MaskFolder(own / "photos", own / "masks", class_names=["ground", "ball"])
    with pytest.warns(
        UserWarning, match=r"0.png only has the values 0 and 255.* no pixels of 'ball'.* write 1"
    ) as warned:
        assert len(list(data)) == 2
    assert len(warned) == 1
    Image.fromarray(np.tile(np.array([0, 1, 255, 0], np.uint8), (30, 10))).save(own / "masks" / "0.png")
    assert MaskFolder(own / "photos", own / "masks", class_names=["ground", "ball"])[0].mask is not None


@pytest.mark.usefixtures("no_type_checker")
def test_names_of_a_mask_folder_are_a_list_that_a_mask_can_count(own):
    for wrong, got in (("ball", "the string 'ball'"), (2, "int")):
        with pytest.raises(TypeError, match=rf"class_names must be a list of strings; got {got}"):
            MaskFolder(own / "photos", own / "masks", class_names=wrong)
    for count, message in ((0, "no class_names"), (256, r"a mask can have 1 to 255 classes.*got 256 names")):
        with pytest.raises(ValueError, match=message):
            MaskFolder(own / "photos", own / "masks", class_names=[str(k) for k in range(count)])
    assert len(MaskFolder(own / "photos", own / "masks", class_names=[str(k) for k in range(255)]).class_names) == 255


def test_a_mask_folder_says_what_is_missing(own):
    with pytest.raises(MissingDataError, match=r"no folder .*nowhere"):
        MaskFolder(own / "nowhere", own / "masks", class_names=["a"])
    with pytest.raises(DatasetError, match=r"pixels of value 1, which is not a class; .* have 0 and 255"):
        MaskFolder(own / "photos", own / "masks", class_names=["ground"])[1]
    (own / "masks" / "1.png").unlink()
    with pytest.raises(MissingDataError, match=r"1\.png is not there.* a.png for a.jpg"):
        MaskFolder(own / "photos", own / "masks", class_names=["a", "b"])
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(own / "photos" / "0.png")
    with pytest.raises(ValueError, match="share a name"):
        MaskFolder(own / "photos", own / "masks", class_names=["a", "b"])
    (own / "empty").mkdir()
    with pytest.raises(MissingDataError, match="no images in"):
        MaskFolder(own / "empty", own / "masks", class_names=["a"])
