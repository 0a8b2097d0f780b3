"""Inspecting a data set: every fault has a finding of its own, and a data set without faults has none."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tadp import datasets
from tadp.cli import app
from tadp.errors import DatasetError, MissingDataError, OutputError
from tadp.files.run_lock import only_run
from tadp.inspection import Inspection, inspect, inspecting
from tadp.inspection.contact_sheet import _pictures

HEIGHT, WIDTH = 48, 64
NAMES = ["ground", "ball"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    monkeypatch.setattr("tadp.inspection.facts_cache.cached_assets_path", lambda *names: folder.joinpath(*names))
    return folder


def photo(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Image.Image:
    """A picture of soft blobs, unlike that of another seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(noise).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def save(path: Path, picture: Image.Image | np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def two_classes() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, WIDTH // 4 :] = 1
    return mask


def masks(root: Path, parts: tuple[str, ...] = ("",), count: int = 10) -> Path:
    """Images with masks, in folders named after the parts."""
    for number in range(count):
        part = parts[number % len(parts)]
        save(root / "images" / part / f"{number}.png", photo(number))
        save(root / "masks" / part / f"{number}.png", two_classes())
    return root


def yolo(root: Path) -> Path:
    write(root / "data.yaml", "names: [cat, dog]\n")
    for number in range(10):
        save(root / "images" / f"{number}.jpg", photo(number))
        write(root / "labels" / f"{number}.txt", "0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.2 0.2\n")
    return root


def voc_object(name: str, *sides: float) -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{tag}>{side}</{tag}>" for tag, side in zip(tags, sides, strict=True))
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


def voc_file(*objects: str, size: tuple[int, int] = (HEIGHT, WIDTH)) -> str:
    stated = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"
    return f"<annotation>{stated}{''.join(objects)}</annotation>"


CAT, DOG = voc_object("cat", 1, 1, 9, 9), voc_object("dog", 5, 5, 20, 20)


def voc(root: Path) -> Path:
    for number in range(10):
        save(root / "JPEGImages" / f"{number}.jpg", photo(number))
        write(root / "Annotations" / f"{number}.xml", voc_file(CAT, DOG))
    return root


def coco(root: Path, **changes: list[dict]) -> Path:
    """Boxes of two classes, with one change to the json's rows, such as annotations=[…] to add."""
    content: dict[str, list[dict]] = {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH} for number in range(10)
        ],
        "annotations": [
            {"id": 2 * number + label, "image_id": number, "category_id": label, "bbox": [4, 4, 9, 9]}
            for number in range(10)
            for label in (0, 1)
        ],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    for part, rows in changes.items():
        content[part] += rows
    for number in range(10):
        save(root / "images" / f"{number}.jpg", photo(number))
    write(root / "annotations.json", json.dumps(content))
    return root


def depth(root: Path, metres: float = 2.0) -> Path:
    for number in range(10):
        save(root / "rgb" / f"{number}.png", photo(number))
        (root / "depth").mkdir(exist_ok=True)
        np.save(root / "depth" / f"{number}.npy", np.full((HEIGHT, WIDTH), metres + 0.1 * number, np.float32))
    return root


def kinds(inspection: Inspection) -> list[str]:
    return [finding.kind for finding in inspection.findings]


def only(inspection: Inspection, kind: str) -> str:
    """The only finding, as text, after checking its kind."""
    assert kinds(inspection) == [kind], str(inspection)
    return str(inspection.findings[0])


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("make", "options"), [(masks, {"class_names": NAMES}), (yolo, {}), (voc, {}), (coco, {}), (depth, {})]
)
def test_a_data_set_without_faults_has_no_finding(tmp_path, make, options, quick):
    inspection = inspect(make(tmp_path), quick=quick, **options)
    assert not inspection.findings, str(inspection)
    assert inspection.images == 10
    assert inspection.sizes == {"48x64": 10}
    assert inspection.splits == {"train": 8, "val": 2}
    assert not inspection.has_own_split
    assert "0 findings" in str(inspection)


