"""Small data sets on disk, with exactly the folders and files of the published ones."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 36)  # height and width of every image

# VOC's colours of its first classes. A palette image stores class indices and shows these colours.
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]


def pixels(name: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A random image, different for each name, (H, W, 3), uint8."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (*size, 3), dtype=np.uint8)


def write_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(path.name, size)).save(path)


def write_mask(path: Path, mask: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask.astype(np.uint8))
    if palette:
        picture = Image.frombytes("P", picture.size, mask.astype(np.uint8).tobytes())
        picture.putpalette(PALETTE + [255] * (768 - len(PALETTE)))
    picture.save(path)


def write_list(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def quadrants(*values: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask of four values: top left, top right, bottom left, bottom right."""
    height, width = size
    mask = np.empty(size, np.int64)
    halves = (slice(None, height // 2), slice(height // 2, None)), (slice(None, width // 2), slice(width // 2, None))
    for value, (rows, columns) in zip(values, [(r, c) for r in halves[0] for c in halves[1]], strict=True):
        mask[rows, columns] = value
    return mask


def cut_short(path: Path, keep: float = 0.6) -> None:
    """Keep only the first `keep` (a fraction) of a file, as after a full disk or a broken download."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def voc(root: Path) -> Path:
    """VOCdevkit/VOC2012 with two images of train that have VOC's masks, one that only SBD labels, and two of val."""
    names = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033", "2007_000042"], "aug": ["2008_000008"]}
    for name in names["train"] + names["val"] + names["aug"]:
        write_image(root / "JPEGImages" / f"{name}.jpg")
    for name in names["train"] + names["val"]:
        write_mask(root / "SegmentationClass" / f"{name}.png", quadrants(0, 1, 20, 255), palette=True)
    for name in names["train"] + names["aug"]:  # SBD also labels the images of train, without VOC's border of 255
        write_mask(root / "SegmentationClassAug" / f"{name}.png", quadrants(0, 13, 13, 15))
    lists = root / "ImageSets" / "Segmentation"
    write_list(lists / "train.txt", names["train"])
    write_list(lists / "val.txt", names["val"])
    write_list(lists / "trainval.txt", names["train"] + names["val"])
    write_list(lists / "trainaug.txt", names["train"] + names["aug"])
    write_list(root / "ImageSets/Main/trainval.txt", names["train"])
    write_list(root / "ImageSets/Main/val.txt", names["val"])
    write_annotation(
        root / "Annotations/2007_000032.xml",
        [("aeroplane", (1, 1, SIZE[1], SIZE[0]), 0), ("person", (5, 7, 5, 9), 1), ("tvmonitor", (2.5, 3, 10, 8), 0)],
    )
    write_annotation(root / "Annotations/2007_000039.xml", [])
    for name in names["val"]:
        write_annotation(root / "Annotations" / f"{name}.xml", [("sheep", (3, 4, 9, 12), 0)])
    return root


def write_annotation(path: Path, objects: list[tuple[str, tuple[float, ...], int]]) -> None:
    """Write VOC's XML. As in VOC, a person has a part, the head, which does not count as an object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    elements = ""
    for name, box, difficult in objects:
        sides = "".join(f"<{side}>{v}</{side}>" for side, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>" if name == "person" else ""
        elements += (
            f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>{difficult}</difficult><bndbox>{sides}</bndbox>{part}</object>\n"
        )
    path.write_text(
        f"<annotation><folder>VOC2012</folder><filename>{path.stem}.jpg</filename><size><width>{SIZE[1]}</width>"
        f"<height>{SIZE[0]}</height><depth>3</depth></size><segmented>1</segmented>\n{elements}</annotation>\n"
    )


def cross_domain(root: Path) -> Path:
    """The folder `watercolor` (or `comic`) of cross-domain-detection/datasets."""
    for split, names in {"train": ["43248445"], "test": ["91846963", "250278059"]}.items():
        write_list(root / "ImageSets/Main" / f"{split}.txt", names)
        for name in names:
            write_image(root / "JPEGImages" / f"{name}.jpg")
            write_annotation(
                root / "Annotations" / f"{name}.xml", [("bicycle", (2, 3, 20, 22), 0), ("person", (1, 1, 9, 9), 0)]
            )
    return root


def ade20k(root: Path) -> Path:
    """ADEChallengeData2016."""
    for split, short, count in (("training", "train", 2), ("validation", "val", 1)):
        for number in range(1, count + 1):
            name = f"ADE_{short}_{number:08d}"
            write_image(root / "images" / split / f"{name}.jpg")
            write_mask(root / "annotations" / split / f"{name}.png", quadrants(0, 1, 13, 150))
    write_list(root / "objectInfo150.txt", ["Idx\tRatio\tTrain\tVal\tStuff\tName"])
    return root


def cityscapes(root: Path) -> Path:
    """leftImg8bit and gtFine as unpacked, with label ids and colours; only zurich has train ids, which users create."""
    for split, city in (("train", "aachen"), ("train", "zurich"), ("val", "frankfurt")):
        stem = f"{city}_000000_000019"
        write_image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        masks = root / "gtFine" / split / city
        write_mask(masks / f"{stem}_gtFine_labelIds.png", quadrants(7, 33, 0, 29))
        write_image(masks / f"{stem}_gtFine_color.png")
        if city == "zurich":
            write_mask(masks / f"{stem}_gtFine_labelTrainIds.png", quadrants(0, 18, 255, 255))
    return root


def dark_zurich(root: Path) -> Path:
    """The unpacked Dark_Zurich_val_anon.zip."""
    for number in (375, 437):
        stem = f"val/night/GOPR0356/GOPR0356_frame_{number:06d}"
        write_image(root / "rgb_anon" / f"{stem}_rgb_anon.png")
        write_mask(root / "gt" / f"{stem}_gt_labelTrainIds.png", quadrants(0, 10, 13, 255))
        write_mask(root / "gt" / f"{stem}_gt_labelIds.png", quadrants(7, 23, 26, 0))
        write_image(root / "gt" / f"{stem}_gt_labelColor.png")
    return root


def nighttime_driving(root: Path) -> Path:
    """NighttimeDrivingTest."""
    for stem in ("0_frame_0453", "01_frame_1536"):
        write_image(root / "leftImg8bit/test/night" / f"{stem}_leftImg8bit.png")
        masks = root / "gtCoarse_daytime_trainvaltest/test/night"
        write_mask(masks / f"{stem}_gtCoarse_labelTrainIds.png", quadrants(0, 2, 8, 255))
        write_mask(masks / f"{stem}_gtCoarse_labelIds.png", quadrants(7, 11, 21, 0))
    return root


def nyu(root: Path) -> Path:
    """nyu_depth_v2, with the lists of the released code."""
    for folder, listed, names in (
        ("sync", "train_list.txt", ["kitchen_0028b/{}_00045", "living_room_0019/{}_00111"]),
        ("official_splits/test", "test_list.txt", ["bathroom/{}_00045"]),
    ):
        lines = []
        for name in names:
            image, depth = f"{name.format('rgb')}.jpg", f"{name.format('sync_depth')}.png"
            write_image(root / folder / image)
            millimetres = np.full(SIZE, 2345, np.uint16)
            millimetres[:4] = 0
            millimetres[-1, -1] = 9999
            Image.fromarray(millimetres).save(root / folder / depth)
            lines.append(f"/{image} /{depth}")
        write_list(root / listed, lines)
    return root
