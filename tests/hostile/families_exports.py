"""Exports of labelling tools in which something is wrong: COCO, YOLO, labelme, and folders of depth."""

import base64
import io
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from .cases import Kind, family
from .fixtures import picture

_LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]\n" for k in range(9))
_HUGE = 10**5  # height and width in pixels
YAMLS: dict[str, str] = {
    "Python object": "names: !!python/object/apply:os.system ['touch executed']",
    "Python name": "names: !!python/name:os.system",
    "unknown tag": "names: !dogs [dog, cat]",
    "aliases that double": f"{_LAUGHS}names: *a9",
    "aliases that double, in a path": f"{_LAUGHS}names: [dog, cat]\npath: *a9",
    "aliases that double, in a split": f"{_LAUGHS}names: [dog, cat]\ntrain: *a9",
    "an alias of itself": "names: &a [dog, *a]",
    "100,000 brackets": "names: " + "[" * 100_000,
    "10 MB": "names: [dog, cat]\nnote: " + "[x, y, z], " * 10**6,
    "a number of 5,000 digits": "names: [dog, cat]\nnc: " + "9" * 5000,
    "a date that does not exist": "names: [dog, cat]\nmade: 2026-99-99",
    "names are a text": "names: dog",
    "names are a number": "names: 2",
    "names are empty": "names: []",
    "names have a gap": "names: {0: dog, 2: cat}",
    "names of two types": "names: {0: dog, one: cat}",
    "a name is a list": "names: [[dog], {a: cat}]",
    "a name is null": "names: [dog, null]",
    "names differ in case": "names: [dog, Dog]",
    "names twice": "names: [dog, cat]\nnames: [cat]",
    "split is a number": "names: [dog, cat]\ntrain: 5",
    "split is a mapping": "names: [dog, cat]\ntrain: {a: b}",
    "split is a device": "names: [dog, cat]\ntrain: /dev/zero",
    "split is the whole disk": "names: [dog, cat]\npath: /\ntrain: .",
    "split is outside": "names: [dog, cat]\ntrain: ../../../../../../etc",
    "split is a list outside": "names: [dog, cat]\ntrain: /etc/hostname",
    "split is below a path outside": "names: [dog, cat]\npath: /etc\ntrain: .",
    "split is of 5,000 letters": f"names: [dog, cat]\ntrain: {'a' * 5000}",
    "path is of 5,000 letters": f"names: [dog, cat]\npath: {'a' * 5000}\ntrain: images",
    "path is a list": "names: [dog, cat]\npath: [a]\ntrain: images",
    "null character": "names: [dog, cat]\ntrain: \"a\\0b\"",
    "a list in place of entries": "- dog\n- cat",
    "empty": "",
    "key points": "names: [dog]\nkpt_shape: [17, 3]",
    "not YAML": "names: [dog, cat\n  : :",
    "not text": "names: \udcff",
}  # fmt: skip
LINES: dict[str, str] = {
    "class is too large": "2 0.5 0.5 0.2 0.2",
    "class counts from 1": "0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2\n2 0.5 0.5 0.2 0.2",
    "class is negative": "-1 0.5 0.5 0.2 0.2",
    "class is a fraction": "0.5 0.5 0.5 0.2 0.2",
    "class is NaN": "nan 0.5 0.5 0.2 0.2",
    "class is infinite": "inf 0.5 0.5 0.2 0.2",
    "class is 1e400": "1e400 0.5 0.5 0.2 0.2",
    "class is a name": "dog 0.5 0.5 0.2 0.2",
    "pixels in place of fractions": "0 30 30 10 10",
    "a side is NaN": "0 nan 0.5 0.2 0.2",
    "a side is negative": "0 0.5 0.5 -0.2 0.2",
    "three numbers": "0 0.5 0.5 0.2",
    "five numbers": "0 0.5 0.5 0.2 0.2 0.9",
    "a line of 1 MB": "0 " + "0.5 " * 250_000 + "x",
    "commas": "0,0.5,0.5,0.2,0.2",
    "null character": "0 0.5 0.5 0.2\0 0.2",
    "no area": "0 0.5 0.5 0 0.2",
}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")


