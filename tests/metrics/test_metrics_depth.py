import math
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import torch

from tadp.metrics import DepthMetrics

FIGURES = ("d1", "d2", "d3", "rmse", "abs_rel", "sq_rel", "log10", "rmse_log", "silog")


def random_batch(seed=0, images=3, size=(48, 64)):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0.5, 9.5, (images, *size)).astype(np.float32)
    depth = (target * rng.uniform(0.6, 1.6, target.shape)).astype(np.float32)
    target[rng.random(target.shape) < 0.1] = 0
    return torch.from_numpy(depth), torch.from_numpy(target)


def plainly(depth, target, rows=slice(None), columns=slice(None)):
    """Compute the figures of one image, pixel by pixel."""
    pairs = [
        (min(float(p), 10.0), float(t))
        for p, t in zip(depth[rows, columns].ravel(), target[rows, columns].ravel(), strict=True)
        if 1e-3 < t < 10
    ]
    n = len(pairs)
    logs = [math.log(p / t) for p, t in pairs]
    return {
        **{f"d{k}": sum(1.25**-k < p / t < 1.25**k for p, t in pairs) / n for k in (1, 2, 3)},
        "rmse": math.sqrt(sum((p - t) ** 2 for p, t in pairs) / n),
        "abs_rel": sum(abs(p / t - 1) for p, t in pairs) / n,
        "sq_rel": sum((p - t) ** 2 / t for p, t in pairs) / n,
        "log10": sum(abs(log) for log in logs) / n / math.log(10),
        "rmse_log": math.sqrt(sum(log**2 for log in logs) / n),
        "silog": math.sqrt(sum(log**2 for log in logs) / n - (sum(logs) / n) ** 2 / 2),
    }


def measured(depth, target, **settings):
    metric = DepthMetrics(**settings)
    metric.update(depth, target)
    return metric.compute()


def test_figures_are_means_over_images_of_each_images_own():
    depth, target = random_batch()
    target[0, :40] = 0  # an image with few known pixels weighs as much as the others
    pairs = zip(depth.numpy(), target.numpy(), strict=True)
    figures = [plainly(depth_map, target_map) for depth_map, target_map in pairs]
    result = measured(depth, target)
    for name in FIGURES:
        assert getattr(result, name) == pytest.approx(np.mean([image[name] for image in figures]), rel=1e-9), name
    assert (result.images, result.skipped) == (3, 0)


def test_a_case_by_hand():
    result = measured(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[1.0, 4.0, 2.0]]]))
    assert (result.d1, result.d2, result.d3) == pytest.approx((1 / 3, 2 / 3, 2 / 3))  # ratios 1, 2 and 1.5
    assert result.rmse == pytest.approx(math.sqrt(5 / 3))
    assert result.abs_rel == pytest.approx((0.5 + 0.5) / 3)
    assert result.sq_rel == pytest.approx((4 / 4 + 1 / 2) / 3)


def test_a_prediction_that_is_all_right():
    _, target = random_batch()
    result = measured(target.clamp(min=0.5), target)
    assert (result.d1, result.d2, result.d3) == (1, 1, 1)
    assert [getattr(result, name) for name in FIGURES[3:]] == [0] * 6


def test_silog_takes_half_of_a_common_factor_as_released():
    _, target = random_batch()
    target = target.clamp(0.5, 4)
    assert measured(2 * target, target).silog == pytest.approx(math.log(2) * math.sqrt(0.5), rel=1e-6)


def test_eigens_crop_is_nyus_rows_and_columns():
    depth, target = random_batch(images=1, size=(480, 640))
    outside = torch.ones_like(target, dtype=torch.bool)
    outside[:, 45:471, 41:601] = False
    spoilt = torch.where(outside, depth * 3, depth)
    assert measured(spoilt, target, crop="eigen") == measured(depth, target, crop="eigen")
    for row, column in ((45, 41), (470, 600)):
        changed = depth.clone()
        changed[0, row, column] += 5
        target[0, row, column] = 3.0
        assert measured(changed, target, crop="eigen") != measured(depth, target, crop="eigen")
    inner = plainly(depth[0].numpy(), target[0].numpy(), slice(45, 471), slice(41, 601))
    assert measured(depth, target, crop="eigen").rmse == pytest.approx(inner["rmse"], rel=1e-9)


