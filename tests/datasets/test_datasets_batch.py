"""Batches of samples, and data sets with transforms: the same numbers in any worker and in any order."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader

from tadp.datasets import (
    Augmented,
    Batch,
    PadTo,
    PhotometricDistortion,
    RandomCrop,
    RandomFlip,
    RandomResize,
    RenderedScenes,
    Sample,
    collate,
)
from tadp.images.boxes import Boxes

SCENES = RenderedScenes(6, 3, size=48)
TRAIN = [RandomResize((0.7, 1.5)), RandomCrop(48, cat_max_ratio=0.9), RandomFlip(), PhotometricDistortion(), PadTo(48)]


def same(left: Sample, right: Sample) -> bool:
    planes = all((getattr(left, name) == getattr(right, name)).all() for name in ("image", "mask", "depth_m"))
    return planes and torch.equal(left.boxes.boxes, right.boxes.boxes) and left.image_id == right.image_id


# Batches


def test_a_batch_holds_what_its_samples_do():
    samples = SCENES[:3]
    batch = collate(samples)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous()
    for index, sample in enumerate(samples):
        assert torch.equal(batch.images[index], torch.from_numpy(sample.image).permute(2, 0, 1) / 255)
        assert torch.equal(batch.masks[index], torch.from_numpy(sample.mask))
        assert torch.equal(batch.depth_m[index], torch.from_numpy(sample.depth_m))
        assert batch.boxes[index] is sample.boxes
    assert batch.captions == [sample.caption for sample in samples]
    assert batch.image_ids == SCENES.image_ids[:3]
    assert len(batch) == 3
    assert repr(batch) == "Batch(3 images, 48x48, captions, masks, depth_m, boxes)"


def test_white_is_one_and_a_batch_has_memory_of_its_own():
    sample = Sample(np.full((4, 6, 3), 255, np.uint8), "a")
    batch = collate([sample])
    assert batch.images.shape == (1, 3, 4, 6)
    assert (batch.images == 1).all()
    assert (batch.captions, batch.masks, batch.depth_m, batch.boxes) == (None, None, None, None)
    assert repr(batch) == "Batch(1 images, 4x6)"
    batch.images.zero_()
    assert (sample.image == 255).all()


def test_depth_that_is_unknown_stays_so():
    depth_m = np.array([[0, np.nan, np.inf, 2]], np.float32)
    batch = collate([Sample(np.zeros((1, 4, 3), np.uint8), "a", depth_m=depth_m)])
    assert np.array_equal(batch.depth_m[0].numpy(), depth_m, equal_nan=True)


def test_images_of_several_sizes_are_refused_with_the_sizes_and_how_to_pad():
    samples = [Sample(np.zeros((*size, 3), np.uint8), "a") for size in ((30, 50), (40, 20), (30, 50))]
    with pytest.raises(
        ValueError, match=r"must have one size; got 30x50, 40x20 \(height x width\). Pad them with PadTo\(\(40, 50\)\)"
    ):
        collate(samples)
    assert collate([PadTo((40, 50))(sample) for sample in samples]).images.shape == (3, 3, 40, 50)


@pytest.mark.parametrize("name", ["caption", "mask", "depth_m", "boxes"])
def test_what_some_samples_lack_is_refused(name):
    samples = [SCENES[0], replace(SCENES[1], **{name: None})]
    with pytest.raises(
        ValueError, match=f"all samples of a batch must have {name}, or none; 'plain-3-000001' lacks it"
    ):
        collate(samples)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="a batch needs at least one sample; got none"):
        collate([])


def test_a_batch_moves_with_all_its_tensors(monkeypatch):
    batch = collate(SCENES[:2])
    calls = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *where, **how: (calls.append((where, how)), self.clone())[1])
    moved = batch.to("cuda:1", non_blocking=True)
    assert calls == [(("cuda:1",), {"non_blocking": True})] * 7  # three planes, boxes and labels of two images
    assert moved.captions == batch.captions
    assert moved.boxes[1].labels is not batch.boxes[1].labels
    assert torch.equal(moved.masks, batch.masks)


def test_a_batch_pins_all_its_tensors(monkeypatch):
    """Pinning is mocked, because it needs a GPU."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: (pinned.append(self), self.clone())[1])
    boxes = Boxes(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([1]), torch.tensor([True]))
    batch = collate([replace(SCENES[0], boxes=boxes)])
    copied = batch.pin_memory()
    assert len(pinned) == 6
    assert copied.boxes[0].difficult is not boxes.difficult
    assert copied.boxes[0].difficult.tolist() == [True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_loader_pins_a_batch():
    (batch,) = DataLoader(SCENES, batch_size=6, collate_fn=collate, pin_memory=True)
    assert isinstance(batch, Batch)
    assert batch.images.is_pinned()
    assert batch.boxes[0].boxes.is_pinned()
    assert batch.to("cuda", non_blocking=True).masks.is_cuda


# Augmented


def test_an_item_depends_on_seed_epoch_and_index_alone():
    train = Augmented(SCENES, TRAIN, seed=5)
    first = [train[index] for index in range(6)]
    assert all(same(train[index], first[index]) for index in (4, 1, 1, 5))
    again = Augmented(RenderedScenes(6, 3, size=48), TRAIN, seed=5)
    assert all(same(left, right) for left, right in zip(again, first, strict=True))
    assert same(again[-1], first[5])
    assert not any(same(left, right) for left, right in zip(Augmented(SCENES, TRAIN, seed=6), first, strict=True))
    train.set_epoch(1)
    assert train.epoch == 1
    assert not any(same(left, right) for left, right in zip(train, first, strict=True))
    train.set_epoch(0)
    assert same(train[3], first[3])


def test_the_same_image_at_two_places_is_not_changed_the_same():
    train = Augmented([SCENES[0], SCENES[0]], TRAIN)
    assert not same(train[0], train[1])


def test_transforms_are_applied_in_order():
    def first(sample, generator):
        return replace(sample, caption=f"{sample.caption} first {generator.integers(1000)}")

    def second(sample, generator):
        return replace(sample, caption=f"{sample.caption} second {generator.integers(1000)}")

    generator = np.random.default_rng((2, 7, 1))
    train = Augmented(SCENES, [first, second], seed=2)
    train.set_epoch(7)
    expected = f"{SCENES[1].caption} first {generator.integers(1000)} second {generator.integers(1000)}"
    assert train[1].caption == expected


def test_workers_make_the_same_and_those_that_live_on_learn_of_the_epoch():
    train = Augmented(SCENES, TRAIN)
    loader = DataLoader(train, batch_size=2, num_workers=2, collate_fn=collate, persistent_workers=True)
    for epoch in (0, 3):
        train.set_epoch(epoch)
        seen = torch.cat([batch.images for batch in loader])
        assert torch.equal(seen, collate(list(train)).images)


def test_pickled_it_draws_the_same():
    train = Augmented(SCENES, TRAIN, seed=1)
    train.set_epoch(2)
    again = pickle.loads(pickle.dumps(train))
    assert again.epoch == 2
    assert same(again[4], train[4])


def test_it_takes_whatever_has_a_length_and_samples():
    both = ConcatDataset([SCENES, RenderedScenes(2, 9, size=48)])
    train = Augmented(both, [RandomFlip(0)])
    assert len(train) == 8
    assert train[7].image_id == "plain-9-000001"
    assert repr(Augmented(SCENES, TRAIN)) == "<<rendered scenes: 6 images> through 5 transforms, seed 0>"


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="a seed must be 0 or more; got -1"):
        Augmented(SCENES, TRAIN, seed=-1)
    with pytest.raises(ValueError, match="an epoch must be 0 or more; got -2"):
        Augmented(SCENES, TRAIN).set_epoch(-2)
    for index in (6, -7):
        with pytest.raises(IndexError, match=f"image {index} of 6"):
            Augmented(SCENES, TRAIN)[index]
