"""Learning-rate schedules, the paper's settings by name, and parameter groups for an optimiser.

    schedule = get_schedule("ade20k-8k")
    groups = model.parameter_groups(
        schedule.lr, unet_scale=schedule.unet_scale, weight_decay=schedule.weight_decay, groups=schedule.groups
    )
    optimizer = torch.optim.AdamW(groups, lr=schedule.lr)
    steps = schedule.total_steps(len(data))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.lr_factor(step, total_steps=steps))

The numbers come from the paper's released code, and `source` names the file. Where the released code does not do what
its settings say, the schedule here does what the code does, and `note` explains the difference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from torch import nn

from tadp.files.checks import check_choice, check_counts, check_numbers, check_whole

Shape = Literal["poly", "rise_and_fall", "constant"]
Groups = Literal["matrices", "released"]
FUSED_ADAM = ("cpu", "cuda", "mps", "xpu")  # devices with a fused AdamW, which updates all weights in one kernel


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The length of a training run, its batch size and its learning rates.

    Attributes:
        steps: Number of optimiser steps of the run. Set either this or `epochs`.
        epochs: Number of times that the run goes through the data. Set either this or `steps`.
        batch: Number of images per step, summed over all processes and accumulated batches.
        lr: Highest learning rate of the head.
        unet_scale: Learning rate of the U-Net, as a fraction of that of the head.
        weight_decay: AdamW's weight decay of those parameters to which the rule in `groups` gives one.
        groups: Rule for weight decay. "matrices": matrices and kernels, but no norms and biases; the whole
            U-Net trains at `unet_scale`. "released": all but the norms of the U-Net's attention blocks, and these train
            at the head's learning rate, as the paper's segmentation and detection code does in effect.
        shape: How the learning rate changes during the run, where progress goes from 0 to 1. "poly" falls as
            (1 - progress)^power. "rise_and_fall" rises as progress^power for half of the epochs, rounded down, and then
            falls as 1 - progress^power for as many; if an epoch is left over, the rate stays at the minimum in it.
            "constant" does not change.
        power: Exponent of the curves "poly" and "rise_and_fall"; 1 is a straight line.
        min_lr: Lowest learning rate of the head in these two curves. That of the U-Net is `unet_scale` times as high.
        warmup_steps: Number of steps at the start during which the learning rate is multiplied by a factor that grows
            linearly from `warmup_ratio` to 1.
        warmup_ratio: Factor of the learning rate at the first step of the warm-up.
        stretch: Ratio of the length of the curve to the length of the run. If it is above 1, the run ends before the
            learning rate has reached the end of the curve.
        source: The file of the paper's released code from which the settings are.
        note: How the schedule differs from the settings in that file, and why.

    Raises:
        ValueError: If both or neither of `steps` and `epochs` are set, or a number is out of its range.

    Example:
        >>> schedule = Schedule(steps=100, batch=8, lr=1e-3, warmup_steps=10)
        >>> [round(schedule.lr_factor(step), 3) for step in (0, 5, 10, 50, 100)]
        [0.0, 0.475, 0.9, 0.5, 0.0]
    """

    steps: int | None = None
    epochs: int | None = None
    batch: int
    lr: float
    unet_scale: float = 0.1
    weight_decay: float = 5e-3
    groups: Groups = "matrices"
    shape: Shape = "poly"
    power: float = 1.0
    min_lr: float = 0.0
    warmup_steps: int = 0
    warmup_ratio: float = 1e-6
    stretch: float = 1.0
    source: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"set either steps or epochs; got {self.steps} and {self.epochs}.")
        check_counts(batch=self.batch)
        check_whole(self.warmup_steps, name="warmup_steps", minimum=0)
        for name in ("steps", "epochs"):
            if getattr(self, name) is not None:
                check_whole(getattr(self, name), name=name)
        names = ("lr", "unet_scale", "weight_decay", "power", "min_lr", "warmup_ratio", "stretch")
        check_numbers(**{name: getattr(self, name) for name in names})
        check_choice(self.groups, get_args(Groups), name="groups")
        check_choice(self.shape, get_args(Shape), name="shape")
        if not 0 <= self.min_lr <= self.lr or self.lr <= 0:
            raise ValueError(f"lr must be over 0, and min_lr from 0 to lr; got lr {self.lr} and min_lr {self.min_lr}.")
        if self.unet_scale < 0 or self.weight_decay < 0:
            raise ValueError(
                f"unet_scale and weight_decay must be 0 or more; got {self.unet_scale} and {self.weight_decay}."
            )
        if self.stretch < 1 or self.warmup_steps < 0 or self.power <= 0:
            raise ValueError(
                f"stretch must be at least 1, warmup_steps at least 0, and power over 0; got {self.stretch}, "
                f"{self.warmup_steps} and {self.power}."
            )

    def steps_per_epoch(self, images: int) -> int:
        """Return the number of whole batches in an epoch. Images that do not fill a batch are left out of the epoch.

        Args:
            images: Number of training images.

        Raises:
            ValueError: If there are fewer images than a batch has.
        """
        if images < self.batch:
            raise ValueError(f"{images} images do not fill a batch of {self.batch}; use a smaller batch.")
        return images // self.batch

    def total_steps(self, images: int) -> int:
        """Return the number of optimiser steps of the whole run.

        Args:
            images: Number of training images.

        Raises:
            ValueError: If there are fewer images than a batch has.

        Example:
            >>> get_schedule("nyu-25-epochs").total_steps(24231)
            25225
        """
        steps_per_epoch = self.steps_per_epoch(images)
        return self.steps if self.steps is not None else (self.epochs or 0) * steps_per_epoch

    def lr_factor(self, step: int, *, total_steps: int | None = None) -> float:
        """Return the factor by which the learning rate `lr` is multiplied at a step.

        Args:
            step: Number of the step that is about to be taken, counted from 0.
            total_steps: Number of steps of the run, as the method `total_steps` returns it. It can be None if the
                schedule has `steps` rather than `epochs`.

        Raises:
            ValueError: If the schedule has `epochs`, and `total_steps` is None.
        """
        total = self.steps if total_steps is None else total_steps
        if total is None:
            raise ValueError(f"this schedule counts epochs ({self.epochs}); pass total_steps=schedule.total_steps(n).")
        curve = self._curve(step, total * self.stretch)
        factor = (self.min_lr + (self.lr - self.min_lr) * curve) / self.lr
        if step < self.warmup_steps:
            factor *= self.warmup_ratio + (1 - self.warmup_ratio) * step / self.warmup_steps
        return factor

    def _curve(self, step: int, total: float) -> float:
        """The height of the curve at a step, from 0 to 1."""
        if self.shape == "constant":
            return 1.0
        if self.shape == "poly":
            return max(1 - step / total, 0.0) ** self.power
        # Half of the epochs, rounded down, in steps; the first step is number 1, as in the released loop.
        half = total / 2 if self.epochs is None else total * (self.epochs // 2) / self.epochs
        progress = (step + 1) / max(half, 1)
        return progress**self.power if progress < 1 else max(1 - (progress - 1) ** self.power, 0.0)


_ADE20K = "TADP/mm_configs/seg_ade20k_{}.py; cvpr_experiments/ade_segmentation.sh for two GPUs of 8 images"
_NYU = "train_tadp_depth.py, models/depth/configs/train_options.py, cvpr_experiments/nyuv2_depth.sh"
_NYU_NOTE = (
    "The script passes --layer_decay 0.9, but its optimizer.py does not read it: the only scale is 0.01 for the U-Net."
)
_SCALE_NOTE = (
    "The code sets 'lr_scale' to 0.01 for the U-Net, but neither AdamW nor the training loop reads that key. So the "
    "U-Net trains at the full rate, as here. Norms are found by name, so biases and norms of resnets have weight decay."
)
_NAMES_NOTE = (
    "The code's optimizer goes by names, and its key 'norm' comes before 'unet'. So the norms in the U-Net's attention "
    "blocks train at the full rate, and biases have weight decay, as here."
)
_CITYSCAPES = "TADP/mm_configs/fpn_vpd_sd1-5_citscapes_to_nighttime_512x512_gpu8x2_80k.py"

SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "ade20k-4k": Schedule(
            steps=4_000,
            batch=16,
            lr=1.6e-4,
            warmup_steps=75,
            groups="released",
            note=_NAMES_NOTE,
            source=_ADE20K.format("fast_4k"),
        ),
        "ade20k-8k": Schedule(
            steps=8_000,
            batch=16,
            lr=1.6e-4,
            warmup_steps=150,
            groups="released",
            note=_NAMES_NOTE,
            source=_ADE20K.format("fast_8k"),
        ),
        "ade20k-80k": Schedule(
            steps=80_000,
            batch=16,
            lr=8e-5,
            warmup_steps=1_500,
            groups="released",
            note=_NAMES_NOTE,
            source=_ADE20K.format("full"),
        ),
        "nyu-1-epoch": Schedule(
            epochs=1,
            batch=24,
            lr=5e-4,
            unet_scale=0.01,
            weight_decay=0.1,
            shape="constant",
            source=_NYU,
            note=f"{_NYU_NOTE} The weight decay and batch are those of the script for 25 epochs, as no script is "
            "published for one epoch.",
        ),
        "nyu-25-epochs": Schedule(
            epochs=25,
            batch=24,
            lr=5e-4,
            unet_scale=0.01,
            weight_decay=0.1,
            shape="rise_and_fall",
            power=0.9,
            min_lr=3e-5,
            source=_NYU,
            note=_NYU_NOTE,
        ),
        "pascal-15-epochs": Schedule(
            groups="released",
            epochs=15,
            batch=8,
            lr=1e-5,
            unet_scale=1.0,
            weight_decay=1e-2,
            power=0.9,
            source="TADP/tadp_seg.py, cvpr_experiments/pascal_segmentation.sh: 4 batches of 2",
            note=f"{_SCALE_NOTE} The code's curve takes the number of data sets, 1, for the number of steps; here the "
            "curve spans the run. The code trains a head of segmentation_models_pytorch with the focal loss: pass "
            "head='smp_fpn' and loss='focal' to the model.",
        ),
        "cityscapes-40k": Schedule(
            groups="released",
            steps=40_000,
            batch=8,
            lr=8e-5,
            weight_decay=1e-3,
            warmup_steps=1_500,
            source=_CITYSCAPES,
            note=f"{_NAMES_NOTE} The file for Dark Zurich in the same folder has one image per step.",
        ),
        "cityscapes-80k": Schedule(
            groups="released",
            steps=80_000,
            batch=8,
            lr=8e-5,
            weight_decay=1e-3,
            warmup_steps=1_500,
            source=f"{_CITYSCAPES}; its base, schedule_80k.py, for the steps",
            note=_NAMES_NOTE,
        ),
        "voc-detection-10-epochs": Schedule(
            groups="released",
            epochs=10,
            batch=2,
            lr=1e-5,
            unet_scale=1.0,
            weight_decay=1e-2,
            power=0.9,
            stretch=2.0,
            source="TADP/tadp_objdet.py, cvpr_experiments/cross_domain_runs.sh",
            note=f"{_SCALE_NOTE} The code's curve takes the number of images for the number of batches of 2, so the "
            "run ends half-way down.",
        ),
    }
)


