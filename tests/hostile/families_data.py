"""Data sets: masks, depth, VOC's XML, and lists of images."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from .cases import Kind, family
from .damage import CONTENTS, PLACES, damage
from .fixtures import CLASSES, copy

SIZE = (24, 36)  # of all pictures in the fixtures


def first_mask(name: str, folder: Path) -> Any:
    from tadp.datasets import ADE20K, Cityscapes, MaskFolder, PascalVOC

    kinds: dict[str, Callable[[], Any]] = {
        "own": lambda: MaskFolder(folder / "own/images", folder / "own/masks", class_names=CLASSES),
        "voc": lambda: PascalVOC(folder / "voc", split="val"),
        "ade20k": lambda: ADE20K(folder / "ade20k"),
        "cityscapes": lambda: Cityscapes(folder / "cityscapes"),
    }
    return kinds[name]()[0].mask


def first_depth(folder: Path) -> Any:
    from tadp.datasets import NYUDepthV2

    return NYUDepthV2(folder / "nyu")[0].depth_m


def first_boxes(folder: Path) -> list[Any]:
    from tadp.datasets import PascalVOCDetection

    boxes = PascalVOCDetection(folder / "voc")[0].boxes
    return [boxes.boxes.tolist(), boxes.labels.tolist(), boxes.difficult.tolist()]


MASKS = {
    "own": "own/masks/0.png",
    "voc": "voc/SegmentationClass/2007_000033.png",
    "ade20k": "ade20k/annotations/training/ADE_train_00000001.png",
    "cityscapes": "cityscapes/gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png",
}
DEPTH = "nyu/sync/kitchen_0028b/sync_depth_00045.png"
XML = "voc/Annotations/2007_000032.xml"
SORTS = ("empty", "cut in half", "random bytes", "git-lfs pointer", "error page", "zip", "missing", "folder", "fifo",
         "broken link", "link to itself", "endless device")  # fmt: skip


def read_damaged(file: str, sort: str, read: Callable[[Path], Any], folder: Path, rng: Random) -> Any:
    copy(file.partition("/")[0], folder)
    damage(folder / file, sort, rng)
    return read(folder)


@family("masks and depth: files")
def label_files() -> Iterator[Kind]:
    for name, file in MASKS.items():
        for sort in SORTS:
            read = partial(first_mask, name)
            yield Kind(f"{name}, {sort}", partial(read_damaged, file, sort, read), re.escape(Path(file).name))
    for sort in SORTS:
        yield Kind(f"depth, {sort}", partial(read_damaged, DEPTH, sort, first_depth), re.escape(Path(DEPTH).name))


def grey(value: int = 1, size: tuple[int, int] = SIZE, dtype: Any = np.uint8) -> np.ndarray:
    return np.full(size, value, dtype)


def save_bits(path: Path, bits: int, value: int) -> None:
    """A grey PNG of 1, 2 or 4 bits per pixel, all pixels of one value, written by hand."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    byte = sum(value << (bits * k) for k in range(8 // bits))
    rows = (b"\0" + bytes([byte]) * (-(-SIZE[1] * bits // 8))) * SIZE[0]
    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def animation(path: Path) -> None:
    frames = [Image.fromarray(grey(value)) for value in (1, 2)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera was held upright
# A mask of three classes that is all class 1, written in another way: the class 1, or a refusal.
CONTENTS_OF_MASKS: dict[str, Callable[[Path], Any]] = {
    "1 bit": lambda path: save_bits(path, 1, 1),
    "2 bits": lambda path: save_bits(path, 2, 1),
    "4 bits": lambda path: save_bits(path, 4, 1),
    "16 bits": lambda path: Image.fromarray(grey(dtype=np.uint16)).save(path),
    "16 bits, beyond 255": lambda path: Image.fromarray(grey(257, dtype=np.uint16)).save(path),
    "mode 1": lambda path: Image.fromarray(grey(255)).convert("1").save(path),
    "colour": lambda path: Image.fromarray(grey()).convert("RGB").save(path),
    "grey with alpha": lambda path: Image.fromarray(grey()).convert("LA").save(path),
    "colour with alpha": lambda path: Image.fromarray(grey()).convert("RGBA").save(path),
    "palette": lambda path: Image.fromarray(grey()).convert("P").save(path),
    "palette with transparency": lambda path: Image.fromarray(grey()).convert("P").save(path, transparency=1),
    "JPEG with the suffix of a PNG": lambda path: Image.fromarray(grey()).save(path, format="JPEG"),
    "TIFF of floats": lambda path: Image.fromarray(grey(dtype=np.float32)).save(path, format="TIFF"),
    "TIFF of 32 bits": lambda path: Image.fromarray(grey(dtype=np.int32)).save(path, format="TIFF"),
    "TIFF of negative numbers": lambda path: Image.fromarray(grey(-1, dtype=np.int32)).save(path, format="TIFF"),
    "two frames": animation,
    "transposed": lambda path: Image.fromarray(grey(size=SIZE[::-1])).save(path),
    "one pixel": lambda path: Image.fromarray(grey(size=(1, 1))).save(path),
    "one row short": lambda path: Image.fromarray(grey(size=(SIZE[0] - 1, SIZE[1]))).save(path),
    "unknown class": lambda path: Image.fromarray(grey(200)).save(path),
    "turned by EXIF": lambda path: Image.fromarray(grey()).save(path, exif=TURNED),
}  # fmt: skip


def read_mask(sort: str, name: str, folder: Path, rng: Random) -> Any:
    copy(name, folder)
    CONTENTS_OF_MASKS[sort](folder / MASKS[name])
    return first_mask(name, folder)


@family("masks: content")
def mask_contents() -> Iterator[Kind]:
    for name in ("own", "voc"):
        for sort in CONTENTS_OF_MASKS:
            right = lambda mask: mask.shape == SIZE and bool((mask == 1).all())  # noqa: E731
            yield Kind(f"{name}, {sort}", partial(read_mask, sort, name), re.escape(Path(MASKS[name]).name), right)


DEPTHS: dict[str, Callable[[Path], Any]] = {
    "8 bits": lambda path: Image.fromarray(grey()).save(path),
    "4 bits": lambda path: save_bits(path, 4, 1),
    "colour": lambda path: Image.fromarray(grey()).convert("RGB").save(path),
    "palette": lambda path: Image.fromarray(grey()).convert("P").save(path),
    "floats": lambda path: Image.fromarray(grey(2, dtype=np.float32)).save(path, format="TIFF"),
    "NaN": lambda path: Image.fromarray(np.full(SIZE, np.nan, np.float32)).save(path, format="TIFF"),
    "negative": lambda path: Image.fromarray(grey(-5, dtype=np.int32)).save(path, format="TIFF"),
    "32 bits, a thousand kilometres": lambda path: Image.fromarray(grey(10**9, dtype=np.int32)).save(
        path, format="TIFF"
    ),
    "transposed": lambda path: Image.fromarray(grey(size=SIZE[::-1], dtype=np.uint16)).save(path),
    "one pixel": lambda path: Image.fromarray(grey(size=(1, 1), dtype=np.uint16)).save(path),
}


def read_depth(sort: str, folder: Path, rng: Random) -> Any:
    copy("nyu", folder)
    DEPTHS[sort](folder / DEPTH)
    return first_depth(folder)


# Replacements in an annotation, and what its boxes are then; without a value only an error is right.
PERSON = [[[0.0, 0.0, 36.0, 24.0], [4.0, 6.0, 5.0, 9.0], [1.5, 2.0, 10.0, 8.0]], [0, 14, 19], [False, True, False]]
XMLS: dict[str, tuple[str, str]] = {
    "side is text": ("<xmin>1<", "<xmin>left<"),
    "side is empty": ("<xmin>1<", "<xmin><"),
    "side is NaN": ("<xmin>1<", "<xmin>nan<"),
    "side is infinite": ("<xmax>36<", "<xmax>inf<"),
    "side overflows": ("<xmax>36<", "<xmax>1e999<"),
    "side is missing": ("<xmax>36</xmax>", ""),
    "side has 5,000 digits": ("<xmax>36<", f"<xmax>{'9' * 5000}<"),
    "side has other digits": ("<xmax>36<", "<xmax>3٦<"),
    "sides are swapped": ("<xmin>1</xmin><ymin>1</ymin><xmax>36<", "<xmin>36</xmin><ymin>1</ymin><xmax>1<"),
    "box outside the image": ("<xmin>1</xmin><ymin>1</ymin><xmax>36<", "<xmin>100</xmin><ymin>1</ymin><xmax>136<"),
    "box twice as large as the image": ("<xmax>36<", "<xmax>72<"),
    "box is missing": ("<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>36</xmax><ymax>24</ymax></bndbox>", ""),
    "name is unknown": ("aeroplane", "spaceship"),
    "name is empty": ("aeroplane", ""),
    "name is missing": ("<name>aeroplane</name>", ""),
    "name has spaces": ("aeroplane", "  aeroplane \n"),
    "name in capitals": ("aeroplane", "AEROPLANE"),
    "difficult is empty": ("<difficult>0<", "<difficult><"),
    "difficult is text": ("<difficult>0<", "<difficult>Unspecified<"),
    "difficult is missing": ("<difficult>0</difficult>", ""),
    "difficult is 2": ("<difficult>0<", "<difficult>2<"),
    "size of another image": ("<width>36<", "<width>360<"),
    "size is text": ("<width>36<", "<width>wide<"),
    "size is zero": ("<width>36<", "<width>0<"),
    "size is missing": ("<size><width>36</width><height>24</height><depth>3</depth></size>", ""),
    "another root": ("annotation>", "html>"),
    "tag not closed": ("</annotation>", ""),
    "two documents": ("</annotation>", "</annotation><annotation/>"),
    "external entity": ("<annotation>", '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;'),
    "billion laughs": ("<annotation>", "<!DOCTYPE a [<!ENTITY a0 'lol'>" + "".join(
        f"<!ENTITY a{k + 1} '{f'&a{k};' * 10}'>" for k in range(9)) + "]><annotation><folder>&a9;</folder>"),
    "quadratic entities": ("<annotation>", f"<!DOCTYPE a [<!ENTITY e '{'x' * 100_000}'>]><annotation><folder>"
        f"{'&e;' * 20_000}</folder>"),
    "100,000 levels": ("<segmented>1</segmented>", "<a>" * 100_000 + "</a>" * 100_000),
    "100,000 objects": ("</annotation>", "<object><name>sheep</name><bndbox><xmin>1</xmin></bndbox></object>" * 100_000
        + "</annotation>"),
    "null character": ("aeroplane", "aero\0plane"),
    "other encoding declared": ("<annotation>", '<?xml version="1.0" encoding="utf-7"?><annotation>'),
    "processing instruction": ("<annotation>", "<?php system('touch executed') ?><annotation>"),
}  # fmt: skip
HARMLESS = ("name has spaces", "difficult is empty", "difficult is text", "difficult is missing", "size is missing",
            "processing instruction", "side has other digits", "box twice as large as the image",
            "difficult is 2", "100,000 levels", "size is zero", "size is text")  # fmt: skip


def read_xml(sort: str, folder: Path, rng: Random) -> Any:
    path = copy("voc", folder) / XML.partition("/")[2]
    old, new = XMLS[sort]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return first_boxes(folder)


@family("annotations")
def annotations() -> Iterator[Kind]:
    name = re.escape(Path(XML).name)
    for sort in XMLS:
        right = (lambda boxes: boxes == PERSON) if sort in HARMLESS else None
        yield Kind(sort, partial(read_xml, sort), name, right)
    for sort in SORTS:
        yield Kind(f"file, {sort}", partial(read_damaged, XML, sort, first_boxes), name)
    for sort in DEPTHS:
        yield Kind(f"depth, {sort}", partial(read_depth, sort), re.escape(Path(DEPTH).name))


# A list of images, and what a reader makes of it.
LISTS: dict[str, Callable[[str], bytes]] = {
    "byte-order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "CR LF": lambda text: text.replace("\n", "\r\n").encode(),
    "no newline at the end": lambda text: text.rstrip("\n").encode(),
    "spaces": lambda text: text.replace("\n", "  \n").encode(),
    "blank lines": lambda text: text.replace("\n", "\n\n").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "only blank lines": lambda text: b"\n \n",
    "unknown name": lambda text: b"nowhere nowhere\n" + text.encode(),
    "name outside the folder": lambda text: b"../../etc/passwd ../../etc/passwd\n" + text.encode(),
    "absolute name": lambda text: b"//etc/passwd //etc/passwd\n" + text.encode(),
    "null character": lambda text: b"a\0b a\0b\n" + text.encode(),
    "1 MB line": lambda text: b"a" * 10**6 + b" b\n" + text.encode(),
    "twice the same": lambda text: (text + text).encode(),
}
READ_ALIKE = ("byte-order mark", "CR LF", "no newline at the end", "spaces", "blank lines")
LIST_FILES = {
    "voc": ("voc/ImageSets/Segmentation/val.txt", ["2007_000033", "2007_000042"]),
    "nyu": ("nyu/train_list.txt", ["/kitchen_0028b/rgb_00045.jpg", "/living_room_0019/rgb_00111.jpg"]),
}


def list_ids(name: str, folder: Path) -> list[str]:
    from tadp.datasets import NYUDepthV2, PascalVOC

    data = PascalVOC(folder / "voc", split="val") if name == "voc" else NYUDepthV2(folder / "nyu")
    return data.image_ids


def read_list(name: str, sort: str, folder: Path, rng: Random) -> Any:
    copy(name, folder)
    path = folder / LIST_FILES[name][0]
    path.write_bytes(LISTS[sort](path.read_text()))
    return list_ids(name, folder)


@family("lists of images")
def lists() -> Iterator[Kind]:
    for name, (file, ids) in LIST_FILES.items():
        names = re.escape(Path(file).name) + "|nowhere|passwd|a.*b"
        for sort in LISTS:
            right = partial(list.__eq__, ids) if sort in READ_ALIKE else partial(list.__eq__, ids * 2)
            yield Kind(f"{name}, {sort}", partial(read_list, name, sort), names, right)
        for sort in (*PLACES, *list(CONTENTS)[:6]):
            right = partial(list.__eq__, ids[:1]) if sort == "cut in half" else None
            yield Kind(f"{name}, {sort}", partial(read_damaged, file, sort, partial(list_ids, name)), names, right)
