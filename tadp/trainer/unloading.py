"""Weights that a training does not need are in a file instead of memory, except while the model is evaluated."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tadp.files.atomic import replace_file
from tadp.tasks import TaskModel
from tadp.trainer.encoded_data import EncodedData
from tadp.trainer.processes import Accelerator

ENCODERS = "encoders.safetensors"


def unneeded_parts(model: TaskModel, data: object) -> list[nn.Module]:
    """The parts of the backbone that no step needs: VAE and text encoder, if `data` has what they return."""
    if not isinstance(data, EncodedData):
        return []
    encoder = model.backbone.text_encoder if data.captions or model.prompt_mode != "captions" else None
    return [part for part in (model.backbone.vae, encoder) if part is not None]


@contextmanager
def unloaded(
    parts: Sequence[nn.Module], path: Path, accelerator: Accelerator
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Keep the weights of modules in a file, instead of memory, inside the block.

    Inside the block, the weights are empty tensors. They stay the same objects, so that optimizers and
    `DistributedDataParallel` notice nothing.

    Args:
        parts: The modules. Parts that train, and weights without values, stay as they are.
        path: The file, which is removed at the end of the block.
        accelerator: The accelerator. Only its main process writes the file.

    Yields:
        A function that returns a context manager, in whose block the weights are in memory.
    """
    weights = {str(number): weight for number, weight in enumerate(_movable(parts))}
    if not weights:
        yield nullcontext
        return
    # shapes and strides
    layouts = {name: torch.empty_like(weight.data, device="meta") for name, weight in weights.items()}
    if accelerator.is_main_process:
        with replace_file(path) as partial:
            save_file({name: weight.data.cpu().contiguous() for name, weight in weights.items()}, partial)
    accelerator.wait_for_everyone()

    def unload() -> None:
        for weight in weights.values():
            weight.data = weight.data.new_empty(0)

    def load() -> None:
        stored = load_file(path)
        for name, weight in weights.items():
            weight.data = torch.empty_like(layouts[name], device=weight.device).copy_(stored[name])

    @contextmanager
    def loaded() -> Iterator[None]:
        load()
        try:
            yield
        finally:
            unload()

    unload()
    try:
        yield loaded
    finally:
        load()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        path.unlink(missing_ok=True)


def _movable(parts: Sequence[nn.Module]) -> list[Tensor]:
    """The weights of modules that do not train. Weights of other libraries' kinds, such as quantized ones, stay."""
    frozen = [part for part in parts if not any(weight.requires_grad for weight in part.parameters())]
    return [
        weight for part in frozen for weight in part.parameters() if type(weight.data) is Tensor and not weight.is_meta
    ]
