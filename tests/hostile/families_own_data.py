"""Your own masks, VOC exports, depth pictures and rows, in which something is wrong."""

import io
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from .cases import Kind, family
from .damage import damage
from .fixtures import picture

SIZE = (48, 64)  # (height, width)
NAMES = ("sky", "tree", "house")
SORTS = (
    "empty",
    "cut in half",
    "random bytes",
    "first bytes changed",
    "git-lfs pointer",
    "fifo",
    "folder",
    "link to itself",
)


def photos(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        picture(SIZE[::-1]).save(folder / f"{name}.png")


def values(value: int = 1, dtype: Any = np.uint8, size: tuple[int, int] = SIZE) -> np.ndarray:
    plane = np.zeros(size, dtype)
    plane[: size[0] // 2] = value
    return plane


def save(plane: np.ndarray, path: Path, **options: Any) -> None:
    Image.fromarray(plane).save(path, **options)


# What is written to masks/a.png. Those that are right give the classes of `values()`.
MASKS: dict[str, Callable[[Path], Any]] = {
    "16 bits": lambda path: save(values(1, np.uint16), path),
    "1 bit": lambda path: Image.fromarray(values(1) > 0).save(path),
    "palette": lambda path: _palette(values()).save(path),
    "value 7": lambda path: save(values(7), path),
    "value 300": lambda path: save(values(300, np.uint16), path),
    "colour": lambda path: Image.fromarray(values()).convert("RGB").save(path),
    "transparency": lambda path: Image.fromarray(values()).convert("LA").save(path),
    "fractions in a TIFF": lambda path: save(values(1, np.float32) / 2, path, format="TIFF"),
    "NaN in a TIFF": lambda path: save(np.full(SIZE, np.nan, np.float32), path, format="TIFF"),
    "negative in a TIFF": lambda path: save(values(-1, np.int32), path, format="TIFF"),
    "JPEG": lambda path: save(values(), path, format="JPEG"),
    "GIF": lambda path: save(values(), path, format="GIF"),
    "another size": lambda path: save(values(1, size=(24, 32)), path),
    "turned": lambda path: save(values(1, size=SIZE[::-1]), path),
    "one pixel": lambda path: save(values(1, size=(1, 1)), path),
}
READ_ALIKE = ("16 bits", "1 bit", "palette")


def _palette(plane: np.ndarray) -> Image.Image:
    image = Image.fromarray(plane, mode=None).convert("P")
    image.putdata(plane.ravel().tolist())
    return image


def masks(change: Callable[[Path], Any], folder: Path, rng: Random, **options: Any) -> Any:
    from tadp.datasets import MaskFolder

    photos(folder / "images")
    (folder / "masks").mkdir()
    for name in ("a", "b"):
        save(values(), folder / f"masks/{name}.png")
    change(folder)
    data = MaskFolder(folder / "images", folder / "masks", **{"class_names": NAMES} | options)
    return [np.asarray(data[number].mask).tolist() for number in range(len(data))]


def is_right(planes: list[Any]) -> bool:
    return planes == [values().tolist()] * 2


def opened(file: str, content: bytes, folder: Path, rng: Random) -> Any:
    """Masks whose classes are named by a file next to them."""
    from tadp import datasets

    photos(folder / "images")
    (folder / "masks").mkdir()
    for name in ("a", "b"):
        save(values(), folder / f"masks/{name}.png")
    (folder / "masks" / file).write_bytes(content)
    data: Any = datasets.open(folder)
    return [np.asarray(data[number].mask).tolist() for number in range(len(data))]


# Files that name the classes of masks, and their content.
CLASS_FILES: dict[str, tuple[str, bytes]] = {
    "classes.txt, empty": ("classes.txt", b""),
    "classes.txt, UTF-16": ("classes.txt", "sky\ntree\n".encode("utf-16")),
    "classes.txt, zeros": ("classes.txt", bytes(100)),
    "classes.txt, a line of 1 MB": ("classes.txt", b"a" * 10**6),
    "classes.txt, twice the same": ("classes.txt", b"sky\nsky\n"),
    "classes.txt, one class is missing": ("classes.txt", b"sky\n"),
    "labelmap.txt, no colour": ("labelmap.txt", b"sky\ntree\n"),
    "labelmap.txt, a colour of two numbers": ("labelmap.txt", b"sky:0,0::\n"),
    "labelmap.txt, a colour of 5,000 digits": ("labelmap.txt", b"sky:0,0," + b"9" * 5000 + b"::\n"),
    "labelmap.txt, a negative colour": ("labelmap.txt", b"sky:0,0,-1::\ntree:1,1,1::\n"),
    "labelmap.txt, a colour above 255": ("labelmap.txt", b"sky:0,0,256::\ntree:1,1,1::\n"),
    "labelmap.txt, the same colour twice": ("labelmap.txt", b"sky:0,0,0::\ntree:0,0,0::\n"),
    "label_colors.txt, no name": ("label_colors.txt", b"0 0 0\n"),
    "label_colors.txt, text": ("label_colors.txt", b"red green blue sky\n"),
    "label_colors.txt, above 255": ("label_colors.txt", b"0 0 999 sky\n1 1 1 tree\n"),
    "label_colors.txt, 5,000 digits": ("label_colors.txt", b"0 0 " + b"9" * 5000 + b" sky\n"),
    "_classes.csv, only the header": ("_classes.csv", b"Pixel Value, Class\n"),
    "_classes.csv, text as value": ("_classes.csv", b"Pixel Value, Class\nzero, sky\n"),
    "_classes.csv, 5,000 digits": ("_classes.csv", b"Pixel Value, Class\n" + b"9" * 5000 + b", sky\n"),
    "_classes.csv, a huge value": ("_classes.csv", b"Pixel Value, Class\n999999999999, sky\n1, tree\n"),
    "_classes.csv, a quote that does not end": ("_classes.csv", b'Pixel Value, Class\n0, "sky\n1, tree\n'),
}


@family("masks of your own")
def mask_kinds() -> Iterator[Kind]:
    for name, write in MASKS.items():
        right = is_right if name in READ_ALIKE else None
        yield Kind(name, partial(masks, lambda folder, write=write: write(folder / "masks/a.png")), r"a\.png", right)
    for sort in SORTS:
        run = partial(masks, lambda folder, sort=sort: damage(folder / "masks/a.png", sort, Random(0)))
        yield Kind(f"file, {sort}", run, names=r"a\.png|'a'|masks")
    for name, (file, content) in CLASS_FILES.items():
        names = rf"{re.escape(file)}|a\.png|masks|palette"
        right = (lambda planes: not np.any(planes)) if name.endswith("twice the same") else None  # one class
        yield Kind(name, partial(opened, file, content), names, right)


XML = (
    "<annotation><source><database>Unknown</database></source><size><width>64</width><height>48</height></size>"
    "<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{left}</xmin><ymin>2</ymin><xmax>{right}</xmax>"
    "<ymax>20</ymax></bndbox></object></annotation>"
)
# What happens in a VOC export.
VOCS: dict[str, Callable[[Path], Any]] = {
    "box is text": lambda root: _xml(root, left="x"),
    "box is NaN": lambda root: _xml(root, left="nan"),
    "box overflows": lambda root: _xml(root, right="1e999"),
    "box is outside": lambda root: _xml(root, left=200, right=220),
    "class has no name": lambda root: _xml(root, name=""),
    "classes differ in case": lambda root: _xml(root, name="Dog"),
    "not XML": lambda root: (root / "Annotations/a.xml").write_text("dog 1 2 3 4"),
    "billion laughs": lambda root: (root / "Annotations/a.xml").write_text(
        "<!DOCTYPE a [<!ENTITY a0 'lol'>"
        + "".join(f"<!ENTITY a{k + 1} '{f'&a{k};' * 10}'>" for k in range(9))
        + "]><annotation><object><name>&a9;</name></object></annotation>"
    ),
    "external entity": lambda root: (root / "Annotations/a.xml").write_text(
        "<!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><annotation><object><name>&e;</name></object></annotation>"
    ),
    "size of another image": lambda root: _replace(root / "Annotations/a.xml", "<width>64<", "<width>640<"),
    "list names another image": lambda root: _list(root, b"nowhere\n"),
    "list is outside": lambda root: _list(root, b"../../../etc/passwd\n"),
    "list has zeros": lambda root: _list(root, bytes(50)),
    "list is UTF-16": lambda root: _list(root, "a\n".encode("utf-16")),
    "list has a line of 1 MB": lambda root: _list(root, b"a" * 10**6),
    "no images": lambda root: [path.unlink() for path in (root / "JPEGImages").iterdir()],
    "an image without XML": lambda root: (root / "Annotations/a.xml").unlink(),
    "labelmap.txt is not one": lambda root: (root / "labelmap.txt").write_text("dog;1;2;3\n"),
    "labelmap.txt has a colour above 255": lambda root: _colored(root, "background:0,0,0::\ndog:0,0,300::\n"),
    "labelmap.txt has a colour twice": lambda root: _colored(root, "background:0,0,0::\ndog:0,0,0::\n"),
    "a mask has another colour": lambda root: _colored(root, "background:0,0,0::\ndog:9,9,9::\n"),
}


def _xml(root: Path, name: str = "dog", left: object = 2, right: object = 20) -> None:
    (root / "Annotations/a.xml").write_text(XML.format(name=name, left=left, right=right))


def _replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def _list(root: Path, content: bytes) -> None:
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_bytes(content)


def _colored(root: Path, text: str) -> None:
    (root / "labelmap.txt").write_text(text)
    (root / "SegmentationClass").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", SIZE[::-1], (1, 2, 3)).save(root / f"SegmentationClass/{name}.png")


def voc(change: Callable[[Path], Any], folder: Path, rng: Random) -> Any:
    from tadp.datasets import VOCFolder

    root = folder / "voc"
    photos(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for name in ("a", "b"):
        (root / f"Annotations/{name}.xml").write_text(XML.format(name="dog", left=2, right=20))
    change(root)
    data = VOCFolder(root)
    samples = [data[number] for number in range(len(data))]
    return [(sample.boxes and sample.boxes.boxes.tolist(), sample.mask is not None) for sample in samples]


@family("VOC exports of your own")
def voc_kinds() -> Iterator[Kind]:
    for name, change in VOCS.items():
        yield Kind(name, partial(voc, change), names=r"a\.(xml|png)|train\.txt|labelmap\.txt|voc\b|palette")
    for sort in SORTS:
        run = partial(voc, lambda root, sort=sort: damage(root / "Annotations/a.xml", sort, Random(0)))
        yield Kind(f"XML, {sort}", run, names=r"a\.(xml|png)")


DEPTHS: dict[str, Callable[[Path], Any]] = {
    "8 bits": lambda path: save(values(100), path),
    "colour": lambda path: Image.fromarray(values(100)).convert("RGB").save(path),
    "a palette": lambda path: _palette(values(100)).save(path),
    "metres as 16 bits": lambda path: save(values(2, np.uint16), path),
    "all 0": lambda path: save(values(0, np.uint16), path),
    "another size": lambda path: save(values(2000, np.uint16, (24, 32)), path),
    "turned": lambda path: save(values(2000, np.uint16, SIZE[::-1]), path),
    "one pixel": lambda path: save(values(2000, np.uint16, (1, 1)), path),
    "JPEG": lambda path: save(values(100), path, format="JPEG"),
    "TIFF, millimetres as floats": lambda path: save(values(2000, np.float32), path, format="TIFF"),
    "TIFF, NaN": lambda path: save(np.full(SIZE, np.nan, np.float32), path, format="TIFF"),
    "TIFF, infinite": lambda path: save(np.full(SIZE, np.inf, np.float32), path, format="TIFF"),
    "TIFF, negative floats": lambda path: save(-values(2, np.float32), path, format="TIFF"),
    "TIFF, negative whole numbers": lambda path: save(values(-2000, np.int32), path, format="TIFF"),
    "TIFF, two pages": lambda path: Image.fromarray(values(2, np.float32)).save(
        path, format="TIFF", save_all=True, append_images=[Image.fromarray(values(2, np.float32))]
    ),
}
UNKNOWN = ("all 0", "TIFF, NaN", "TIFF, infinite")  # depth that is not known anywhere, with a warning


def depth(change: Callable[[Path], Any], folder: Path, rng: Random, suffix: str = "png") -> Any:
    from tadp.datasets import DepthFolder

    photos(folder / "images")
    (folder / "depth").mkdir()
    save(values(2000, np.uint16), folder / "depth/b.png")
    save(values(2, np.float32) if suffix == "tif" else values(2000, np.uint16), folder / f"depth/a.{suffix}")
    change(folder / f"depth/a.{suffix}")
    samples = DepthFolder(folder / "images", folder / "depth")
    return [float(samples[number].depth_m.max()) for number in range(2)]


@family("depth of your own")
def depth_kinds() -> Iterator[Kind]:
    for name, change in DEPTHS.items():
        right = (lambda farthest: farthest[0] == 0) if name in UNKNOWN else None
        yield Kind(name, partial(depth, change), r"a\.png", right)
    for suffix in ("png", "tif"):
        for sort in SORTS:
            run = partial(depth, lambda path, sort=sort: damage(path, sort, Random(0)), suffix=suffix)
            yield Kind(f"{suffix}, {sort}", run, names=rf"a\.{suffix}|'a'|a\.png")


def _png(plane: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(plane).save(data, "PNG")
    return data.getvalue()


BOX = {"bbox": [[2.0, 3.0, 10.0, 5.0]], "category": [1]}
# A column, its wrong value in the first of two rows, and further arguments.
ROWS: dict[str, tuple[str, Any]] = {
    "image is null": ("image", None),
    "image is a number": ("image", 5),
    "image is a list": ("image", [1, 2]),
    "image is a missing file": ("image", "nowhere.png"),
    "image is a pipe": ("image", "pipe.png"),
    "image is empty bytes": ("image", {"bytes": b""}),
    "image is random bytes": ("image", {"bytes": b"\x89PNG\r\n\x1a\n" + bytes(100)}),
    "image is PostScript": ("image", {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}),
    "image has no bytes": ("image", {"bytes": None, "path": None}),
    "image is of one dimension": ("image", np.zeros(9, np.uint8)),
    "image is of texts": ("image", np.full(SIZE, "x")),
    "image is NaN": ("image", np.full((*SIZE, 3), np.nan)),
    "mask is null": ("mask", None),
    "mask is a number": ("mask", 5),
    "mask is of three dimensions": ("mask", np.zeros((*SIZE, 3), np.uint8)),
    "mask is of another size": ("mask", values(1, size=(24, 32))),
    "mask has fractions": ("mask", values(1, np.float32) / 2),
    "mask has NaN": ("mask", np.full(SIZE, np.nan)),
    "mask is of texts": ("mask", np.full(SIZE, "1")),
    "mask is of objects": ("mask", np.full(SIZE, None)),
    "mask has value 7": ("mask", values(7)),
    "mask is negative": ("mask", values(-1, np.int64)),
    "mask is a JPEG": ("mask", "jpeg"),
    "mask is random bytes": ("mask", {"bytes": b"\x89PNG\r\n\x1a\n" + bytes(100)}),
    "depth is null": ("depth", None),
    "depth is of 8 bits": ("depth", Image.fromarray(values(100))),
    "depth is negative": ("depth", -values(2, np.float32)),
    "depth is of complex numbers": ("depth", np.full(SIZE, 2j)),
    "depth is of another size": ("depth", values(2000, np.uint16, (24, 32))),
    "depth is in millimetres": ("depth", values(2000, np.float32)),
    "objects are null": ("objects", None),
    "objects are a number": ("objects", 5),
    "objects are texts": ("objects", ["dog"]),
    "boxes are missing": ("objects", {"category": [1]}),
    "classes are missing": ("objects", {"bbox": [[2, 3, 10, 5]]}),
    "fewer classes than boxes": ("objects", {"bbox": [[2, 3, 10, 5]] * 2, "category": [1]}),
    "class is too large": ("objects", BOX | {"category": [9]}),
    "class is a truth value of NumPy": ("objects", BOX | {"category": [np.True_]}),
    "class is negative": ("objects", BOX | {"category": [-1]}),
    "class is a fraction": ("objects", BOX | {"category": [0.5]}),
    "class is NaN": ("objects", BOX | {"category": [float("nan")]}),
    "class is null": ("objects", BOX | {"category": [None]}),
    "class is an unknown name": ("objects", BOX | {"category": ["boat"]}),
    "class is a list": ("objects", BOX | {"category": [[1]]}),
    "box has three numbers": ("objects", BOX | {"bbox": [[2, 3, 10]]}),
    "box is text": ("objects", BOX | {"bbox": ["2 3 10 5"]}),
    "box is null": ("objects", BOX | {"bbox": [None]}),
    "box is NaN": ("objects", BOX | {"bbox": [[float("nan"), 3, 10, 5]]}),
    "box is huge": ("objects", BOX | {"bbox": [[10**400, 3, 10, 5]]}),
    "box is outside": ("objects", BOX | {"bbox": [[200, 3, 10, 5]]}),
    "id twice": ("image_id", "b"),
    "id is null": ("image_id", None),
    "a row is a number": ("row", 5),
    "a row is empty": ("row", {}),
}


def rows(column: str, value: Any, folder: Path, rng: Random) -> Any:
    from tadp.datasets import RowDataset

    os.mkfifo(folder / "pipe.png")
    if isinstance(value, str) and value == "jpeg":
        data = io.BytesIO()
        Image.fromarray(values()).save(data, "JPEG")
        value = {"bytes": data.getvalue()}
    sound = {"image": picture(SIZE[::-1]), "mask": values(), "depth": values(2000, np.uint16), "objects": BOX}
    table: list[Any] = [sound | {"image_id": name} for name in ("a", "b")]
    table[0] = value if column == "row" else table[0] | {column: value}
    named = {column: column} if column in ("mask", "depth", "objects") else {"objects": "objects"}
    data = RowDataset(table, image_id="image_id", class_names=NAMES, **named)
    samples = [data[number] for number in range(2)]
    return [(sample.boxes and sample.boxes.boxes.tolist(), sample.mask is None, sample.depth_m is None)
            for sample in samples]  # fmt: skip


@family("rows of your own")
def row_kinds() -> Iterator[Kind]:
    for name, (column, value) in ROWS.items():
        yield Kind(name, partial(rows, column, value), names=r"row 0|'a'|'b'|\ba\b|image_id|row")
