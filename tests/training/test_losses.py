import math

import numpy as np
import pytest
import torch

from tadp.training import losses


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int, classes: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def masks() -> torch.Tensor:
    """Masks of two images, 7 by 3, with five classes. A part is ignored, a larger part in the second image."""
    masks = labels(2, 7, 3)
    masks[0, 0], masks[1, :4] = 255, 255
    return masks


MASK_LOSSES = [losses.cross_entropy, losses.focal]


# Masks


def test_cross_entropy_is_the_mean_over_labelled_pixels(masks):
    logits = random(2, 5, 7, 3, scale=3)
    loss = losses.cross_entropy(logits, masks)
    values = logits.numpy().astype(np.float64)
    by_hand = []
    for image, row, column in np.argwhere(masks.numpy() != 255):
        scores = values[image, :, row, column]
        by_hand.append(np.log(np.exp(scores).sum()) - scores[masks[image, row, column]])
    assert float(loss) == pytest.approx(np.mean(by_hand), rel=1e-6)


def test_focal_loss_is_torchvisions_for_one_class_against_the_rest(masks):
    from torchvision.ops import sigmoid_focal_loss

    logits = random(2, 5, 7, 3, scale=3)
    for gamma in (0.0, 1.0, 2.0, 3.5):
        pixels = logits.permute(0, 2, 3, 1)[masks != 255]
        truth = torch.nn.functional.one_hot(masks[masks != 255], 5).float()
        expected = sigmoid_focal_loss(pixels, truth, alpha=-1, gamma=gamma).sum(dim=1).mean()
        torch.testing.assert_close(losses.focal(logits, masks, gamma=gamma), expected)


