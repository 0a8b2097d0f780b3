"""What of a module trains, as an optimiser takes it."""

from itertools import chain
from typing import Any

from torch import Tensor, nn


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


def first_parameter(module: nn.Module) -> Tensor:
    """One that tells device and dtype; also of a replica of `nn.DataParallel`, which has no `parameters()`."""
    former = (vars(part).get("_former_parameters", {}).values() for part in module.modules())
    return next(chain(module.parameters(), chain.from_iterable(former)))