@pytest.mark.parametrize(
    ("crop", "size", "rows", "columns"),
    [
        ("eigen", (240, 320), slice(22, 235), slice(20, 300)),  # the same share of another size
        ("eigen", (479, 641), slice(44, 470), slice(41, 601)),
        ("garg", (375, 1242), slice(153, 371), slice(44, 1197)),  # int() of the released shares
    ],
)
def test_a_crop_is_a_share_of_the_image(crop, size, rows, columns):
    target = torch.zeros(1, *size)
    target[:, rows, columns] = 2
    depth = torch.ones(1, *size)
    inner = torch.zeros_like(target)
    inner[:, rows, columns] = 1
    assert measured(depth, target, crop=crop).rmse == 1
    metric = DepthMetrics(crop=crop)
    metric.update(depth, (1 - inner) * 2)  # only known outside the crop
    assert (metric.images, metric.skipped) == (0, 1)
    for row in (rows.start, rows.stop - 1):
        for column in (columns.start, columns.stop - 1):
            corner = torch.zeros(1, *size)
            corner[0, row, column] = 2
            assert measured(depth, corner, crop=crop).images == 1


@pytest.mark.parametrize("unknown", [0.0, math.nan, math.inf, -math.inf, -1.0, 10.0, 12.0, 1e-3])
def test_depth_that_is_unknown_or_out_of_bounds_is_not_compared(unknown):
    depth, target = random_batch()
    target[:, :20] = 0
    expected = measured(depth, target)
    target[:, :20] = unknown
    assert measured(depth, target) == expected


def test_predictions_are_brought_between_the_bounds():
    target = torch.full((1, 1, 3), 5.0)
    depth = torch.tensor([[[math.inf, 0.0, -3.0]]])
    assert measured(depth, target) == measured(torch.tensor([[[10, 1e-3, 1e-3]]], dtype=torch.float64), target)
    farther = measured(depth, target, max_depth_m=80.0, min_depth_m=1.0)
    assert farther.rmse == pytest.approx(math.sqrt((75**2 + 2 * 4**2) / 3))


def test_an_image_without_known_depth_is_skipped():
    depth, target = random_batch()
    expected = measured(depth[:2], target[:2])
    target[2] = math.nan
    result = measured(depth, target)
    assert result.skipped == 1
    assert asdict(result) | {"skipped": 0} == asdict(expected)
    assert str(result).endswith("images: 2, and 1 without known depth")


