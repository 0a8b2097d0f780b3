"""What of a module trains, as an optimiser takes it."""

from typing import Any

from torch import nn


def decay_groups(module: nn.Module, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of a module: matrices and kernels with decay, norms and biases without.

    Args:
        module: Of which the parameters that require a gradient are taken; a group without any is left out.
        lr: Of both groups.
        weight_decay: Of the first.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = []
    for decay, is_decayed in ((weight_decay, True), (0.0, False)):
        params = [parameter for parameter in trained if (parameter.ndim > 1) == is_decayed]
        if params:
            groups.append({"params": params, "lr": lr, "weight_decay": decay})
    return groups
