"""Refuse weights whose values cannot be used: NaN, infinity, and whole numbers in place of floating-point ones."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tadp.errors import CorruptFileError
from tadp.files.inference import check_process

# Names of what known models keep in their weight files as whole numbers: positions, indices, masks (also "attn.bias" of
# GPT-2), counters, and the alpha of a LoRA.
_WHOLE = re.compile(r"(_ids|_ind(ex|ices)|(_|^|\.)mask|attn\.bias|num_batches_tracked|alpha)$")


def check_weights(state: Mapping[str, Tensor], where: Path) -> None:
    """Refuse weights that are not floating point, or not finite.

    Args:
        state: The weights in a file, by name.
        where: The file, for the message.

    Raises:
        CorruptFileError: If a weight cannot be used.
    """
    check_floats(state.items(), where)
    check_finite(state.items(), where)


def check_floats(tensors: Iterable[tuple[str, Tensor]], where: Path, module: nn.Module | None = None) -> None:
    """Refuse weights that are not floating point, which PyTorch and transformers would convert without a word.

    Args:
        tensors: The weights in the file, with their names.
        where: The file or folder that they come from, for the message.
        module: The module that the weights are for. A tensor that holds whole numbers in this module may hold them in
            the file, too. If the module is None or lacks a tensor of that name, whole numbers are allowed under names
            that known models use for them, such as "position_ids".

    Raises:
        CorruptFileError: If a weight is not floating point.
    """
    own = {} if module is None else module.state_dict()
    for name, tensor in tensors:
        is_whole = not own[name].is_floating_point() if name in own else _WHOLE.search(name)
        if not tensor.is_floating_point() and not is_whole:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise CorruptFileError(
                f"{where}: the tensor {name} holds {dtype}; weights must be floating point. Get the file again."
            )


def check_finite(tensors: Iterable[tuple[str, Tensor]], where: Path) -> None:
    """Refuse weights with NaN or infinity.

    Args:
        tensors: The weights as loaded, with their names.
        where: The file or folder that they come from, for the message.

    Raises:
        CorruptFileError: If a weight is not finite.
    """
    check_process()
    for name, tensor in tensors:
        if tensor.is_floating_point() and not is_finite(tensor):
            hint = (
                " Its file may be intact: float16 holds no number above 65,504. Load with dtype=torch.float32."
                if tensor.dtype == torch.float16
                else " Its training failed, or the file is damaged; use another version of it."
            )
            raise CorruptFileError(f"{where} has NaN or infinity in {name}, so all results would be meaningless.{hint}")


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity."""
    if tensor.is_meta or not tensor.numel():
        return True
    values = tensor.detach().float() if tensor.dtype.itemsize == 1 else tensor.detach()
    return all(map(math.isfinite, values.aminmax()))  # NaN if one value is; a twentieth of the time of `isfinite`