def test_one_by_one_in_batches_and_merged_are_equal():
    depth, target = random_batch(images=5)
    target[3] = 0
    whole, single, left, right = (DepthMetrics() for _ in range(4))
    whole.update(depth, target)
    for depth_map, target_map in zip(depth, target, strict=True):
        single.update(depth_map[None], target_map[None])
    left.update(depth[:1], target[:1])
    right.update(depth[1:], target[1:])
    left.merge(pickle.loads(pickle.dumps(right)))
    assert single.compute() == whole.compute()
    assert asdict(left.compute()) == pytest.approx(asdict(whole.compute()), rel=1e-12)
    assert (left.images, left.skipped, right.images) == (4, 1, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_depth_of_any_dtype_is_compared_in_double_precision(dtype):
    depth, target = random_batch()
    rounded = depth.to(dtype)
    assert measured(rounded, target) == measured(rounded.double(), target.double())


def test_what_is_given_is_left_alone():
    depth, target = random_batch()
    depth[0, 0, 0] = math.inf
    before = depth.clone()
    measured(depth.requires_grad_(), target)
    assert torch.equal(depth.detach(), before)


def test_a_nan_in_a_prediction_names_its_image_and_counts_nothing():
    depth, target = random_batch()
    metric = DepthMetrics()
    metric.update(depth, target)
    depth[1, 0, 0] = math.nan
    target[1, 0, 0] = 0  # a pixel that is not compared
    with pytest.raises(
        ValueError, match=r"predicted depth of image 1 of the batch \(image 4 since the start\) contains NaN"
    ):
        metric.update(depth, target)
    assert metric.images == 3


@pytest.mark.parametrize(
    ("depth", "target", "error", "message"),
    [
        (
            torch.ones(1, 4, 4),
            torch.ones(1, 8, 8),
            ValueError,
            r"one size; got \(1, 4, 4\) and \(1, 8, 8\). Resize",
        ),
        (torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4), ValueError, "leave out a channel axis"),
        (
            torch.ones(1, 4, 4),
            torch.ones(1, 4, 4).int(),
            TypeError,
            "target_m must be metres as floats.*torch.int32. Divide milli",
        ),
        (torch.ones(1, 4, 4).int(), torch.ones(1, 4, 4), TypeError, "depth_m must be metres as floats"),
    ],
)
def test_what_does_not_fit_is_refused(depth, target, error, message, no_type_checker):
    metric = DepthMetrics()
    with pytest.raises(error, match=message):
        metric.update(depth, target)
    assert metric.images == 0


def test_nothing_compared_is_no_figure():
    metric = DepthMetrics(crop="eigen")
    metric.update(torch.ones(2, 48, 64), torch.full((2, 48, 64), 2000.0))  # millimetres
    with pytest.raises(
        ValueError, match=r"none of the 2 images .* between 0.001 and 10 m inside the crop 'eigen'. Depth"
    ):
        metric.compute()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_depth_m": 0.0}, "0 < min_depth_m < max_depth_m; got 0.0 and 10.0"),
        ({"max_depth_m": 1e-4}, "0 < min_depth_m < max_depth_m; got 0.001 and 0.0001"),
        ({"crop": "kitti"}, "crop must be one of eigen, garg, None; got 'kitti'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message, no_type_checker):
    with pytest.raises(ValueError, match=message):
        DepthMetrics(**settings)


def test_only_like_merges_with_like():
    with pytest.raises(ValueError, match="the same crop; got eigen and None"):
        DepthMetrics(crop="eigen").merge(DepthMetrics())
    with pytest.raises(ValueError, match=r"the same max_depth_m; got 10\.0 and 80\.0"):
        DepthMetrics().merge(DepthMetrics(max_depth_m=80.0))


@pytest.mark.parametrize("convert", [lambda maps: maps, lambda maps: maps.numpy()])
def test_single_images_and_arrays_count_like_batches(convert):
    generator = torch.Generator().manual_seed(0)
    depth, truth = 1 + 3 * torch.rand(2, 2, 5, 7, generator=generator)
    batch, single = DepthMetrics(), DepthMetrics()
    batch.update(convert(depth), convert(truth))
    for image, target in zip(depth, truth, strict=True):
        single.update(convert(image), convert(target))
    assert batch.compute() == single.compute()


def test_torchmetrics_agrees():
    """torchmetrics takes the root over all pixels, so one image is compared."""
    regression = pytest.importorskip("torchmetrics.regression")
    depth, truth = 1 + 3 * torch.rand(2, 12, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    metric = DepthMetrics()
    metric.update(depth, truth)
    result = metric.compute()
    assert result.rmse == pytest.approx(regression.MeanSquaredError(squared=False)(depth, truth).item())
    assert result.abs_rel == pytest.approx(regression.MeanAbsolutePercentageError()(depth, truth).item())
    log_error = regression.MeanSquaredError(squared=False)(depth.log().flatten(), truth.log().flatten())
    assert result.rmse_log == pytest.approx(log_error.item())
