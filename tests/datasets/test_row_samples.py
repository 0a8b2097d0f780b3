"""`collate` takes rows as data loaders of other libraries return them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from tadp.datasets import RenderedScenes, Sample, collate
from tadp.errors import DatasetError, ImageError, OptionError, TrainingError
from tadp.trainer import train
from tadp.trainer.run_data import open_parts
from tadp.trainer.train_options import TrainOptions

SCENES = RenderedScenes(2, seed=3, size=64)[:]
EXPECTED = collate(SCENES)


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FORMS = {
    "rows of datasets": lambda one: {
        "image": Image.fromarray(one.image), "id": one.image_id, "caption": one.caption,
        "mask": Image.fromarray(one.mask.astype(np.uint8)),
    },
    "rows of datasets with bytes": lambda one: {
        "image": {"bytes": encoded(one.image), "path": None}, "image_id": one.image_id, "caption": one.caption,
        "mask": {"bytes": encoded(one.mask.astype(np.uint8)), "path": None},
    },
    "webdataset": lambda one: {
        "__key__": one.image_id, "__url__": "a.tar", "png": encoded(one.image), "txt": one.caption.encode(),
        "mask.png": encoded(one.mask.astype(np.uint8)),
    },
    "webdataset, decoded": lambda one: {
        "__key__": one.image_id, "jpg": Image.fromarray(one.image), "txt": one.caption,
        "png": Image.fromarray(one.mask.astype(np.uint8)),
    },
    "webdataset of tensors": lambda one: {
        "__key__": one.image_id, "png": torch.from_numpy(one.image).permute(2, 0, 1) / 255, "txt": one.caption,
        "mask.png": one.mask,
    },
    "tv_tensors": lambda one: {
        "image": tv_tensors.Image(torch.from_numpy(one.image).permute(2, 0, 1)), "image_id": one.image_id,
        "caption": one.caption, "mask": tv_tensors.Mask(torch.from_numpy(one.mask)[None]),
    },
    "albumentations": lambda one: {
        "image": one.image, "mask": one.mask, "image_id": one.image_id, "caption": one.caption, "bboxes": [],
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_other_libraries_give_the_same_batch(form):
    batch = collate([FORMS[form](scene) for scene in SCENES])
    assert torch.equal(batch.images, EXPECTED.images)
    assert torch.equal(batch.masks, EXPECTED.masks)
    assert (batch.image_ids, batch.captions) == (EXPECTED.image_ids, EXPECTED.captions)


def test_depth_boxes_and_transforms_of_torchvision():
    scene = SCENES[0]
    row = {
        "image": tv_tensors.Image(torch.from_numpy(scene.image).permute(2, 0, 1)),
        "depth_m": scene.depth_m,
        "boxes": tv_tensors.BoundingBoxes(scene.boxes.boxes, format="XYXY", canvas_size=scene.image_size),
        "labels": scene.boxes.labels,
    }
    batch = collate([v2.RandomHorizontalFlip(1.0)(row)])
    assert torch.equal(batch.images, EXPECTED.images[:1].flip(3))
    left, _, right, _ = scene.boxes.boxes.T
    assert torch.equal(batch.boxes[0].boxes[:, [0, 2]], torch.stack([64 - right, 64 - left], 1))
    assert type(batch.boxes[0].boxes) is torch.Tensor
    assert torch.equal(batch.depth_m[0], torch.from_numpy(scene.depth_m))
    assert batch.image_ids == ["0"]
    assert collate([row | {"boxes": scene.boxes}]).boxes[0] is scene.boxes
    mixed = collate([Sample(scene.image, "a"), {"image": scene.image}])
    assert mixed.image_ids == ["a", "1"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (5, r"row 0 of the batch must be a Sample, or a mapping with an image; got int"),
        ({"pixels": 1}, r"row 0 of the batch has no image; it must be one of image, jpg, jpeg, webp, png; got pixels"),
        ({"image": np.zeros((8, 8, 3), np.uint8), "mask": np.zeros((4, 8), np.uint8)}, r"row 0 of the batch"),
        ({"image": np.zeros((8, 8, 3), np.uint8), "boxes": torch.zeros(0, 4)}, r"has boxes without their classes"),
        (
            {
                "image": np.zeros((8, 8, 3), np.uint8), "labels": torch.zeros(1),
                "boxes": tv_tensors.BoundingBoxes([[1, 1, 2, 2]], format="XYWH", canvas_size=(8, 8)),
            },
            r"the boxes of row 0 of the batch are XYWH; they must be XYXY: v2.ConvertBoundingBoxFormat",
        ),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_refused(no_type_checker, row, message):
    with pytest.raises(DatasetError, match=message):
        collate([row])
    with pytest.raises(ImageError, match=r"the image of row 0 of the batch"):
        collate([{"image": np.full((8, 8, 3), 2.0)}])


def test_training_on_rows_says_which_data_set_takes_them(tmp_path):
    rows = [{"image": SCENES[0].image, "labels": SCENES[0].mask}]
    for data, names in ((rows, "rows with image, labels"), ({"train": rows}, "parts with train")):
        with pytest.raises(TrainingError, match=rf'got {names}. Pass tadp.datasets.RowDataset\(rows, mask="mask"'):
            train("segmentation", data, tmp_path / "run", model="tadp-tiny")


def test_training_takes_rows_whose_columns_have_the_usual_names(no_type_checker):
    rows = [{"image": scene.image, "mask": scene.mask} for scene in SCENES * 4]
    names = RenderedScenes(1).class_names
    parts = open_parts("segmentation", rows, TrainOptions(class_names=names))
    assert [len(part) for part in (parts.train, parts.val)] == [len(rows) - len(parts.val), len(parts.val)]
    assert list(parts.train.class_names) == list(names)
    sample = parts.train[0]
    assert any(np.array_equal(sample.mask, scene.mask) for scene in SCENES)
    depth = [{"image": scene.image, "depth": scene.depth_m} for scene in SCENES * 4]
    assert open_parts("depth", depth, TrainOptions(scale=1.0)).train.tasks == ("depth",)
    with pytest.raises(TrainingError, match=r"can also be passed as they are, with class_names=\[…\]\.$"):
        open_parts("segmentation", rows, TrainOptions())
    with pytest.raises(OptionError, match=r"images is for a folder that a reader opens, not for rows"):
        open_parts("segmentation", rows, TrainOptions(class_names=names, images="photos"))