def test_classes_are_counted(tmp_path):
    inspection = inspect(masks(tmp_path / "masks"), class_names=NAMES)
    assert [(row.name, row.images, row.boxes, row.pixels) for row in inspection.classes] == [
        ("ground", 10, None, 0.25),
        ("ball", 10, None, 0.75),
    ]
    write(yolo(tmp_path / "yolo") / "labels" / "3.txt", "1 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.2 0.2\n")
    for quick in (False, True):
        inspection = inspect(tmp_path / "yolo", quick=quick)
        assert [(row.name, row.images, row.boxes, row.pixels) for row in inspection.classes] == [
            ("cat", 9, 9, None),
            ("dog", 10, 11, None),
        ]
    assert ["dog", "10", "11"] in [line.split() for line in str(inspection).splitlines()]


def test_unknown_pixels_are_counted_apart(tmp_path):
    mask = two_classes()
    mask[: HEIGHT // 2] = 255
    save(masks(tmp_path) / "masks" / "3.png", mask)
    inspection = inspect(tmp_path, class_names=NAMES)
    assert not inspection.findings
    assert inspection.unlabelled == pytest.approx(0.05)
    assert inspection.classes[0].pixels == pytest.approx(0.25)
    assert "5.00% of the pixels have no class" in str(inspection)


def test_unreadable_and_empty_files_do_not_stop_the_rest(tmp_path):
    root = masks(tmp_path)
    cut = root / "images" / "1.png"
    cut.write_bytes(cut.read_bytes()[:400])
    (root / "images" / "2.png").write_bytes(b"")
    (root / "masks" / "3.png").write_bytes(b"not a picture")
    inspection = inspect(root, class_names=NAMES)
    finding = only(inspection, "unreadable file")
    assert "3 files cannot be read." in finding
    assert all(name in finding for name in ("1.png", "2.png", "3.png"))
    assert inspection.classes[0].images == 7


def test_names_that_are_not_utf8_are_written_as_escapes(tmp_path):
    masks(tmp_path / "data")
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder / "3.png").rename(tmp_path / "data" / folder / "caf\udce9.png")
    (tmp_path / "data" / "images" / "caf\udce9.png").write_bytes(b"no picture")
    inspect(tmp_path / "data", output=tmp_path / "look", class_names=NAMES)
    [finding] = json.loads((tmp_path / "look" / "inspection.json").read_text(encoding="utf-8"))["findings"]
    assert "caf\udce9.png" in finding["places"][0]


def test_two_inspections_do_not_write_to_one_folder(tmp_path):
    masks(tmp_path / "data")
    match = r"another run is writing .*look"
    with only_run(tmp_path / "look", is_folder=True), pytest.raises(OutputError, match=match):
        inspect(tmp_path / "data", output=tmp_path / "look", class_names=NAMES)


def test_photographs_that_are_not_read_are_counted(tmp_path):
    masks(tmp_path)
    for name in ("images/7.png", "images/8.png"):
        (tmp_path / name).rename((tmp_path / name).with_suffix(".cr2"))
    inspection = inspect(tmp_path, class_names=NAMES)
    assert kinds(inspection) == ["label without image", "note"]
    assert "images: 2 files that are not images (.cr2 2)" in str(inspection.findings[1])


def test_a_mask_of_another_size(tmp_path):
    save(masks(tmp_path) / "masks" / "4.png", two_classes()[:40])
    for quick in (False, True):
        finding = only(inspect(tmp_path, class_names=NAMES, quick=quick), "label size")
        assert "4.png is 40x64" in finding
        assert "1 label has another size than the image." in finding


def test_a_mask_of_another_scale_names_the_options_and_is_right_with_them(tmp_path):
    save(masks(tmp_path) / "masks" / "4.png", two_classes()[::2, ::2])
    for quick in (False, True):
        finding = only(inspect(tmp_path, class_names=NAMES, quick=quick), "label size")
        assert "resize_labels=True (--resize-labels)" in finding
        assert "bad_labels='skip' (--bad-labels skip)" in finding
        assert not inspect(tmp_path, class_names=NAMES, quick=quick, resize_labels=True).findings
    inspection = inspect(tmp_path, class_names=NAMES, bad_labels="skip")
    assert "1 mask differs from the image in size, so 1 of 10 images are left out" in str(inspection)
    assert kinds(inspection) == ["unused image", "note"]
    assert inspection.images == 9


