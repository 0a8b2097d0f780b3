"""Labels in rows as their files store them, names in two Unicode forms, pointers, and names that no disk allows."""

import base64
import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image, ImageFile
from stored_images import write_png

from tadp.datasets import CocoDataset, LabelmeFolder, RowDataset, VOCFolder, YoloDataset
from tadp.errors import DatasetError, ImageError, MissingDataError

COMPOSED = unicodedata.normalize("NFC", "Straße in Zürich é")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("form", ["bytes", "picture"])
def test_rows_have_the_stored_values_too(tmp_path, depth, form):
    values = np.arange(16 * 24).reshape(16, 24) % 2**depth
    content = write_png(tmp_path / "mask.png", values, depth=depth).read_bytes()
    mask = {"bytes": content} if form == "bytes" else Image.open(io.BytesIO(content))
    data = RowDataset(
        [{"image": Image.new("RGB", (24, 16)), "mask": mask}], mask="mask", class_names=[f"c{k}" for k in range(16)]
    )
    for _ in range(2):  # the picture of the row does not change
        assert np.array_equal(data[0].mask, values)


def test_rows_whose_values_pillow_may_have_spread_cause_a_warning(tmp_path):
    values = np.arange(16 * 24).reshape(16, 24) % 3
    mask = Image.open(write_png(tmp_path / "mask.png", values, depth=4))
    mask.load()
    rows = [{"image": Image.new("RGB", (24, 16)), "mask": mask}]
    with pytest.warns(UserWarning, match=r"the mask of row 0 only has multiples of 17.* pass its bytes"):
        RowDataset(rows, mask="mask", class_names=[f"c{k}" for k in range(60)])[0]


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP"])
def test_rows_refuse_formats_that_change_values(kind):
    file = io.BytesIO()
    Image.new("L", (24, 16)).save(file, kind)
    rows = [{"image": Image.new("RGB", (24, 16)), "mask": {"bytes": file.getvalue()}}]
    with pytest.raises(DatasetError, match=rf"the mask of row 0 is a {kind} file, which may change values"):
        RowDataset(rows, mask="mask", class_names=["a", "b"])[0]


def test_masks_in_rows_are_turned_like_images():
    values, exif, file = np.arange(24 * 24).reshape(24, 24) % 200, Image.Exif(), io.BytesIO()
    exif[0x112] = 6
    Image.fromarray(values.astype(np.uint8)).save(file, "PNG", exif=exif)
    rows = [{"image": Image.new("RGB", (24, 24)), "mask": {"bytes": file.getvalue()}}]
    data = RowDataset(rows, mask="mask", class_names=[f"c{k}" for k in range(200)])
    assert np.array_equal(data[0].mask, np.rot90(values, -1))


def test_half_a_mask_in_labelme_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    Image.new("RGB", (200, 200)).save(tmp_path / "a.png")
    file = io.BytesIO()
    Image.effect_noise((100, 100), 50).save(file, "PNG")
    mask = base64.b64encode(file.getvalue()[: len(file.getvalue()) // 2]).decode()
    shape = {"label": "dog", "shape_type": "mask", "points": [[1, 1], [100, 100]], "mask": mask}
    (tmp_path / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [shape]}))
    with pytest.raises(DatasetError, match=r"a.json, shape 1: a shape must have .* a mask if it is one"):
        LabelmeFolder(tmp_path)


# Names in two Unicode forms, pointers, and names that no disk allows

SQUARE = [[1, 1], [9, 1], [9, 9]]


def own_voc(root: Path, image: str, label: str) -> VOCFolder:
    trees.write_image(root / f"images/{image}.jpg")
    trees.write_annotation(root / f"Annotations/{label}.xml", [(image, (1, 1, 9, 9), 0), (label, (1, 1, 9, 9), 0)])
    return VOCFolder(root)


