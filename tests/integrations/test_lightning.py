"""Lightning converts the tensors of a batch with `apply_to_collection`, and moves a batch by its `to`."""

import dataclasses

import torch
from integrations import BATCH
from lightning_utilities.core.apply_func import apply_to_collection

from tadp.datasets import Batch


def test_a_batch_survives_the_conversion_of_bf16_true():
    def halved(tensor):
        return tensor.bfloat16() if tensor.is_floating_point() else tensor

    batch = apply_to_collection(BATCH, torch.Tensor, halved)
    assert isinstance(batch, Batch)
    assert (batch.images.dtype, batch.masks.dtype) == (torch.bfloat16, torch.int64)
    assert BATCH.images.dtype == torch.float32
    assert (batch.captions, batch.image_ids) == (BATCH.captions, BATCH.image_ids)
    for boxes, original in zip(batch.boxes, BATCH.boxes, strict=True):
        assert boxes.boxes.dtype == torch.bfloat16
        assert torch.equal(boxes.labels, original.labels)
    plain = dataclasses.replace(BATCH, boxes=None, depth_m=None)
    assert apply_to_collection(plain, torch.Tensor, halved).depth_m is None
    assert repr(batch) == repr(BATCH)