def _photos(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        picture((64, 48)).save(folder / f"{name}.png")


def _all(data: Any) -> list[Any]:
    samples = [data[number] for number in range(len(data))]
    return [
        (sample.boxes.boxes.tolist(), sample.boxes.labels.tolist()) for sample in samples if sample.boxes is not None
    ]


def _left_out(objects: list[Any]) -> bool:
    """Whether the labels of the first image, which have no area, are left out; a warning says so."""
    return objects[0] == ([], [])


def yolo(yaml: str, line: str, folder: Path, rng: Random) -> Any:
    from tadp.datasets import YoloDataset

    _photos(folder / "data/images")
    for name in ("a", "b"):
        _write(folder / f"data/labels/{name}.txt", line)
    _write(folder / "data/data.yaml", yaml)
    return _all(YoloDataset(folder / "data"))


def yolo_pipe(name: str, folder: Path, rng: Random) -> Any:
    from tadp.datasets import YoloDataset

    _photos(folder / "data/images")
    for stem in ("a", "b"):
        _write(folder / f"data/labels/{stem}.txt", "0 0.5 0.5 0.2 0.2")
    _write(folder / "data/data.yaml", "names: [dog, cat]\ntrain: train.txt\n")
    _write(folder / "data/train.txt", "images/a.png\nimages/b.png\n")
    path = folder / "data" / name
    path.unlink()
    os.mkfifo(path)
    return _all(YoloDataset(folder / "data"))


@family("YOLO: data.yaml and lines")
def yolo_kinds() -> Iterator[Kind]:
    box = "0 0.5 0.5 0.2 0.2"
    harmless = (
        "a number of 5,000 digits",
        "a date that does not exist",
        "a name is null",
        "null character",
        "split is a number",
        "split is the whole disk",  # a path outside is taken as the folder of data.yaml
        "split is below a path outside",
        "split is of 5,000 letters",
        "path is of 5,000 letters",
    )
    for name, text in YAMLS.items():
        right = (lambda boxes: len(boxes) == 2) if name in harmless else None
        yield Kind(f"data.yaml, {name}", partial(yolo, text, box), names=r"data\b|/dev/zero", right=right)
    for name, line in LINES.items():
        yield Kind(
            f"line, {name}",
            partial(yolo, "names: [dog, cat]", line),
            names=r"a\.txt",
            right=_left_out if name == "no area" else None,
        )
    for name in ("data.yaml", "labels/a.txt", "train.txt"):
        yield Kind(f"pipe in place of {name}", partial(yolo_pipe, name), names=r"data\b|a\.(txt|png)|train\.txt")


_DELETE = object()


def _png(size: tuple[int, int]) -> str:
    data = io.BytesIO()
    Image.new("1", size, 1).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


# Where a wrong value is, and the value.
COCO: dict[str, tuple[tuple[Any, ...], Any]] = {
    "category is unknown": (("annotations", 0, "category_id"), 7),
    "category is text": (("annotations", 0, "category_id"), "1"),
    "category is a list": (("annotations", 0, "category_id"), [1]),
    "category id is a list": (("categories", 0, "id"), [1]),
    "category ids of two types": (("categories", 0, "id"), "x"),
    "category id twice": (("categories", 1, "id"), 1),
    "category name is null": (("categories", 0, "name"), None),
    "category name is a list": (("categories", 0, "name"), [["dog"]]),
    "image is unknown": (("annotations", 0, "image_id"), 9),
    "image is a list": (("annotations", 0, "image_id"), [1]),
    "image id is a list": (("images", 0, "id"), [1]),
    "image id twice": (("images", 1, "id"), 1),
    "file name is a number": (("images", 0, "file_name"), 5),
    "file name is empty": (("images", 0, "file_name"), ""),
    "file name is outside": (("images", 0, "file_name"), "../../etc/passwd"),
    "file name is absolute": (("images", 0, "file_name"), "/etc/passwd"),
    "file name has a null": (("images", 0, "file_name"), "a\0.png"),
    "height is text": (("images", 0, "height"), "tall"),
    "height is a list": (("images", 0, "height"), [48]),
    "height is 1e400": (("images", 0, "height"), 1e400),
    "height is of another image": (("images", 0, "height"), 480),
    "height is negative": (("images", 0, "height"), -48),
    "box has 3 numbers": (("annotations", 0, "bbox"), [1, 2, 3]),
    "box is text": (("annotations", 0, "bbox"), "1 2 3 4"),
    "box is NaN": (("annotations", 0, "bbox"), [float("nan"), 2, 3, 4]),
    "box is negative": (("annotations", 0, "bbox"), [1, 2, -3, 4]),
    "box is outside": (("annotations", 0, "bbox"), [100, 2, 3, 4]),
    "box is huge numbers": (("annotations", 0, "bbox"), [10**400, 2, 3, 4]),
    "polygon has two points": (("annotations", 0, "segmentation"), [[1, 1, 9, 9]]),
    "polygon has an odd number": (("annotations", 0, "segmentation"), [[1, 1, 9, 9, 1, 9, 3]]),
    "polygon is NaN": (("annotations", 0, "segmentation"), [[1, 1, 9, float("nan"), 1, 9]]),
    "polygon is text": (("annotations", 0, "segmentation"), "polygon"),
    "polygon is nested": (("annotations", 0, "segmentation"), [[[1, 1], [9, 9], [1, 9]]]),
    "run lengths of another size": (("annotations", 0, "segmentation"), {"size": [4, 4], "counts": [0, 16]}),
    "run lengths without counts": (("annotations", 0, "segmentation"), {"size": [48, 64]}),
    "run lengths without size": (("annotations", 0, "segmentation"), {"counts": [0, 3072]}),
    "run lengths are text": (("annotations", 0, "segmentation"), {"size": [48, 64], "counts": "~~~~"}),
    "run lengths are negative": (("annotations", 0, "segmentation"), {"size": [48, 64], "counts": [-10, 3082]}),
    "run lengths are texts": (("annotations", 0, "segmentation"), {"size": [48, 64], "counts": ["a", "b"]}),
    "run lengths, size is text": (("annotations", 0, "segmentation"), {"size": "ab", "counts": [0, 3072]}),
    "run lengths, size is a number": (("annotations", 0, "segmentation"), {"size": 5, "counts": [0, 3072]}),
    "images are a mapping": (("images",), {"a": 1}),
    "annotations are null": (("annotations",), None),
    "categories are missing": (("categories",), _DELETE),
    "an annotation is a number": (("annotations", 0), 5),
    "supercategory is a list": (("categories", 0, "supercategory"), ["x"]),
}


def _coco() -> dict[str, Any]:
    return {
        "images": [{"id": k + 1, "file_name": f"{name}.png", "height": 48, "width": 64} for k, name in enumerate("ab")],
        "annotations": [
            {"id": k, "image_id": k, "category_id": k, "bbox": [1, 2, 10, 12],
             "segmentation": [[1, 2, 11, 2, 11, 14, 1, 14]], "iscrowd": 0} for k in (1, 2)
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }  # fmt: skip


def _changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    part = content
    for key in place[:-1]:
        part = part[key]
    if value is _DELETE:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return content


def coco(text: str, folder: Path, rng: Random) -> Any:
    from tadp.datasets import CocoDataset

    _photos(folder / "data/images")
    _write(folder / "data/labels.json", text)
    return _all(CocoDataset(folder / "data"))


def _huge_runs(is_stated: bool) -> str:
    content = _coco()
    for key in ("height", "width"):
        content["images"][0][key] = _HUGE if is_stated else None
    content["annotations"][0] |= {"bbox": None, "segmentation": {"size": [_HUGE] * 2, "counts": [0, _HUGE**2]}}
    return json.dumps(content)


def coco_pipe(folder: Path, rng: Random) -> Any:
    from tadp.datasets import CocoDataset

    _photos(folder / "data/images")
    os.mkfifo(folder / "data/labels.json")
    return _all(CocoDataset(folder / "data"))


@family("COCO json")
def coco_kinds() -> Iterator[Kind]:
    for name, (place, value) in COCO.items():
        text = json.dumps(_changed(_coco(), place, value))
        right = _left_out if name in ("box is negative", "polygon has two points") else None
        yield Kind(name, partial(coco, text), names=r"labels\.json|/data/", right=right)
    yield Kind("run lengths of 10 gigapixels", partial(coco, _huge_runs(False)), names=r"labels\.json|a\.png")
    yield Kind("image and run lengths of 10 gigapixels", partial(coco, _huge_runs(True)), names=r"labels\.json|a\.png")
    nested = '{"images": [], "annotations": ' + "[" * 100_000 + "}"
    yield Kind("100,000 brackets", partial(coco, nested), names=r"labels\.json")
    yield Kind("cut short", partial(coco, json.dumps(_coco())[:200]), names=r"labels\.json")
    yield Kind("a number of 5,000 digits", partial(coco, json.dumps(_coco()).replace("48", "9" * 5000)),
               names=r"labels\.json")  # fmt: skip
    yield Kind("pipe", coco_pipe, names="labels.json|data")


LABELME: dict[str, tuple[tuple[Any, ...], Any]] = {
    "label is missing": (("shapes", 0, "label"), _DELETE),
    "points are text": (("shapes", 0, "points"), "1 2"),
    "points are odd": (("shapes", 0, "points"), [1, 2, 3]),
    "points are NaN": (("shapes", 0, "points"), [[float("nan"), 1], [9, 9], [1, 9]]),
    "points are missing": (("shapes", 0, "points"), _DELETE),
    "points are empty": (("shapes", 0, "points"), []),
    "points are huge": (("shapes", 0, "points"), [[1e300, 1], [9, 9], [1, 9]]),
    "a line": (("shapes", 0, "shape_type"), "line"),
    "an unknown type": (("shapes", 0, "shape_type"), "cloud"),
    "type is a number": (("shapes", 0, "shape_type"), 5),
    "group is a list": (("shapes", 0, "group_id"), [1]),
    "shape is a number": (("shapes", 0), 5),
    "shapes are null": (("shapes",), None),
    "imagePath is missing": (("imagePath",), _DELETE),
    "imagePath is a number": (("imagePath",), 5),
    "imagePath is absolute": (("imagePath",), "/etc/passwd"),
    "imagePath is outside": (("imagePath",), "../../../../../../../../etc/hostname"),
    "imagePath has a null": (("imagePath",), "a\0.png"),
    "imagePath is of another image": (("imagePath",), "b.png"),
    "height is text": (("imageHeight",), "tall"),
    "height is a list": (("imageHeight",), [48]),
    "height is of another image": (("imageHeight",), 480),
    "height is 1e400": (("imageHeight",), 1e400),
}


NO_AREA = ("points are empty", "a line", "an unknown type", "type is a number")


def _labelme(name: str) -> dict[str, Any]:
    shape = {"label": "dog", "points": [[1, 1], [20, 1], [20, 20]], "group_id": None, "shape_type": "polygon"}
    return {"shapes": [shape], "imagePath": f"{name}.png", "imageHeight": 48, "imageWidth": 64}


def labelme(text: str, folder: Path, rng: Random) -> Any:
    from tadp.datasets import LabelmeFolder

    _photos(folder / "data")
    _write(folder / "data/a.json", text)
    _write(folder / "data/b.json", json.dumps(_labelme("b")))
    return _all(LabelmeFolder(folder / "data"))


def labelme_mask(mask: str | tuple[int, int] | None, folder: Path, rng: Random) -> Any:
    content = _labelme("a")
    content["shapes"][0] |= {
        "shape_type": "mask",
        "points": [[0, 0], [9, 9]],
        "mask": _png(mask) if isinstance(mask, tuple) else mask,
    }
    return labelme(json.dumps(content), folder, rng)


def labelme_pipe(folder: Path, rng: Random) -> Any:
    from tadp.datasets import LabelmeFolder

    _photos(folder / "data")
    os.mkfifo(folder / "data/a.json")
    _write(folder / "data/b.json", json.dumps(_labelme("b")))
    return _all(LabelmeFolder(folder / "data"))


@family("labelme json")
def labelme_kinds() -> Iterator[Kind]:
    for name, (place, value) in LABELME.items():
        text = json.dumps(_changed(_labelme("a"), place, value))
        right = _left_out if name in NO_AREA else len if name == "points are huge" else None
        yield Kind(name, partial(labelme, text), names=r"a\.(json|png)", right=right)
    eps = base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n").decode()
    masks = {
        "of 400 megapixels": (20_000, 20_000),
        "of 120 megapixels": (12_000, 10_000),
        "is not a picture": "AAAA",
        "is not base64": "~",
        "is PostScript": eps,
        "is cut short": _png((9, 9))[:60],
        "is null": None,
    }
    for name, mask in masks.items():
        yield Kind(f"mask {name}", partial(labelme_mask, mask), names=r"a\.json")
    nested = '{"imagePath": "a.png", "shapes": ' + "[" * 100_000 + "}"
    yield Kind("100,000 brackets", partial(labelme, nested), names=r"a\.json")
    yield Kind("pipe", labelme_pipe, names=r"a\.json|a\.png")


def _array(values: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, values)
    return data.getvalue()


_METRES = _array(np.full((48, 64), 2.0, np.float32))
_PICKLE = b"cos\nsystem\n(S'touch executed'\ntR."
NPYS: dict[str, bytes] = {
    "objects": b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (48, 64), }".ljust(127)
    + b"\n"
    + _PICKLE,
    "a pickle": _PICKLE,
    "a shape of 10 gigabytes": _METRES.replace(b"(48, 64), }" + b" " * 9, b"(50000, 50000), }   "),
    "a negative shape": _METRES.replace(b"(48, 64)", b"(-8, 64)"),
    "a header that is code": _METRES.replace(b"(48, 64)", b"exit(2))"),
    "an archive": b"PK\x03\x04" + b"\0" * 100,
    "cut short": _METRES[:300],
    "empty": b"",
}


DEPTHS: dict[str, Any] = {
    "complex numbers": np.full((48, 64), 2j),
    "truth values": np.ones((48, 64), bool),
    "texts": np.full((48, 64), "2"),
    "dates": np.zeros((48, 64), "M8[s]"),
    "three channels": np.full((48, 64, 3), 2.0),
    "one number": np.array(2.0),
    "another size": np.full((4, 6), 2.0),
    "transposed": np.full((64, 48), 2.0),
    "no pixels": np.zeros((0, 64)),
    "negative": np.full((48, 64), -2.0),
    "millimetres as floats": np.full((48, 64), 2000.0, np.float32),
    "metres as whole numbers": np.full((48, 64), 2, np.uint16),
    "centimetres as whole numbers": np.full((48, 64), 9, np.uint8),
    "all NaN, then": np.full((48, 64), 1e-30),
}


def depth(data: bytes | None, folder: Path, rng: Random) -> Any:
    from tadp.datasets import DepthFolder

    _photos(folder / "images")
    (folder / "depth").mkdir()
    for name in ("a", "b"):
        (folder / f"depth/{name}.npy").write_bytes(_array(np.full((48, 64), 2.0, np.float32)))
    path = folder / "depth/a.npy"
    path.unlink()
    if data is None:
        os.mkfifo(path)
    else:
        path.write_bytes(data)
    samples = DepthFolder(folder / "images", folder / "depth")
    return [samples[number].depth_m.shape for number in range(2)]


@family("depth as arrays")
def depth_kinds() -> Iterator[Kind]:
    for sort in NPYS:
        yield Kind(sort, partial(depth, NPYS[sort]), names=r"a\.npy")
    for sort, values in DEPTHS.items():
        yield Kind(sort, partial(depth, _array(values)), names=r"a\.npy")
    yield Kind("pipe", partial(depth, None), names=r"a\.(npy|png)")
