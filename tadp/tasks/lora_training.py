"""A LoRA of the U-Net's attention: small matrices that train while the U-Net stays as it is. Extra `train`."""

from pathlib import Path
from typing import Any, Literal, get_args

from safetensors.torch import load_file, save_file
from torch import nn

from tadp.diffusion.families import Layout, family_of
from tadp.diffusion.loading.lora_fusion import LORA_NAME
from tadp.errors import CorruptFileError, ModelError
from tadp.files.checks import check_choice, needs
from tadp.files.hub import check_readable

Tune = Literal["all", "lora", "nothing"]  # what of the U-Net trains
_PREFIX = "unet."


def has_lora(unet: nn.Module) -> bool:
    """Whether a LoRA is in it."""
    return any(name.endswith("lora_A") for name, _ in unet.named_modules())


def check_tune(tune: Tune, unet: nn.Module, rank: int) -> None:
    """Refuse to tune what does not exist, and a LoRA that is in a U-Net already and is not the one asked for.

    Raises:
        ValueError: If there is no such choice.
        ModelError: If there is such a LoRA.
    """
    check_choice(tune, get_args(Tune), name="tune")
    if not has_lora(unet):
        return
    adapted: Any = unet
    own_rank = next(iter(adapted.peft_config.values())).r
    if tune != "lora" or rank != own_rank:
        raise ModelError(
            f"this backbone's U-Net has a LoRA of rank {own_rank} already; got tune={tune!r}, lora_rank={rank}. Load "
            "the backbone again, or ask for that LoRA."
        )


def add_lora(unet: nn.Module, layout: Layout, *, rank: int) -> None:
    """Add a LoRA to all attention projections that a pass runs and freeze everything else; at first it changes nothing.

    Raises:
        MissingExtraError: If peft is not installed.
        ModelError: If the model's family names no layers for a LoRA.
        ValueError: If the rank is under 1.
    """
    family = family_of(unet)
    if not family.lora_layers:
        raise ModelError(f"{family.name} names no layers for a LoRA; tune all of the model, or nothing.")
    if rank < 1:
        raise ValueError(f"the rank of a LoRA is 1 or more; got {rank}.")
    with needs("a LoRA needs peft", install="pip install 'tadp[train]'"):
        from peft import LoraConfig
    unet.requires_grad_(False)
    family.add_adapter(unet, LoraConfig(r=rank, lora_alpha=rank, target_modules=list(family.lora_layers)))
    family.freeze_unused(unet, layout)


def save_lora(unet: nn.Module, folder: Path) -> None:
    """Write it as diffusers reads it (`pipeline.load_lora_weights(folder)`)."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(unet)
    save_file({f"{_PREFIX}{name}": tensor.contiguous() for name, tensor in state.items()}, folder / LORA_NAME)


def load_lora(unet: nn.Module, folder: Path) -> None:
    """Fill a LoRA that was added.

    Raises:
        CorruptFileError: If the file is damaged, or its tensors are not those of this LoRA.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    path = folder / LORA_NAME
    check_readable(path)
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in load_file(path).items()}
    expected = {name: tensor.shape for name, tensor in get_peft_model_state_dict(unet).items()}
    wrong = sorted(name for name in expected.keys() | state.keys() if _shape(state, name) != expected.get(name))
    if wrong:
        raise CorruptFileError(
            f"{path} does not hold the LoRA its config describes: {len(wrong)} tensors differ, such as {wrong[0]}. "
            "Get the model again."
        )
    set_peft_model_state_dict(unet, state)


def _shape(state: dict, name: str):
    return state[name].shape if name in state else None
