"""Samples from rows as data loaders of other libraries return them, for `collate`."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from tadp.datasets.readers.label_files import check_label_size
from tadp.datasets.readers.rows import picture_of, pixels_of, stored_values
from tadp.datasets.sample import Sample
from tadp.errors import DatasetError
from tadp.images.boxes import Boxes

# Names in a row, in the order of preference. Names with a file suffix are those of webdataset.
_IMAGE = ("image", "jpg", "jpeg", "webp", "png")
_ID = ("image_id", "id", "__key__")
_CAPTION = ("caption", "txt")
_MASK = ("mask", "mask.png", "seg.png", "png")
_DEPTH = ("depth_m",)


def sample_of_row(row: Any, number: int) -> Sample:
    """Read a row: a mapping from names to an image, its caption and its labels.

    Args:
        row: A row of Hugging Face's `datasets`, a sample of webdataset with the bytes of its files, or what a transform
            of torchvision or albumentations returned. A mask has the classes of pixels; `depth_m` is in metres. Boxes
            are a `Boxes`, or (N, 4) as left, top, right and bottom with their classes as "labels". Other entries are
            not used.
        number: The number of the row in its batch, which is its id if it has none.

    Raises:
        DatasetError: If the row is not a mapping or has no image, or a mask or depth differs from the image in size.
        ImageError: If the image cannot be read.
    """
    where = f"row {number} of the batch"
    if not isinstance(row, Mapping):
        raise DatasetError(f"{where} must be a Sample, or a mapping with an image; got {type(row).__name__}.")
    image, *_ = [name for name in _IMAGE if row.get(name) is not None] or [None]
    if image is None:
        raise DatasetError(f"{where} has no image; it must be one of {', '.join(_IMAGE)}; got {', '.join(row)}.")
    pixels, _ = pixels_of(picture_of(row[image], where), f"the image of {where}")
    key = _first(row, _ID)
    caption = _first(row, _CAPTION)
    if isinstance(caption, bytes):
        caption = caption.decode("utf-8", errors="replace")
    sample = Sample(pixels, str(number if key is None else key), caption)
    mask = _first(row, [name for name in _MASK if name != image])
    if mask is not None:
        values = stored_values(mask, f"the mask of {where}").values
        check_label_size(sample, where, values.shape, kind="a mask")
        sample = replace(sample, mask=values.astype("int64"))
    depth = _first(row, _DEPTH)
    if depth is not None:
        values = stored_values(depth, f"the depth of {where}").values
        check_label_size(sample, where, values.shape, kind="depth")
        sample = replace(sample, depth_m=values.astype("float32"))
    return sample if row.get("boxes") is None else replace(sample, boxes=_boxes(row, where))


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _boxes(row: Mapping[str, Any], where: str) -> Boxes:
    boxes = row["boxes"]
    if isinstance(boxes, Boxes):
        return boxes
    if row.get("labels") is None:
        raise DatasetError(f"{where} has boxes without their classes; pass them as its labels.")
    kind = str(getattr(boxes, "format", "XYXY")).rpartition(".")[2]  # torchvision's BoundingBoxes have one
    if kind != "XYXY":
        raise DatasetError(
            f"the boxes of {where} are {kind}; they must be XYXY: v2.ConvertBoundingBoxFormat('XYXY') of torchvision."
        )
    plain = torch.as_tensor(boxes, dtype=torch.float32).as_subclass(torch.Tensor).reshape(-1, 4)
    return Boxes(plain, torch.as_tensor(row["labels"], dtype=torch.int64).as_subclass(torch.Tensor))
