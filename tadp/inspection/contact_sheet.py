"""Draw a few images of a data set with their labels."""

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress

import torch
from PIL import Image

from tadp.datasets import Sample
from tadp.datasets.readers.image_folder import FolderDataset
from tadp.datasets.readers.labelled_objects import ObjectDataset
from tadp.datasets.sample import sides
from tadp.datasets.transforms.geometry import fit, resize
from tadp.drawing import SHORT_PX, box_picture, class_picture, depth_picture, sheet
from tadp.errors import DatasetError, ImageError


def contact_sheet(data: FolderDataset, image_ids: Sequence[str]) -> Image.Image | None:
    """Draw images with their labels, one image per row: the image, its mask, its boxes and its depth.

    Args:
        data: The data set.
        image_ids: The images to draw. Those that cannot be read are left out.

    Returns:
        The sheet; None if no image can be read.
    """
    drawn = []
    for image_id in image_ids:
        with suppress(ImageError, DatasetError):
            drawn.append(_pictures(data, data.subset([image_id])[0]))
    if not drawn:
        return None
    kinds = list(dict.fromkeys(kind for _, pictures in drawn for kind in pictures))
    blank = Image.new("RGB", (1, 1), "white")
    return sheet(
        [[pictures.get(kind, blank) for kind in kinds] for _, pictures in drawn],
        titles=kinds,
        labels=[label for label, _ in drawn],
    )


def examples(classes: Mapping[str, Set[str]], count: int) -> list[str]:
    """Choose images for the sheet: first as few as possible that together show every class.

    If fewer than `count` are needed for that, the others are chosen at equal steps from the list of the remaining ones.

    Args:
        classes: The classes in each image, by its id.
        count: Number of images to choose.

    Example:
        >>> examples({"a": {"cat"}, "b": {"cat", "dog"}, "c": {"bus"}, "d": set()}, 3)
        ['a', 'b', 'c']
    """
    chosen: dict[str, None] = {}
    missing = set().union(*classes.values())
    while missing and len(chosen) < count:
        best = max(classes, key=lambda image_id: len(classes[image_id] & missing))
        missing -= classes[best]
        chosen[best] = None
    rest = [image_id for image_id in classes if image_id not in chosen]
    wanted = min(count - len(chosen), len(rest))
    chosen |= {rest[number * len(rest) // wanted]: None for number in range(wanted)}
    return [image_id for image_id in classes if image_id in chosen]


def _pictures(data: FolderDataset, sample: Sample) -> tuple[str, dict[str, Image.Image]]:
    """The label of a row, and its pictures by the titles of their columns."""
    label = f"{sample.image_id} ({sides(sample.image_size)})"
    sample = resize(sample, fit(sample.image_size, SHORT_PX, None))
    pictures = {"image": Image.fromarray(sample.image)}
    if sample.mask is not None:
        pictures["classes"] = class_picture(sample.image, torch.from_numpy(sample.mask), data.class_names)
    if sample.boxes is not None:
        names = data.box_class_names if isinstance(data, ObjectDataset) else data.class_names
        pictures["boxes"] = box_picture(sample.image, sample.boxes, names)
    if sample.depth_m is not None:
        pictures["depth"] = depth_picture(torch.from_numpy(sample.depth_m))
    return label, pictures
