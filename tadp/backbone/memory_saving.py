"""`MemorySaving`: the ways in which a loaded backbone takes less memory, all by diffusers' own means."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from tadp.backbone.network_weights import NetworkWeights
from tadp.errors import ModelError
from tadp.files.checks import check_choice, needs
from tadp.text.stack import TextStack

GroupOffload = Literal["leaf_level", "block_level"]
STORAGE_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True)
class MemorySaving:
    """The ways in which a backbone takes less memory. They are described as arguments of `from_pretrained`.

    Attributes:
        dtype: Dtype in which the backbone computes.
        group_offload: What is moved at a time: a layer ("leaf_level") or a block ("block_level"); None moves nothing.
        storage_dtype: Dtype in which the denoiser's weights are stored; None is `dtype`.
        quantization_config: A quantization config for the denoiser, or configs by part; None quantizes nothing.
        idle_on_cpu: Whether the VAE and the text encoders wait on the CPU while they are not used.

    Raises:
        TypeError: If an attribute is of the wrong type.
        ValueError: If an attribute has an unknown value, or two of them exclude each other.
    """

    dtype: torch.dtype
    group_offload: GroupOffload | None = None
    storage_dtype: torch.dtype | None = None
    quantization_config: Any = None
    idle_on_cpu: bool = False

    def __post_init__(self) -> None:
        if self.group_offload is not None:
            check_choice(self.group_offload, get_args(GroupOffload), name="group_offload")
        if not isinstance(self.idle_on_cpu, bool):
            raise TypeError(f"idle_on_cpu must be True or False; got {self.idle_on_cpu!r}.")
        if self.storage_dtype is not None and self.storage_dtype not in STORAGE_DTYPES:
            known = " or ".join(map(str, STORAGE_DTYPES))
            raise ValueError(f"storage_dtype must be {known}; got {self.storage_dtype!r}. For 16 bits pass dtype=.")
        if self.storage_dtype is not None and self.quantization_config is not None:
            raise ValueError(
                "storage_dtype and quantization_config are two ways to store the U-Net in fewer bits; pass one of them."
            )

    @property
    def freezes(self) -> bool:
        """Whether the U-Net cannot train, because its weights wait elsewhere or are stored in fewer bits."""
        return bool(self.group_offload or self.storage_dtype or self.quantization_config is not None)

    def apply(self, backbone: NetworkWeights, device: torch.device | str | None) -> None:
        """Make a loaded backbone take less memory, and freeze a U-Net that can no longer train.

        Args:
            backbone: The backbone, on the CPU.
            device: The device on which it will compute; None is the CPU.

        Raises:
            MissingExtraError: If a package is missing.
            ModelError: If a weight is too large for `storage_dtype`, or the family has no blocks to move.
        """
        if self.freezes:
            backbone.unet.requires_grad_(False)
        if self.storage_dtype is not None:
            store(backbone.unet, self.storage_dtype, self.dtype, backbone.family.part)
        if self.group_offload is not None:
            blocks = backbone.family.offload_blocks(backbone.unet) if self.group_offload == "block_level" else []
            if self.group_offload == "block_level" and not blocks:
                raise ModelError(
                    f"the family {backbone.family.name} does not say which parts repeat; pass "
                    "group_offload='leaf_level'."
                )
            text = backbone.text_encoder
            encoders: Any = text.parts.values() if isinstance(text, TextStack) else [] if text is None else [text]
            device = torch.device(device or "cpu")
            offload(backbone.unet, blocks, device)
            for encoder in encoders:
                offload(encoder.model, [], device)
        backbone.idle_on_cpu = self.idle_on_cpu


def store(denoiser: nn.Module, storage: torch.dtype, dtype: torch.dtype, part: str) -> None:
    """Store the weights of the large layers in 8 bits; diffusers leaves out norms and embeddings of positions.

    Args:
        denoiser: The denoiser.
        storage: The dtype of 8 bits.
        dtype: The dtype in which the layers compute.
        part: The denoiser in messages, such as "unet".

    Raises:
        ModelError: If a weight is too large for `storage`.
    """
    from diffusers.hooks.layerwise_casting import apply_layerwise_casting

    weights = denoiser.named_parameters()
    largest = {name: weight.detach().abs().max() for name, weight in weights if not weight.is_meta}
    if isinstance(denoiser, ModelMixin):
        denoiser.enable_layerwise_casting(storage_dtype=storage, compute_dtype=dtype)
    else:
        apply_layerwise_casting(denoiser, storage, dtype)
    for name, weight in denoiser.named_parameters():
        if weight.dtype == storage and not weight.is_meta and largest[name] > torch.finfo(storage).max:
            raise ModelError(
                f"{name} of the {part} has values above {torch.finfo(storage).max:,.0f}, the largest number of "
                f"{storage}. Load it without storage_dtype=, or with torch.float8_e5m2."
            )


def offload(module: nn.Module, blocks: list[nn.Module], device: torch.device) -> None:
    """Let the weights of a module wait on the CPU, and move them to `device` while they are needed.

    Args:
        module: The module.
        blocks: Those of its modules whose weights move together. Everything else moves layer by layer.
        device: The device on which the module computes.

    Raises:
        MissingExtraError: If accelerate is not installed.
    """
    with needs("group offloading needs accelerate", install="pip install 'tadp[train]'"):
        import accelerate  # noqa: F401  diffusers' hooks fail without it
    from diffusers.hooks.group_offloading import apply_group_offloading

    if module in blocks:
        apply_group_offloading(module, device, offload_type="block_level", num_blocks_per_group=1)
    elif any(part in blocks for part in module.modules()):
        for child in module.children():
            offload(child, blocks, device)
    elif next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        apply_group_offloading(module, device, offload_type="leaf_level")
