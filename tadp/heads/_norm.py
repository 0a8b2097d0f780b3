"""Normalisation in heads: by batch, as the paper's heads do it, or by groups of channels, for small batches."""

from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn

from tadp.files.checks import check_choice

Norm: TypeAlias = Literal["batch", "group"]


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Batch normalisation, or group normalisation in up to 32 groups.

    Raises:
        ValueError: If `norm` is neither.
    """
    check_choice(norm, get_args(Norm), name="norm")
    return nn.BatchNorm2d(channels) if norm == "batch" else group_norm(channels, most_groups=32)


def group_norm(channels: int, *, most_groups: int) -> nn.GroupNorm:
    """Group normalisation in as many groups of two channels or more as divide the channels."""
    fitting = [groups for groups in range(1, most_groups + 1) if channels % groups == 0 and channels // groups >= 2]
    return nn.GroupNorm(max(fitting, default=1), channels)


def check_batch(module: nn.Module, maps: Tensor, *, level: int, instead: str = "norm='group'") -> None:
    """Refuse to take batch statistics of a single value a channel.

    Raises:
        ValueError: If the maps have one cell in all.
    """
    trains = any(isinstance(one, nn.BatchNorm2d) and one.training for one in module.modules())
    if not trains or maps[:, 0].numel() > 1:
        return
    raise ValueError(
        f"batch statistics take more than one value a channel; level {level} has one image of one cell. Train with "
        f"larger images or larger batches, build the head with {instead}, or call head.eval()."
    )