def test_black_and_white_masks_name_the_option(tmp_path):
    root = masks(tmp_path)
    for number in range(10):
        save(root / "masks" / f"{number}.png", 255 * two_classes())
    for options in ({"class_names": NAMES}, {}):
        inspection = inspect(tmp_path, **options)
        assert "pass labels={255: 1} (--labels 255=1)" in str(inspection)
        assert "black and white masks" in kinds(inspection)
    assert not inspect(tmp_path, class_names=NAMES, labels={255: 1}).findings


@pytest.mark.parametrize(("part", "is_own"), [("train", False), ("val", True)])
def test_a_part_that_was_drawn_is_not_the_data_sets_own(tmp_path, part, is_own):
    inspection = inspect(masks(tmp_path, ("train", part)), class_names=NAMES, quick=True)
    assert inspection.has_own_split == is_own
    assert ("(its own)" in str(inspection)) == is_own


def test_a_split_that_was_passed_is_neither_the_data_sets_own_nor_drawn(tmp_path):
    masks(tmp_path, ("train", "val"))
    inspection = inspect(tmp_path, class_names=NAMES, quick=True, folders={"train": "val", "val": "train"})
    assert (inspection.has_own_split, inspection.is_drawn) == (False, False)
    assert "split: train 5, val 5 (by the lists or folders that were passed)" in str(inspection)


def test_masks_in_a_folder_of_another_name(tmp_path):
    masks(tmp_path)
    (tmp_path / "images").rename(tmp_path / "Training_Images")
    (tmp_path / "masks").rename(tmp_path / "Ground_Truth")
    with pytest.raises(DatasetError, match="images=… and masks=…"):
        inspect(tmp_path)
    for images in ({}, {"images": tmp_path / "Training_Images"}):
        inspection = inspect(tmp_path, class_names=NAMES, masks=tmp_path / "Ground_Truth", **images)
        assert (inspection.layout, inspection.images, inspection.findings) == ("MaskFolder", 10, ())


def test_a_value_that_is_not_a_class_is_only_seen_in_pixels(tmp_path):
    mask = two_classes()
    mask[0, 0] = 7
    save(masks(tmp_path) / "masks" / "4.png", mask)
    finding = only(inspect(tmp_path, class_names=NAMES), "wrong label")
    assert "4.png has pixels of value 7, which is not a class" in finding
    assert not inspect(tmp_path, class_names=NAMES, quick=True).findings
    assert not inspect(tmp_path, class_names=NAMES, labels={7: 255}).findings


def test_images_without_labels_and_labels_without_images(tmp_path):
    root = masks(tmp_path)
    (root / "masks" / "4.png").unlink()
    save(root / "masks" / "lonely.png", two_classes())
    inspection = inspect(root, class_names=NAMES)
    assert kinds(inspection) == ["image without labels", "label without image"]
    assert inspection.findings[0].places == (str(root / "images" / "4.png"),)
    assert "1 image has no labels." in str(inspection)
    assert "1 label has no image." in str(inspection)
    assert inspection.images == 9
    assert inspection.findings[0].advice.endswith("pass unpaired='skip' (--unpaired skip) to leave them out.")
    chosen = inspect(root, class_names=NAMES, unpaired="skip")
    assert {finding.advice for finding in chosen.findings} == {"They are left out, as you chose."}


def test_masks_whose_classes_have_no_names_are_inspected_all_the_same(tmp_path):
    inspection = inspect(masks(tmp_path))
    assert "--class-names" in only(inspection, "no class names")
    assert [(row.name, row.images) for row in inspection.classes] == [("value 0", 10), ("value 1", 10)]


def test_a_class_that_never_occurs(tmp_path):
    finding = only(inspect(masks(tmp_path), class_names=[*NAMES, "goal"]), "class never occurs")
    assert "1 class never occurs." in finding
    assert "goal" in finding


def test_a_class_that_is_missing_in_a_part(tmp_path):
    root = masks(tmp_path, ("train", "val"))
    for path in (root / "masks" / "val").iterdir():
        save(path, np.zeros((HEIGHT, WIDTH), np.uint8))
    inspection = inspect(root, class_names=NAMES)
    assert "val: ball" in only(inspection, "class missing in a part")
    assert inspection.has_own_split
    assert inspection.splits == {"train": 5, "val": 5}