def own_coco(root: Path, image: str, label: str) -> CocoDataset:
    trees.write_image(root / f"images/{image}.jpg")
    boxes = [{"id": k, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8]} for k in range(2)]
    rows = {"images": [{"id": 1, "file_name": f"{label}.jpg"}], "annotations": boxes}
    (root / "a.json").write_text(json.dumps(rows | {"categories": [{"id": 1, "name": label}]}))
    return CocoDataset(root, class_names=[image])


def own_yolo(root: Path, image: str, label: str) -> YoloDataset:
    trees.write_image(root / f"images/{image}.jpg")
    (root / "labels").mkdir()
    (root / f"labels/{label}.txt").write_text("0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n")
    (root / "classes.txt").write_text(label)
    return YoloDataset(root, class_names=[image])


def own_labelme(root: Path, image: str, label: str) -> LabelmeFolder:
    trees.write_image(root / f"{image}.jpg")
    shapes = [{"label": name, "points": SQUARE} for name in (image, label)]
    (root / f"{label}.json").write_text(json.dumps({"imagePath": f"{label}.jpg", "shapes": shapes}))
    return LabelmeFolder(root)


OWN = pytest.mark.parametrize("make", [own_voc, own_coco, own_yolo, own_labelme])


@OWN
@pytest.mark.parametrize("names", [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)], ids=["composed", "decomposed"])
def test_names_of_files_and_classes_in_two_forms_are_one(tmp_path, make, names):
    data = make(tmp_path, *names)
    assert data.image_ids == [COMPOSED]
    assert data.box_class_names == (COMPOSED,)
    assert data[0].boxes.labels.tolist() == [0, 0]


def test_class_names_that_the_caller_passes_are_composed():
    rows = [{"image": Image.new("RGB", (24, 16)), "o": [{"bbox": [1, 1, 4, 4], "label": COMPOSED}]}]
    assert RowDataset(rows, objects="o", class_names=[DECOMPOSED])[0].boxes.labels.tolist() == [0]
    with pytest.raises(ValueError, match="class names must be unique"):
        RowDataset(rows, objects="o", class_names=[DECOMPOSED, COMPOSED])


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_two_classes_of_one_name_become_one_with_a_warning(tmp_path, kind):
    if kind == "coco":
        own_coco(tmp_path, "a", "a")
        content = json.loads((tmp_path / "a.json").read_text())
        content["categories"].append({"id": 7, "name": "a"})
        (tmp_path / "a.json").write_text(json.dumps(content))
        CocoDataset(tmp_path)  # no warning, as nothing is of the second
        content["annotations"][1]["category_id"] = 7
        (tmp_path / "a.json").write_text(json.dumps(content))
    else:
        own_yolo(tmp_path, "a", "a")
        (tmp_path / "classes.txt").write_text("a\na\n")
    with pytest.warns(
        UserWarning, match=r"(a.json|classes.txt) has 2 classes named 'a'; their objects become one class"
    ):
        (CocoDataset if kind == "coco" else YoloDataset)(tmp_path)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@OWN
def test_git_lfs_pointers_among_the_labels(tmp_path, make):
    make(tmp_path, "a", "a")
    for path in [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".xml", ".txt")]:
        content = path.read_text()
        path.write_text(POINTER)
        with pytest.raises((DatasetError, ImageError), match=rf"{path.name} is a git-LFS pointer, not the file itself"):
            make_again(make, tmp_path)
        path.write_text(content)


def make_again(make, root: Path):
    kinds = {own_voc: VOCFolder, own_coco: CocoDataset, own_yolo: YoloDataset, own_labelme: LabelmeFolder}
    return kinds[make](root)


@pytest.mark.parametrize("make", [own_coco, own_labelme])
def test_an_image_name_that_no_disk_allows_is_missing(tmp_path, make):
    make(tmp_path, "a", "a")
    path = tmp_path / "a.json"
    path.write_text(path.read_text().replace("a.jpg", "b" * 300 + ".jpg"))
    with pytest.raises(MissingDataError, match=r"not there|fit no image"):
        make_again(make, tmp_path)
