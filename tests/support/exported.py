"""Rendered scenes saved as the data sets of a user: images with masks, boxes or depth."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tadp.datasets import RenderedScenes

CLASSES = RenderedScenes(1).class_names


def mask_folder(folder: Path, count: int, *, seed: int = 41, size: int = 64) -> Path:
    """Folders images and masks, as many labelling tools export them."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for sample in RenderedScenes(count, seed=seed, size=size):
        Image.fromarray(sample.image).save(folder / "images" / f"{sample.image_id}.png")
        Image.fromarray(sample.mask.astype(np.uint8)).save(folder / "masks" / f"{sample.image_id}.png")
    return folder


def coco_folder(folder: Path, count: int, *, seed: int = 41, size: int = 64) -> Path:
    """A COCO json with boxes."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, sample in enumerate(RenderedScenes(count, seed=seed, size=size)):
        name = f"{sample.image_id}.png"
        Image.fromarray(sample.image).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "width": size, "height": size})
        for box, label in zip(sample.boxes.boxes.tolist(), sample.boxes.labels.tolist(), strict=True):
            left, top, right, bottom = box
            entry = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            entry |= {"id": len(annotations), "image_id": number, "category_id": label + 1, "iscrowd": 0}
            annotations.append(entry)
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES[1:], start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder
