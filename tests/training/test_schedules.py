"""Learning rates, compared with the formulas of the released code and of mmcv."""

import pytest
import torch

from tadp.training.schedules import SCHEDULES, Schedule, get_schedule


def mmcv_poly(step, *, steps, lr, warmup, ratio=1e-6):
    """The rate that mmcv's PolyLrUpdaterHook sets before a step, power 1, with its linear warm-up."""
    regular = lr * (1 - step / steps)
    if step >= warmup:
        return regular
    k = (1 - step / warmup) * (1 - ratio)
    return regular * (1 - k)


def released_depth(global_step, *, iterations, epochs, top=5e-4, bottom=3e-5):
    """The rate of train_tadp_depth.py, which counts steps from 1."""
    if epochs == 1:
        return top
    x = global_step / iterations / (epochs // 2)
    if global_step < iterations * (epochs // 2):
        return (top - bottom) * x**0.9 + bottom
    return max(bottom, (bottom - top) * (x - 1) ** 0.9 + top)


@pytest.mark.parametrize(
    ("name", "lr", "warmup"), [("ade20k-4k", 1.6e-4, 75), ("ade20k-8k", 1.6e-4, 150), ("ade20k-80k", 8e-5, 1500)]
)
def test_segmentation_follows_mmcvs_rule(name, lr, warmup):
    schedule = get_schedule(name)
    steps = {"ade20k-4k": 4_000, "ade20k-8k": 8_000, "ade20k-80k": 80_000}[name]
    assert schedule.total_steps(20_210) == steps
    for step in (0, 1, warmup // 2, warmup - 1, warmup, steps // 2, steps - 1):
        wanted = mmcv_poly(step, steps=steps, lr=lr, warmup=warmup)
        assert schedule.lr * schedule.lr_factor(step) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("name", "epochs"), [("nyu-1-epoch", 1), ("nyu-25-epochs", 25)])
def test_depth_follows_the_released_loop(name, epochs):
    schedule, iterations = get_schedule(name), 1_009
    images = iterations * schedule.batch + 5  # the last five do not fill a batch
    total = schedule.total_steps(images)
    assert total == iterations * epochs
    for step in (0, 1, total // 3, iterations * 12 - 2, iterations * 12 - 1, iterations * 12, total - 2, total - 1):
        if not 0 <= step < total:
            continue
        wanted = released_depth(step + 1, iterations=iterations, epochs=epochs)
        assert schedule.lr * schedule.lr_factor(step, total_steps=total) == pytest.approx(wanted, rel=1e-9)


def test_detection_ends_half_way_down_as_the_released_run_does():
    schedule, images = get_schedule("voc-detection-10-epochs"), 16_551
    total = schedule.total_steps(images)
    assert schedule.lr_factor(0, total_steps=total) == 1
    wanted = (1 - (total - 1) / (images * 10)) ** 0.9  # LambdaLR of tadp_objdet.py, with the number of images
    assert schedule.lr_factor(total - 1, total_steps=total) == pytest.approx(wanted, rel=1e-4)


def test_a_scale_that_adamw_does_not_know_changes_nothing():
    """Pascal and VOC have a U-Net scale of 1, because the released code passes 'lr_scale' to AdamW."""
    moved = []
    for scale in (0.01, 1.0):
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([{"params": [weight], "lr_scale": scale}], lr=1e-5)
        weight.square().sum().backward()
        optimizer.step()
        moved.append(1 - weight[0].item())
    assert moved[0] == moved[1] > 0


def test_every_setting_names_its_source():
    for name, schedule in SCHEDULES.items():
        assert ".py" in schedule.source, name
        total = schedule.total_steps(10_000)
        factors = [schedule.lr_factor(step, total_steps=total) for step in range(0, total, max(total // 200, 1))]
        assert 0 <= min(factors) < max(factors) * 1.0001 <= 1.0001, name


def test_groups_keep_their_ratio_under_lambda_lr():
    schedule = Schedule(steps=10, batch=2, lr=1e-2, warmup_steps=2)
    head, unet = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    groups = [{"params": [head], "lr": schedule.lr}, {"params": [unet], "lr": schedule.lr * schedule.unet_scale}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.lr_factor)
    for step in range(10):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([1e-2 * schedule.lr_factor(step), 1e-3 * schedule.lr_factor(step)])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either steps or epochs; got None and None"),
        ({"steps": 3, "epochs": 1}, "either steps or epochs; got 3 and 1"),
        ({"steps": 0}, "steps must be 1 or more; got 0"),
        ({"steps": 3, "batch": 0}, "batch must be 1 or more; got 0"),
        ({"steps": 3, "lr": 0.0}, "lr must be over 0"),
        ({"steps": 3, "min_lr": 1.0}, "min_lr from 0 to lr; got lr 0.001 and min_lr 1.0"),
        ({"steps": 3, "stretch": 0.5}, "stretch must be at least 1"),
        ({"steps": 3, "lr": float("inf")}, "lr must be a finite number; got inf"),
        ({"steps": 3, "weight_decay": -1.0}, "unet_scale and weight_decay must be 0 or more; got 0.1 and -1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**({"batch": 2, "lr": 1e-3} | options))


def test_an_unknown_shape_is_refused(no_type_checker):
    with pytest.raises(ValueError, match="shape must be one of poly, rise_and_fall, constant; got 'cosine'"):
        Schedule(steps=3, batch=2, lr=1e-3, shape="cosine")  # type: ignore[arg-type]


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match=r"no schedule 'ade20k'; choose from ade20k-4k, .*, or build a Schedule"):
        get_schedule("ade20k")


def test_too_few_images_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="7 images do not fill a batch of 16"):
        get_schedule("ade20k-4k").total_steps(7)


def test_epochs_need_a_total():
    with pytest.raises(ValueError, match=r"counts epochs \(25\); pass total_steps"):
        get_schedule("nyu-25-epochs").lr_factor(3)
