"""A LoRA of the U-Net's attention: small matrices that train while the U-Net stays frozen. Needs the extra `train`."""

from pathlib import Path
from typing import Any, Literal, get_args

from safetensors.torch import load_file
from torch import Tensor, nn

from tadp.diffusion.families import Layout, family_of
from tadp.diffusion.loading.lora_fusion import LORA_NAME
from tadp.errors import CorruptFileError, ModelError
from tadp.files.checks import check_choice, check_whole, needs
from tadp.files.diffusers_hooks import check_gradient
from tadp.files.hub import check_readable
from tadp.files.inference import uncompiled
from tadp.files.weight_ids import save_tensors
from tadp.files.weight_values import check_weights

Tune = Literal["all", "lora", "nothing"]  # the part of the U-Net that trains
_PREFIX = "unet."
# Settings of peft that a saved LoRA does not record.
_LORA_SETTINGS = (
    "r",
    "lora_alpha",
    "target_modules",
    "use_dora",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "bias",
)


def has_lora(unet: nn.Module) -> bool:
    """Whether the U-Net has a LoRA."""
    return any(name.endswith("lora_A") for name, _ in unet.named_modules())


def check_tune(tune: Tune, unet: nn.Module, rank: int) -> None:
    """Check the option `tune`, and that it fits the U-Net if the U-Net already has a LoRA.

    Args:
        tune: The part of the U-Net that should train: "all", "lora" or "nothing".
        unet: The U-Net.
        rank: Rank of the LoRA that should train.

    Raises:
        ValueError: If `tune` is unknown.
        ModelError: If the U-Net already has a LoRA, and `tune` is not "lora" or the LoRA has another rank.
    """
    check_choice(tune, get_args(Tune), name="tune")
    check_whole(rank, name="lora_rank")
    if not has_lora(unet):
        return
    adapted: Any = unet
    own_rank = next(iter(adapted.peft_config.values())).r
    if tune != "lora" or rank != own_rank:
        raise ModelError(
            f"this backbone's U-Net already has a LoRA of rank {own_rank}; got tune={tune!r}, lora_rank={rank}. Load "
            f"the backbone again, or pass tune='lora', lora_rank={own_rank}."
        )


def add_lora(unet: nn.Module, layout: Layout, *, rank: int) -> None:
    """Add a LoRA to all attention projections of a U-Net that influence its maps, and freeze everything else.

    A LoRA does not change the U-Net's output before it is trained.

    Args:
        unet: The U-Net or another denoiser, which is changed.
        layout: Where the denoiser's levels are. Layers after the last of them are left out.
        rank: Rank of the LoRA, 1 or more.

    Raises:
        MissingExtraError: If peft is not installed.
        ModelError: If tadp cannot add a LoRA to models of this family.
        ValueError: If `rank` is below 1.
    """
    family = family_of(unet)
    if not family.lora_layers:
        raise ModelError(f"tadp cannot add a LoRA to {family.name}; use tune='all' or tune='nothing'.")
    if rank < 1:
        raise ValueError(f"the rank of a LoRA must be 1 or more; got {rank}.")
    with needs("a LoRA needs peft", install="pip install 'tadp[train]'"):
        from peft import LoraConfig
    check_gradient(unet, family.part)
    unet.requires_grad_(False)
    family.add_adapter(unet, LoraConfig(r=rank, lora_alpha=rank, target_modules=list(family.lora_layers)))
    family.freeze_unused(unet, layout)


def save_lora(unet: nn.Module, path: Path, *, rank: int) -> None:
    """Write the LoRA in diffusers' format (`pipeline.load_lora_weights(folder)`).

    Raises:
        ModelError: If the LoRA is not one that `add_lora` adds, so that loading could not restore it.
    """
    save_tensors(lora_tensors(unet, rank=rank), path)


def lora_tensors(unet: nn.Module, *, rank: int) -> dict[str, Tensor]:
    """The tensors of the LoRA under diffusers' names.

    Raises:
        ModelError: If the LoRA is not one that `add_lora` adds, so that loading could not restore it.
    """
    from peft import LoraConfig, get_peft_model_state_dict

    unet = uncompiled(unet)
    adapted: Any = unet
    adapters = dict(adapted.peft_config)
    own = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(family_of(unet).lora_layers))
    for name, config in adapters.items():
        changed = [key for key in _LORA_SETTINGS if getattr(config, key) != getattr(own, key)]
        if len(adapters) > 1 or changed:
            what = f"other settings ({', '.join(changed)})" if changed else f"{len(adapters)} adapters"
            raise ModelError(
                f"this U-Net has a LoRA {name!r} that tadp did not add, with {what}, so it could not be loaded again. "
                "Merge it into the U-Net before you build the model: fuse_lora() and unload_lora()."
            )
    state = get_peft_model_state_dict(unet)
    return {f"{_PREFIX}{name}": tensor for name, tensor in state.items()}


def load_lora(unet: nn.Module, folder: Path) -> None:
    """Load weights into a LoRA that was added with `add_lora`.

    Raises:
        CorruptFileError: If the file is damaged, or its tensors do not fit this LoRA.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    path = folder / LORA_NAME
    check_readable(path)
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in load_file(path).items()}
    expected = {name: tensor.shape for name, tensor in get_peft_model_state_dict(unet).items()}
    wrong = sorted(name for name in expected.keys() | state.keys() if _shape(state, name) != expected.get(name))
    if wrong:
        raise CorruptFileError(
            f"{path} does not hold the LoRA that its config.json describes: {len(wrong)} tensors differ, such as "
            f"{wrong[0]}. Get the model again."
        )
    check_weights(state, path)
    set_peft_model_state_dict(unet, state)


def _shape(state: dict, name: str):
    return state[name].shape if name in state else None
