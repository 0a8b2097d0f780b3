"""Weights in shards: FSDP2 (`torch.distributed.fsdp.fully_shard`) gathers them while a module is called."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from tadp.errors import ModelError

GATHER = (
    "Gather them on each process with torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True, cpu_offload=True)), and load them into a model that is not sharded."
)


def is_sharded(weight: Tensor) -> bool:
    """Whether this process has only a shard of a weight."""
    module: Any = sys.modules.get("torch.distributed.tensor")  # importing it takes time, and FSDP has imported it
    return module is not None and isinstance(weight, module.DTensor)


@contextmanager
def explained_shards(module: nn.Module, uncalled: Iterable[nn.Module], what: str) -> Iterator[None]:
    """A block in which a module runs, and torch's error about shards says which modules to pass to `fully_shard`.

    Args:
        module: The module that runs.
        uncalled: Those of its modules that are not called, so that FSDP never gathers their weights.
        what: The module in messages, such as "unet".

    Raises:
        ModelError: If FSDP shards one of these modules as a whole.
    """
    try:
        yield
    except RuntimeError as error:
        if "DTensor" not in str(error):
            raise
        fsdp: Any = sys.modules.get("torch.distributed.fsdp")
        parts = [] if fsdp is None else [part for part in uncalled if isinstance(part, fsdp.FSDPModule)]
        names = [name for name, part in module.named_modules() if any(part is other for other in parts)]
        whole = f"{names[0]} in the {what}" if names and names[0] else f"the {what}"
        raise ModelError(
            f"{whole} is sharded as a whole, but tadp takes maps between its layers and calls these one by one, so "
            "FSDP never gathers its weights. Pass each module in backbone.parts_to_shard() to fully_shard, and then "
            "the whole model."
        ) from error
