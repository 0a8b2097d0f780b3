import math
import pickle

import numpy as np
import pytest
import torch

from tadp.metrics import MeanIoU, caption_alignment

K, IGNORED = 5, 255


def random_batch(seed=0, images=4, size=(13, 17)):
    """Logits, and masks with ignored pixels. Class 4 is in neither, and class 3 is only predicted."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, K, *size, generator=generator)
    logits[:, 4] = -100
    masks = torch.randint(0, 3, (images, *size), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.2] = IGNORED
    return logits, masks


def counted(metric, logits, masks):
    metric.update(logits, masks)
    return metric.compute()


def test_figures_are_those_of_sets_of_pixels():
    """An independent oracle: the pixels of each class as sets of positions."""
    logits, masks = random_batch()
    result = counted(MeanIoU(K), logits, masks)
    guess, truth = logits.argmax(1).numpy(), masks.numpy()
    places = [place for place in np.ndindex(truth.shape) if truth[place] != IGNORED]
    ious, accuracies = [], []
    for k in range(K):
        guessed = {place for place in places if guess[place] == k}
        true = {place for place in places if truth[place] == k}
        ious += [len(guessed & true) / len(guessed | true)] if guessed | true else []
        accuracies += [len(guessed & true) / len(true)] if true else []
        assert result.iou[str(k)] == pytest.approx(ious[-1] if guessed | true else math.nan, nan_ok=True)
        assert result.accuracy[str(k)] == pytest.approx(accuracies[-1] if true else math.nan, nan_ok=True)
    assert len(ious) == 4  # class 3 is only predicted, and counts as 0; class 4 does not occur
    assert len(accuracies) == 3
    assert result.iou["3"] == 0
    assert result.miou == pytest.approx(sum(ious) / 4)
    assert result.mean_accuracy == pytest.approx(sum(accuracies) / 3)
    assert result.pixel_accuracy == pytest.approx(sum(guess[place] == truth[place] for place in places) / len(places))
    assert result.pixels == len(places)


def test_the_mean_over_classes_is_that_of_mmsegs_nanmean():
    logits, masks = random_batch()
    valid = masks != IGNORED
    guess, truth = logits.argmax(1)[valid], masks[valid]
    areas = [torch.histc(pixels.float(), bins=K, min=0, max=K - 1) for pixels in (guess[guess == truth], guess, truth)]
    with np.errstate(invalid="ignore"):
        expected = np.nanmean((areas[0] / (areas[1] + areas[2] - areas[0])).numpy())
    assert counted(MeanIoU(K), logits, masks).miou == pytest.approx(expected, rel=1e-6)


def test_class_maps_count_as_their_logits():
    logits, masks = random_batch()
    assert repr(counted(MeanIoU(K), logits.argmax(1), masks)) == repr(counted(MeanIoU(K), logits, masks))


def test_one_by_one_in_batches_and_merged_are_equal():
    logits, masks = random_batch()
    whole, single, left, right = (MeanIoU(K) for _ in range(4))
    whole.update(logits, masks)
    for image_logits, mask in zip(logits, masks, strict=True):
        single.update(image_logits[None], mask[None])
    left.update(logits[:1], masks[:1])
    right.update(logits[1:], masks[1:])
    left.merge(pickle.loads(pickle.dumps(right)))
    for metric in (single, left):
        assert torch.equal(metric.confusion, whole.confusion)
        assert str(metric.compute()) == str(whole.compute())
        assert metric.images == whole.images == 4
    assert right.images == 3  # unchanged


def test_images_of_several_sizes_add_up():
    metric = MeanIoU(2)
    metric.update(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 1, 0]]]))
    metric.update(torch.tensor([[[1], [1]]]), torch.tensor([[[1], [0]]]))
    assert metric.confusion.tolist() == [[1, 2], [0, 2]]
    assert metric.compute().iou == {"0": pytest.approx(1 / 3), "1": pytest.approx(2 / 4)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_any_dtype(dtype):
    logits, masks = random_batch()
    rounded = logits.to(dtype)
    expected = counted(MeanIoU(K), rounded.float().argmax(1), masks)
    assert repr(counted(MeanIoU(K), rounded, masks)) == repr(expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16])
def test_masks_and_class_maps_of_any_integers(dtype):
    logits, masks = random_batch()
    expected = counted(MeanIoU(K), logits, masks)
    assert repr(counted(MeanIoU(K), logits.argmax(1).to(dtype), masks.to(dtype))) == repr(expected)


def test_counts_are_exact_past_two_to_the_24():
    metric = MeanIoU(2)
    metric.confusion[0, 0] = 2**24
    metric.update(torch.tensor([[[0]]]), torch.tensor([[[0]]]))
    assert metric.compute().pixels == 2**24 + 1


def test_another_ignored_label_and_any_prediction_there():
    metric = MeanIoU(2, ignore_label=-1)
    metric.update(torch.tensor([[[0, 99]]]), torch.tensor([[[0, -1]]]))
    assert metric.compute().pixels == 1


def test_the_logits_gradient_and_values_are_left_alone():
    logits, masks = random_batch()
    before = logits.clone()
    logits.requires_grad_()
    metric = MeanIoU(K)
    metric.update(logits, masks)
    assert torch.equal(logits.detach(), before)
    assert not metric.confusion.requires_grad


def test_a_result_reads_as_a_table():
    metric = MeanIoU(["ground", "dining table", "cat"])
    metric.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 0, 0, 255]]]))
    lines = str(metric.compute()).splitlines()
    assert lines[0] == "mIoU 33.33 %, pixel accuracy 66.67 %, mean accuracy 66.67 %, 3 pixels"
    assert lines[2:] == [
        "ground          66.67    66.67",
        "dining table     0.00        -",
        "cat                 -        -",
    ]
    assert repr(metric.compute()).startswith("MeanIoUResult(miou=0.3333, pixel_accuracy=0.6667")


@pytest.mark.parametrize("convert", [lambda maps: maps, lambda maps: maps.numpy()])
def test_single_images_and_arrays_count_like_batches(convert):
    generator = torch.Generator().manual_seed(3)
    logits, masks = torch.randn(2, K, 5, 7, generator=generator), torch.randint(0, K, (2, 5, 7), generator=generator)
    masks[0, 0] = 255
    batch, single, classes = (MeanIoU([f"class {label}" for label in range(K)]) for _ in range(3))
    batch.update(convert(logits), convert(masks.to(torch.uint8)))
    for image, mask in zip(logits, masks, strict=True):
        single.update(convert(image), convert(mask))
        classes.update(convert(image.argmax(0)), convert(mask))
    assert repr(batch.compute()) == repr(single.compute()) == repr(classes.compute())
    assert batch.images == single.images == classes.images == 2
    assert torch.equal(batch.confusion, single.confusion)


def test_torchmetrics_agrees():
    classification = pytest.importorskip("torchmetrics.classification")
    generator = torch.Generator().manual_seed(4)
    predicted, masks = torch.randint(0, K, (2, 3, 16, 20), generator=generator)
    masks[:, 3:5] = 255
    metric = MeanIoU(K)
    metric.update(predicted, masks)
    result = metric.compute()
    iou = classification.MulticlassJaccardIndex(K, average=None, ignore_index=255)(predicted, masks)
    accuracy = classification.MulticlassAccuracy(K, average="micro", ignore_index=255)(predicted, masks)
    assert list(result.iou.values()) == pytest.approx(iou.tolist(), rel=1e-6)
    assert result.miou == pytest.approx(iou.mean().item(), rel=1e-6)
    assert result.pixel_accuracy == pytest.approx(accuracy.item(), rel=1e-6)


def test_lists_are_refused_by_name(no_type_checker):
    with pytest.raises(TypeError, match="predictions must be a tensor or a NumPy array; got list"):
        MeanIoU(2).update([[0]], MASK)


MASK = torch.zeros(2, 4, 6, dtype=torch.int64)


@pytest.mark.parametrize(
    ("predictions", "masks", "error", "message"),
    [
        (MASK, MASK + 13, ValueError, r"mask 0 of the batch has label 13 at row 0, column 0; the labels of 3 classes"),
        (MASK, MASK - 1, ValueError, r"has label -1 .* 0 to 2 or 255 \(ignored\). Map labels to classes"),
        (MASK + 7, MASK, ValueError, "prediction 0 of the batch has label 7"),
        (torch.zeros(2, 3, 8, 6), MASK, ValueError, "same size; got 2 of 8x6 and 2 of 4x6. Resize the logits"),
        (MASK[:1], MASK, ValueError, "got 1 of 4x6 and 2 of 4x6"),
        (torch.zeros(2, 4, 4, 6), MASK, ValueError, "one channel per class; got 4 channels for 3 classes"),
        (torch.zeros(3, 4, 6), MASK, ValueError, r"float logits .* or integer class maps .*; got torch.float32 \(3, 4"),
        (MASK, MASK.float(), TypeError, "masks must be integers .*; got torch.float32. Convert them with .long()"),
        (MASK, MASK.bool(), TypeError, "masks must be integers .*; got torch.bool"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_not_counted(predictions, masks, error, message, no_type_checker):
    metric = MeanIoU(3)
    with pytest.raises(error, match=message):
        metric.update(predictions, masks)
    assert metric.images == 0
    assert metric.confusion.sum() == 0


def test_a_wrong_label_is_found_where_it_is():
    masks = MASK.clone()
    masks[1, 2, 5] = 150
    with pytest.raises(ValueError, match="mask 1 of the batch has label 150 at row 2, column 5"):
        MeanIoU(3).update(MASK, masks)


def test_logits_with_nan_are_refused_by_image():
    logits = torch.zeros(2, 3, 4, 6)
    logits[1, 2, 3, 3] = math.nan
    with pytest.raises(ValueError, match="logits must not be NaN; those of image 1 of the batch contain NaN"):
        MeanIoU(3).update(logits, MASK)


def test_nothing_counted_is_no_figure():
    metric = MeanIoU(3)
    with pytest.raises(ValueError, match="no pixel was counted: all pixels of the 0 images"):
        metric.compute()
    metric.update(MASK, MASK + 255)
    with pytest.raises(ValueError, match="all pixels of the 2 images so far have the ignored label 255"):
        metric.compute()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classes": 0}, ValueError, "classes must be 1 or more; got 0"),
        ({"classes": ["a", "a"]}, ValueError, "class names must be unique; 'a' is class 0 and 1"),
        ({"classes": "abc"}, TypeError, r"got the string 'abc'. Pass \['abc'\]"),
    ],
)
def test_classes_that_cannot_be_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        MeanIoU(**arguments)


def test_only_like_merges_with_like(no_type_checker):
    with pytest.raises(ValueError, match="the same ignore_label; got 255 and -1"):
        MeanIoU(3).merge(MeanIoU(3, ignore_label=-1))
    with pytest.raises(ValueError, match="the same class_names"):
        MeanIoU(3).merge(MeanIoU(2))
    with pytest.raises(TypeError, match="a MeanIoU only merges with another; got str"):
        MeanIoU(3).merge("another")


def test_a_name_that_metrics_lack_is_refused_with_those_there_are():
    import tadp.metrics

    assert tadp.metrics.caption_alignment is caption_alignment
    with pytest.raises(
        AttributeError, match="has no attribute 'IoU'; it has COCO_IOUS, Agreement, BoxesAbove, COCODetection"
    ):
        _ = tadp.metrics.IoU
    for name in tadp.metrics.__all__:
        assert getattr(tadp.metrics, name) is not None


@pytest.mark.parametrize(("classes", "label"), [(2, 1), (["ground", "dog"], 0), (300, 255)])
def test_a_class_is_not_ignored(classes, label):
    with pytest.raises(ValueError, match=rf"ignore_label must not be a class; got {label} for \d+ classes\. Use a neg"):
        MeanIoU(classes, ignore_label=label)
    assert MeanIoU(classes, ignore_label=-1).ignore_label == -1