def test_a_larger_gamma_makes_easy_pixels_weigh_less():
    masks = torch.tensor([[[0, 0]]])
    logits = torch.tensor([[[[4.0, -1.0]], [[-4.0, 1.0]]]], requires_grad=True)  # the first is right, the second wrong
    shares = []
    for gamma in (0.0, 1.0, 2.0, 5.0):
        (gradient,) = torch.autograd.grad(losses.focal(logits, masks, gamma=gamma), logits)
        easy, hard = gradient.abs().sum(dim=1).flatten().tolist()
        shares.append(easy / hard)
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 1e-6 < shares[0]


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_ignored_pixels_have_no_influence(loss, masks):
    logits = random(2, 5, 7, 3).requires_grad_()
    value = loss(logits, masks)
    value.backward()
    assert logits.grad is not None
    ignored = (masks == 255).unsqueeze(1).expand_as(logits)
    assert logits.grad[ignored].abs().max() == 0
    assert logits.grad[~ignored].abs().min() > 0
    changed = torch.where(ignored, torch.full_like(logits, 1e4), logits)
    torch.testing.assert_close(loss(changed, masks), value)


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_a_batch_without_labels_gives_zero_and_a_gradient(loss):
    logits = random(2, 5, 4, 4).requires_grad_()
    value = loss(logits, torch.full((2, 4, 4), 255))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_the_ignored_label_can_be_another(loss, masks):
    logits = random(2, 5, 7, 3)
    negative = torch.where(masks == 255, -1, masks)
    assert torch.equal(loss(logits, negative, ignore_label=-1), loss(logits, masks))


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_masks_of_bytes_are_taken(loss, masks):
    logits = random(2, 5, 7, 3)
    assert torch.equal(loss(logits, masks.to(torch.uint8)), loss(logits, masks))


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_losses_of_half_precision_logits_are_computed_in_float32(loss, masks):
    logits = random(2, 5, 7, 3).bfloat16()
    value = loss(logits, masks)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(logits.float(), masks))
    assert loss(logits.double(), masks).dtype == torch.float64


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_extreme_logits_give_finite_losses(loss):
    logits = torch.tensor([-1e4, 1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    for label in range(3):
        value = loss(logits, torch.full((1, 1, 1), label))
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_a_gamma_under_one_keeps_the_gradient_finite():
    logits = torch.tensor([-1e4, 1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(losses.focal(logits, torch.ones(1, 1, 1).long(), gamma=0.5), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", MASK_LOSSES)
@pytest.mark.parametrize("label", [5, 254, -1])
def test_a_label_outside_the_classes_is_named_with_its_place(loss, label, masks):
    masks[1, 6, 2] = label
    expected = rf"must be 0 to 4 for 5 classes, or 255 for ignored pixels; got {label} in image 1, row 6, column 2"
    with pytest.raises(ValueError, match=expected):
        loss(random(2, 5, 7, 3), masks)


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_masks_of_another_size_are_refused(loss):
    expected = r"same size; got \(2, 5, 8, 8\) and \(2, 16, 16\). Resize the logits, or resize the masks with nearest"
    with pytest.raises(ValueError, match=expected):
        loss(random(2, 5, 8, 8), labels(2, 16, 16))
    with pytest.raises(ValueError, match=r"got \(2, 5, 8, 8\) and \(1, 8, 8\)"):
        loss(random(2, 5, 8, 8), labels(1, 8, 8))


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_an_ignored_label_that_is_a_class_is_refused(loss):
    with pytest.raises(ValueError, match=r"ignore_label must not be a class; got 255 for 300 classes. Use a negative"):
        loss(random(1, 300, 2, 2), labels(1, 2, 2))


def test_a_negative_gamma_is_refused(masks):
    with pytest.raises(ValueError, match=r"gamma must be 0 or more; got -1.0"):
        losses.focal(random(2, 5, 7, 3), masks, gamma=-1.0)


# Depth


def depths(*shape: int, seed: int = 0) -> torch.Tensor:
    return random(*shape, seed=seed, scale=0.5).exp() * 3


@pytest.mark.parametrize("variance_focus", [0.0, 0.5, 0.85, 1.0])
def test_silog_is_what_its_formula_says(variance_focus):
    depth, target = depths(2, 5, 7), depths(2, 5, 7, seed=1)
    target[0, :2] = 0
    loss = losses.silog(depth, target, variance_focus=variance_focus)
    pairs = [(p, t) for p, t in zip(depth.flatten().tolist(), target.flatten().tolist(), strict=True) if t > 0]
    d = [math.log(t) - math.log(p) for p, t in pairs]
    mean = sum(d) / len(d)
    expected = math.sqrt(sum(x * x for x in d) / len(d) - variance_focus * mean**2)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_default_is_the_released_one():
    depth, target = depths(2, 5, 7), depths(2, 5, 7, seed=1)
    assert torch.equal(losses.silog(depth, target), losses.silog(depth, target, variance_focus=0.5))


def test_at_full_focus_a_factor_costs_nothing():
    target = depths(2, 5, 7)
    assert float(losses.silog(2 * target, target, variance_focus=1.0)) < 1e-3
    assert float(losses.silog(2 * target, target, variance_focus=0.0)) == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("unknown", [0.0, -1.0, float("nan"), float("inf"), float("-inf")])
def test_unknown_depth_does_not_count(unknown):
    depth, target = depths(2, 5, 7).requires_grad_(), depths(2, 5, 7, seed=1)
    target[1] = unknown
    value = losses.silog(depth, target)
    value.backward()
    assert depth.grad is not None
    torch.testing.assert_close(value, losses.silog(depth[:1], target[:1]))
    assert depth.grad[1].abs().max() == 0
    assert depth.grad[0].abs().min() > 0
    assert depth.grad.isfinite().all()


@pytest.mark.parametrize("unknown", [0.0, float("nan"), float("inf")])
def test_a_batch_without_known_depth_gives_zero_and_a_gradient(unknown):
    depth = depths(2, 5, 7).requires_grad_()
    value = losses.silog(depth, torch.full((2, 5, 7), unknown))
    value.backward()
    assert value.item() == 0
    assert depth.grad is not None
    assert depth.grad.abs().max() == 0


def test_a_perfect_prediction_costs_nothing_and_keeps_its_gradient_finite():
    target = depths(2, 5, 7)
    depth = target.clone().requires_grad_()
    value = losses.silog(depth, target)
    value.backward()
    assert value.item() == 0
    assert depth.grad is not None
    assert depth.grad.isfinite().all()


def test_a_prediction_of_zero_is_finite():
    depth = depths(1, 2, 2)
    depth[0, 0, 0] = 0
    depth.requires_grad_()
    value = losses.silog(depth, depths(1, 2, 2, seed=1))
    value.backward()
    assert value.isfinite()
    assert depth.grad is not None
    assert depth.grad.isfinite().all()


def test_a_prediction_that_is_no_number_shows():
    """NaN is passed on, so that training can stop at the first loss that is not finite."""
    depth = depths(1, 2, 2)
    depth[0, 0, 0] = float("nan")
    assert losses.silog(depth, depths(1, 2, 2, seed=1)).isnan()


def test_silog_of_half_precision_is_computed_in_float32():
    depth, target = depths(2, 5, 7).bfloat16(), depths(2, 5, 7, seed=1)
    value = losses.silog(depth, target)
    assert value.dtype == torch.float32
    assert torch.equal(value, losses.silog(depth.float(), target))


def test_negative_predictions_are_refused():
    depth = depths(1, 2, 2)
    depth[0, 1, 1] = -3.25
    with pytest.raises(ValueError, match=r"predicted depth must not be negative; got -3.25 m"):
        losses.silog(depth, depths(1, 2, 2))


@pytest.mark.usefixtures("no_type_checker")
def test_depth_of_another_size_is_refused():
    with pytest.raises(
        ValueError,
        match=r"must both be depth in metres, \(B, H, W\); got \(2, 5, 7\) and \(2, 10, 14\). Resize the prediction",
    ):
        losses.silog(depths(2, 5, 7), depths(2, 10, 14))
    with pytest.raises(ValueError, match=r"got \(2, 1, 5, 7\) and \(2, 1, 5, 7\).*drop a channel axis with \[:, 0\]"):
        losses.silog(depths(2, 1, 5, 7), depths(2, 1, 5, 7))


@pytest.mark.parametrize("variance_focus", [-0.1, 1.1, float("nan")])
def test_a_focus_outside_its_range_is_refused(variance_focus):
    with pytest.raises(ValueError, match=rf"variance_focus must be in \[0, 1\]; got {variance_focus}"):
        losses.silog(depths(1, 2, 2), depths(1, 2, 2), variance_focus=variance_focus)


@pytest.mark.parametrize("loss", MASK_LOSSES)
def test_mask_gradients_are_right(loss, masks):
    logits = random(2, 5, 7, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: loss(values, masks), logits)


def test_silog_gradients_are_right():
    target = depths(1, 3, 4, seed=1).double()
    target[0, 0, 0] = float("nan")
    assert torch.autograd.gradcheck(
        lambda depth: losses.silog(depth, target), depths(1, 3, 4).double().requires_grad_()
    )