def test_a_mask_without_labels(tmp_path):
    save(masks(tmp_path) / "masks" / "4.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    assert "1 mask has no pixel with a class." in only(inspect(tmp_path, class_names=NAMES), "mask without labels")


def test_copies(tmp_path):
    root = masks(tmp_path, ("train", "val"))
    (root / "images" / "train" / "2.png").write_bytes((root / "images" / "train" / "0.png").read_bytes())
    assert "train: train/0, train: train/2" in only(inspect(root, class_names=NAMES), "copies")
    (root / "images" / "val" / "1.png").write_bytes((root / "images" / "train" / "4.png").read_bytes())
    inspection = inspect(root, class_names=NAMES)
    assert kinds(inspection) == ["copies across the split", "copies"]
    assert set(inspection.findings[0].places[0].split(", ")) == {"train: train/4", "val: val/1"}


def test_near_copies_across_the_split(tmp_path):
    root = masks(tmp_path, ("train", "val"))
    large = photo(0, (2 * HEIGHT, 2 * WIDTH))
    large.save(tmp_path / "large.jpg", quality=60)
    save(root / "images" / "val" / "1.png", Image.open(tmp_path / "large.jpg"))
    save(root / "masks" / "val" / "1.png", np.kron(two_classes(), np.ones((2, 2), np.uint8)))
    finding = only(inspect(root, class_names=NAMES), "near copies across the split")
    assert "val: val/1, train: train/0" in finding
    assert "Move them into one part." in finding


def test_images_without_contrast_are_not_taken_for_copies(tmp_path):
    root = masks(tmp_path, ("train", "val"))
    for number, part in enumerate(("train/0", "val/1")):
        save(root / "images" / f"{part}.png", np.full((HEIGHT, WIDTH, 3), 10 + 100 * number, np.uint8))
    assert not inspect(root, class_names=NAMES).findings


YOLO_FAULTS = [
    ("0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n", "wrong label", "4.txt, line 2: unknown class 7"),
    ("0 0.5 0.5 0.2\n", "wrong label", "4.txt, line 1: a label must be a class number and four numbers"),
    ("0 9.5 0.5 0.2 0.2\n", "label outside", "4.txt, line 1: coordinates must be fractions"),
    ("1 0.5 0.5 0.2 0\n", "label without area", "4.txt, line 1: a box must have an area"),
]


@pytest.mark.parametrize(("text", "kind", "words"), YOLO_FAULTS)
def test_faults_of_yolo_labels(tmp_path, text, kind, words):
    write(yolo(tmp_path) / "labels" / "4.txt", text)
    assert words in only(inspect(tmp_path, quick=True), kind)


def test_two_yolo_images_of_one_name_in_a_split_of_the_yaml(tmp_path):
    root = yolo(tmp_path)
    first = next((root / "images").iterdir())
    save(first.with_suffix(".bmp"), photo(50))
    write(root / "data.yaml", (root / "data.yaml").read_text() + "\ntrain: images\n")
    kinds = {finding.kind: str(finding) for finding in inspect(root, quick=True).findings}
    assert kinds.keys() == {"same file name", "unused image"}
    assert "share a name" in kinds["same file name"]


def test_yolo_labels_without_names_are_counted_by_number(tmp_path):
    root = yolo(tmp_path)
    (root / "data.yaml").unlink()
    inspection = inspect(root, quick=True)
    assert "--class-names road,car" in only(inspection, "no class names")
    assert {row.name for row in inspection.classes} <= {"value 0", "value 1"}


def test_yolo_files_that_do_not_pair(tmp_path):
    root = yolo(tmp_path)
    (root / "labels" / "4.txt").unlink()
    write(root / "labels" / "lonely.txt", "0 0.5 0.5 0.2 0.2\n")
    (root / "labels" / "5.txt").write_bytes(b"\xff\xfe\x00")
    inspection = inspect(root, quick=True)
    assert kinds(inspection) == ["wrong label", "image without labels", "label without image"]
    assert "5.txt cannot be read" in str(inspection.findings[0])
    assert "unpaired='empty' (--unpaired empty)" in inspection.findings[1].advice


def test_advice_on_depth_names_no_option_that_only_masks_have(tmp_path):
    np.save(depth(tmp_path) / "depth" / "4.npy", np.full((20, 20), 2.0, np.float32))
    assert "--resize-labels" not in only(inspect(tmp_path), "label size")


def test_names_that_differ_only_in_case_or_blanks(tmp_path):
    write(yolo(tmp_path) / "data.yaml", "names: [cat, Cat, dog, d og]\n")
    write(tmp_path / "labels" / "4.txt", "".join(f"{number} 0.5 0.5 0.2 0.2\n" for number in range(4)))
    inspection = inspect(tmp_path, quick=True)
    assert kinds(inspection)[0] == "similar names"
    assert "'cat'" in inspection.findings[0].places[0]
    assert "2 pairs of classes differ only in case or blanks." in str(inspection)
    write(tmp_path / "data.yaml", "names: [cat, 'cat ', dog, bird]\n")
    inspection = inspect(tmp_path, quick=True)
    assert kinds(inspection)[0] == "similar names"
    assert "'cat '" in inspection.findings[0].places[0]


VOC_FAULTS = [
    ("<annotation><object>", "unreadable file", "4.xml cannot be read"),
    (
        voc_file(voc_object("cat", 70, 1, 90, 9), DOG),
        "label outside",
        "4.xml, object 1: a box must be inside its image",
    ),
    (voc_file(voc_object("cat", 9, 9, 9, 9), DOG), "label without area", "4.xml, object 1: a box must have an area"),
    (voc_file(CAT, DOG, size=(60, 80)), "label size", "4.xml is 60x80"),
]


@pytest.mark.parametrize(("text", "kind", "words"), VOC_FAULTS)
def test_faults_of_voc_labels(tmp_path, text, kind, words):
    write(voc(tmp_path) / "Annotations" / "4.xml", text)
    assert words in only(inspect(tmp_path), kind)


def test_a_list_with_an_image_that_is_not_there(tmp_path):
    lists = voc(tmp_path) / "ImageSets" / "Main"
    write(lists / "train.txt", "0\n1\n2\n3\n4\n5\n6\nmissing\n")
    write(lists / "val.txt", "7\n8\n9\n")
    inspection = inspect(tmp_path, quick=True)
    assert "train.txt has 'missing'" in only(inspection, "wrong list")
    assert inspection.splits == {"train": 7, "val": 3}


def test_an_image_in_two_parts(tmp_path):
    lists = voc(tmp_path) / "ImageSets" / "Main"
    write(lists / "train.txt", "0\n1\n2\n3\n4\n5\n6\n7\n")
    write(lists / "val.txt", "7\n8\n9\n")
    inspection = inspect(tmp_path, quick=True)
    assert "'7' is in 'train' and in 'val'" in only(inspection, "wrong split")
    assert inspection.splits == {"train": 8, "val": 3}


COCO_FAULTS = [
    ({"annotations": [{"id": 99, "image_id": 77, "category_id": 0, "bbox": [1, 1, 5, 5]}]}, "wrong label", "id 77"),
    ({"annotations": [{"id": 99, "image_id": 1, "category_id": 9, "bbox": [1, 1, 5, 5]}]}, "wrong label", "id 9"),
    ({"annotations": [{"id": 99, "category_id": 9}]}, "wrong label", "entry 20 of annotations has no 'image_id'"),
    ({"annotations": [{"id": 99, "image_id": 1, "category_id": 0, "bbox": "x"}]}, "wrong label", "four numbers"),
    (
        {"annotations": [{"id": 99, "image_id": 1, "category_id": 0, "segmentation": [[1, 1, 5, 5]]}]},
        "label without area",
        "annotation 99: a polygon must have three points or more; it has 2",
    ),
    (
        {
            "annotations": [
                {"id": 99, "image_id": 1, "category_id": 0, "segmentation": {"size": [4, 4], "counts": [16]}}
            ]
        },
        "label outside",
        "annotation 99: run lengths must have the size of their image, 48x64",
    ),
    ({"images": [{"id": 99, "file_name": "missing.jpg"}]}, "label without image", "missing.jpg"),
    (
        {
            "images": [{"id": 99, "file_name": "4.jpg"}],
            "annotations": [{"id": 99, "image_id": 99, "category_id": 0, "bbox": [4, 4, 9, 9]}],
        },
        "same file name",
        "'4.jpg' twice",
    ),
]


@pytest.mark.parametrize(("change", "kind", "words"), COCO_FAULTS)
def test_faults_of_coco_json(tmp_path, change, kind, words):
    inspection = inspect(coco(tmp_path, **change), quick=True)
    assert words in only(inspection, kind)


def test_an_image_that_no_label_file_names(tmp_path):
    save(coco(tmp_path) / "images" / "extra.jpg", photo(99))
    assert "extra.jpg" in only(inspect(tmp_path, quick=True), "unused image")


def test_depth_in_another_unit(tmp_path):
    inspection = inspect(depth(tmp_path, 2000.0), scale=1.0)
    assert "The median depth is 2000 m, which is unlikely." in only(inspection, "depth unit")
    assert not inspect(tmp_path, scale=0.001).findings
    assert "--scale" in only(inspect(tmp_path), "depth unit")


def test_depth_of_which_nothing_is_known(tmp_path):
    root = depth(tmp_path)
    np.save(root / "depth/3.npy", np.zeros((HEIGHT, WIDTH), np.float32))
    assert "1 depth file has no known depth: all values mean unknown.\n    3" in only(
        inspect(root), "depth without values"
    )
    assert kinds(inspect(root, quick=True)) == []


def test_a_name_that_fits_two_images_does_not_end_the_inspection(tmp_path):
    root = coco(tmp_path)
    for folder in ("x", "y"):
        save(root / "images" / folder / "3.jpg", photo(3))
    (root / "images/3.jpg").unlink()
    inspection = inspect(root)
    [finding] = [finding for finding in inspection.findings if finding.kind == "same file name"]
    assert "'3.jpg' fits two images of the same name" in str(finding)
    assert inspection.images == 9


def test_a_wrong_size_in_one_file_of_labelme_does_not_end_the_inspection(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.jpg", photo(number))
        shape = {"label": "cat", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
        height = "high" if number == 2 else HEIGHT
        content = {"shapes": [shape], "imagePath": f"{number}.jpg", "imageHeight": height, "imageWidth": WIDTH}
        write(tmp_path / f"{number}.json", json.dumps(content))
    inspection = inspect(tmp_path)
    [finding] = [finding for finding in inspection.findings if finding.kind == "wrong label"]
    assert "2.json" in str(finding)


def test_the_range_of_depth(tmp_path):
    inspection = inspect(depth(tmp_path))
    assert "depth: 2 to 2.9 m, median 2.45 m" in str(inspection)
    assert inspection.tasks == ("depth",)
    assert not inspection.classes


def test_if_no_label_is_left_the_error_says_why(tmp_path):
    root = voc(tmp_path)
    for path in (root / "Annotations").iterdir():
        path.write_text("")
    with pytest.raises(
        DatasetError, match=r"has no classes: .* 10 problems, the first of them: .*0.xml cannot be read"
    ):
        inspect(root)


def test_one_bad_json_of_several_does_not_stop_the_rest(tmp_path):
    coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations.json").rename(tmp_path / "annotations" / "instances_train.json")
    write(tmp_path / "annotations" / "instances_val.json", '{"images": [')
    inspection = inspect(tmp_path, quick=True)
    assert "instances_val.json cannot be read as json" in only(inspection, "unreadable file")
    assert inspection.images == 10


def test_a_list_that_cannot_be_read(tmp_path):
    lists = voc(tmp_path) / "ImageSets" / "Main"
    write(lists / "train.txt", "0\n1\n2\n3\n4\n5\n6\n")
    write(lists / "val.txt", "7\n8\n9\n")
    write(lists / "test.txt", "")
    inspection = inspect(tmp_path, quick=True)
    assert kinds(inspection) == ["wrong split", "wrong list"]
    assert "test.txt" in inspection.findings[1].places[0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_headers_are_compared_upright(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3):
        turned = photo(number).transpose(Image.Transpose.ROTATE_90)
        (tmp_path / "images").mkdir(exist_ok=True)
        turned.save(tmp_path / "images" / f"{number}.{suffix}", exif=exif)
        save(tmp_path / "masks" / f"{number}.png", two_classes())
    for quick in (True, False):
        inspection = inspect(tmp_path, class_names=NAMES, quick=quick)
        assert not inspection.findings
        assert inspection.sizes == {"48x64": 3}


def test_what_is_not_a_data_set_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"the layout of .* is not that of a data set"):
        inspect(tmp_path)
    with pytest.raises(MissingDataError, match="neither a folder nor"):
        inspect(tmp_path / "nothing")


# What is kept


def test_unchanged_files_are_not_read_again(tmp_path, monkeypatch):
    root = masks(tmp_path)
    first = inspect(root, class_names=NAMES)
    assert first.cache is not None
    assert Path(first.cache).is_file()
    read: list[str] = []
    original = inspecting.measure

    def counted(data, index, image, labels, **options):
        read.append(image.name)
        return original(data, index, image, labels, **options)

    monkeypatch.setattr(inspecting, "measure", counted)
    assert inspect(root, class_names=NAMES) == first
    assert read == []
    mask = save(root / "masks" / "4.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    os.utime(mask, ns=(0, 1))
    second = inspect(root, class_names=NAMES)
    assert read == ["4.png"]
    assert second.classes[1].images == 9
    inspect(root, class_names=["ground", "other"])
    assert len(read) == 11
    Path(first.cache).write_text("[1, 2")
    assert inspect(root, class_names=NAMES) == second
    assert len(read) == 21


def test_an_interrupted_inspection_continues_where_it_was(tmp_path, monkeypatch):
    root = masks(tmp_path)
    original, read = inspecting.measure, []

    def interrupted(data, index, image, labels, **options):
        if len(read) == 6:
            raise KeyboardInterrupt
        read.append(image.name)
        return original(data, index, image, labels, **options)

    monkeypatch.setattr(inspecting, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        inspect(root, class_names=NAMES, workers=1)
    assert len(read) == 6
    monkeypatch.setattr(inspecting, "measure", lambda *given, **options: read.append("") or original(*given, **options))
    assert inspect(root, class_names=NAMES).images == 10
    assert len(read) == 10


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path):
    root = masks(tmp_path)
    path = root / "images" / "1.png"
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(b"x" * len(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kinds(inspect(root, class_names=NAMES)) == ["unreadable file"]
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not inspect(root, class_names=NAMES).findings


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    root = masks(tmp_path)
    blocked = write(tmp_path / "file", "")
    inspection = inspect(root, class_names=NAMES, cache_dir=blocked)
    assert inspection.cache is None
    assert not inspection.findings


def test_a_quick_inspection_reads_no_pixels_and_keeps_nothing(tmp_path, cache):
    root = masks(tmp_path)
    cut = root / "images" / "1.png"
    cut.write_bytes(cut.read_bytes()[:400])
    inspection = inspect(root, class_names=NAMES, quick=True)
    assert not inspection.findings
    assert inspection.cache is None
    assert not any(cache.rglob("*"))
    assert [(row.name, row.images, row.pixels) for row in inspection.classes] == [(name, None, None) for name in NAMES]
    assert "quick: pixels were not read" in str(inspection)


# What is written


def test_the_sheet_shows_labels_and_the_json_has_the_findings(tmp_path):
    write(yolo(tmp_path / "data") / "labels" / "4.txt", "7 0.5 0.5 0.2 0.2\n")
    inspection = inspect(tmp_path / "data", output=tmp_path / "out", sheet_images=3)
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.height > 3 * 320
    content = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert content["findings"][0]["kind"] == "wrong label"
    assert content["images"] == 10
    assert content["classes"][1] == {"name": "dog", "images": 9, "boxes": 9, "pixels": None}
    assert json.loads(inspection.to_json()) == content


def test_the_pictures_of_a_row_have_one_size(tmp_path):
    for number in range(2):
        save(tmp_path / "images" / f"{number}.png", photo(number, (40, 120)))
        save(tmp_path / "masks" / f"{number}.png", np.zeros((40, 120), np.uint8))
    data = datasets.open(tmp_path, class_names=NAMES)
    _, pictures = _pictures(data, data[0])
    assert pictures["image"].size[0] == pictures["classes"].size[0] == 960


def test_the_command_prints_the_report_and_writes_the_sheet(tmp_path):
    root = masks(tmp_path / "data")
    done = CliRunner().invoke(
        app, ["data", str(root), "--class-names", "ground, ball,goal", "--labels", "9=255", "-o", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    assert "MaskFolder, 10 images, labels for segmentation" in done.output
    assert "1 class never occurs." in done.output
    assert (tmp_path / "out" / "sheet.png").is_file()


@pytest.mark.parametrize(
    ("lists", "code"),
    [
        (("0\n1\n2\n3\n4\n5\n6\n", "7\n8\n9\n"), 0),
        (("0\n1\n2\n3\n4\n5\n6\n7\n", "7\n8\n9\n"), 1),
        (("0\n1\n2\n3\n4\n5\n6\nmissing\n", "7\n8\n9\n"), 1),
    ],
)
def test_only_a_split_that_cannot_be_used_changes_the_exit_code(lists, code, tmp_path):
    root = voc(tmp_path)
    shutil.copy(root / "JPEGImages" / "1.jpg", root / "JPEGImages" / "0.jpg")  # a copy is a finding, too
    for name, text in zip(("train", "val"), lists, strict=True):
        write(root / "ImageSets" / "Main" / f"{name}.txt", text)
    done = CliRunner().invoke(app, ["data", str(root)])
    assert done.exit_code == code, done.output
    assert "twice or more" in done.output
    assert ("the split cannot be used; see the findings" in done.output) == bool(code)


def test_options_that_do_not_fit_are_wrong_usage(tmp_path):
    done = CliRunner().invoke(app, ["data", str(yolo(tmp_path)), "--labels", "9=255"])
    assert done.exit_code == 2
    assert "--labels is not an option of YoloDataset" in " ".join(done.output.replace("│", " ").split())
    done = CliRunner().invoke(app, ["data", str(masks(tmp_path / "masks")), "--images", str(tmp_path)])
    assert "--images is not an option of MaskFolder" in " ".join(done.output.replace("│", " ").split())
    done = CliRunner().invoke(app, ["data", str(tmp_path), "--labels", "9:255"])
    assert done.exit_code == 2
    assert "labels are written as 11=255,12=0" in done.output


@pytest.mark.parametrize("images", ["images", "JPEGImages"])
def test_colours_without_names_are_counted_and_a_palette_is_suggested(tmp_path, images):
    root = masks(tmp_path)
    for path in (root / "masks").iterdir():
        save(path, np.array([(0, 0, 0), (224, 64, 64)], np.uint8)[two_classes()])
    if images == "JPEGImages":
        (root / "images").rename(root / "JPEGImages")
        (root / "masks").rename(root / "SegmentationClass")
    inspection = inspect(root)
    assert inspection.layout == ("MaskFolder" if images == "images" else "VOCFolder")
    assert "#e04040" in [row.name for row in inspection.classes if row.images == 10]
    assert "(--palette '#000000=background,#e04040=class1')" in only(inspection, "no class names")
    finding = only(inspect(root, class_names=["background", "ball"]), "wrong label")
    assert finding.count("--palette '#000000=background,#e04040=ball'") == 1  # not for each file again
    for path in (root / ("masks" if images == "images" else "SegmentationClass")).iterdir():
        paletted = Image.fromarray(two_classes() * 7).convert("P")
        paletted.putpalette([0, 0, 0] * 7 + [224, 64, 64])
        paletted.save(path)
    finding = only(inspect(root, class_names=["background", "ball"]), "wrong label")
    assert re.search(r"masks' palettes say the class: .*--palette '#000000=background,#e04040=ball'", finding)


def test_values_that_are_not_classes_are_suggested_as_labels(tmp_path):
    for path in (masks(tmp_path) / "masks").iterdir():
        save(path, two_classes() * 127)
    assert "(--labels 127=1)" in only(inspect(tmp_path, class_names=NAMES), "wrong label")