def get_schedule(name: str) -> Schedule:
    """Look up one of the paper's schedules by name.

    Args:
        name: Name of the schedule, such as "ade20k-8k"; a key of `SCHEDULES`.

    Raises:
        ValueError: If `name` is not the name of a schedule.

    Example:
        >>> get_schedule("ade20k-8k").lr
        0.00016
    """
    if name not in SCHEDULES:
        raise ValueError(f"no schedule {name!r}; choose from {', '.join(SCHEDULES)}, or build a Schedule.")
    return SCHEDULES[name]


def decay_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    groups: Groups = "matrices",
    scale: float = 1.0,
    is_norm: Callable[[str], bool] = lambda name: False,
) -> list[dict[str, Any]]:
    """Return the parameter groups of a module, by one of the rules of `Schedule.groups`.

    Args:
        module: The module whose parameters are grouped. Parameters that require no gradient are left out, and so are
            empty groups.
        lr: Learning rate of the head.
        weight_decay: Weight decay of the parameters that have one.
        groups: Rule for the groups, as in `Schedule`.
        scale: Learning rate of this module, as a fraction of `lr`.
        is_norm: Whether a parameter of this name is a norm in the released code. Only "released" uses it.

    Raises:
        OptionError: If there is no such rule.
    """
    check_choice(groups, get_args(Groups), name="groups")
    settings = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if groups == "released":
            setting = (lr, 0.0) if is_norm(name) else (lr * scale, weight_decay)
        else:
            setting = (lr * scale, weight_decay if parameter.ndim > 1 else 0.0)
        settings.setdefault(setting, []).append(parameter)
    # Groups with decay first, so that their order does not depend on the order of the parameters.
    ordered = sorted(settings.items(), key=lambda group: group[0][1], reverse=True)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in ordered]


def is_unet_norm(name: str) -> bool:
    """Whether the released code's optimizer treats a parameter of a diffusers U-Net as a norm.

    It looks for "norm" in the names of the original U-Net. There, the group norms of resnets are called `in_layers.0`
    and `out_layers.0`, and the last one `out.0`, so these count as kernels.

    Example:
        >>> is_unet_norm("mid_block.attentions.0.norm.weight"), is_unet_norm("mid_block.resnets.0.norm1.weight")
        (True, False)
    """
    return "norm" in name and "resnets." not in name and not name.startswith("conv_norm_out.")
