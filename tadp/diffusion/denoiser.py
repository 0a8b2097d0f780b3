"""The network between latents and features, whatever its family: read its layout, prepare it, run it once.

A family is three functions (where the levels are; processors that can record; one pass) and a branch here. Everything
above sees a `Layout` and calls these.
"""

from collections.abc import Collection, Sequence
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from tadp.diffusion.attention import install_recording
from tadp.diffusion.layout import Layout
from tadp.diffusion.noise import Kind
from tadp.diffusion.transformer import (
    JointLayout,
    JointTransformer,
    freeze_unused_blocks,
    install_joint_recording,
    joint_pass,
    joint_tap_names,
    read_joint_layout,
)
from tadp.diffusion.unet import UNetLayout, freeze_unused, read_layout, unet_pass, unet_tap_names
from tadp.errors import ModelError
from tadp.text.conditioning import Conditioning

Denoiser = UNet2DConditionModel | JointTransformer
FAMILIES = (
    "Stable Diffusion 1.x, 2.x and XL (UNet2DConditionModel), Stable Diffusion 3.x (SD3Transformer2DModel) and FLUX "
    "(FluxTransformer2DModel)"
)


def read_denoiser(model: nn.Module, blocks: Sequence[int] | None = None) -> Layout:
    """Where a denoiser has its levels, and what it takes.

    Args:
        model: A U-Net or a transformer.
        blocks: Of a transformer, the blocks that become levels, finest first; None for tadp's choice.

    Raises:
        ModelError: If it is of no known family; the message lists them.
        ValueError: If blocks are named that are not there.
    """
    if isinstance(model, UNet2DConditionModel):
        if blocks is not None:
            raise ValueError(
                "blocks chooses among those of a transformer (Stable Diffusion 3, FLUX); the levels of a U-Net are its "
                f"{len(model.config['up_block_types'])} up blocks. Leave it out."
            )
        return read_layout(model)
    if isinstance(model, JointTransformer):
        return read_joint_layout(model, blocks)
    raise ModelError(f"tadp cannot read a {type(model).__name__}; it reads {FAMILIES}.")


def noise_kind(model: nn.Module) -> Kind:
    """How noise is added where a model's scheduler is not known."""
    return "flow" if isinstance(model, JointTransformer) else "diffusion"


def tap_names(model: nn.Module, layout: Layout) -> tuple[str, ...]:
    """The modules of a denoiser whose outputs are the maps, finest first."""
    if isinstance(model, UNet2DConditionModel) and isinstance(layout, UNetLayout):
        return unet_tap_names(model, layout)
    if isinstance(model, JointTransformer) and isinstance(layout, JointLayout):
        return joint_tap_names(model, layout)
    raise ModelError(f"tadp cannot read a {type(model).__name__}; it reads {FAMILIES}.")


def prepare(model: nn.Module, layout: Layout) -> None:
    """Install processors that can record attention, and freeze the layers that a pass never runs."""
    if isinstance(model, UNet2DConditionModel) and isinstance(layout, UNetLayout):
        install_recording(model, layout.layer_levels)
    elif isinstance(model, JointTransformer) and isinstance(layout, JointLayout):
        install_joint_recording(model, layout)
    freeze_not_run(model, layout)


def freeze_not_run(model: nn.Module, layout: Layout) -> None:
    """Stop gradients of the layers after the last map, so that DDP does not wait for them."""
    if isinstance(model, JointTransformer) and isinstance(layout, JointLayout):
        freeze_unused_blocks(model, layout)
    elif isinstance(model, UNet2DConditionModel):
        freeze_unused(model)


def run_once(
    model: nn.Module,
    layout: Layout,
    latents: Float[Tensor, "b c h w"],
    *,
    timestep: int,
    text: Conditioning,
    image_size: tuple[int, int],
    record_levels: Collection[int] = (),
) -> tuple[tuple[Float[Tensor, "_b _c _h _w"], ...], dict[int, Float[Tensor, "_b _l _h _w"]]]:
    """One pass of a denoiser: its maps, finest first, and the attention of the levels to record.

    Args:
        model: One that was prepared.
        layout: Its own.
        latents: (B, C, H, W), height and width multiples of `layout.multiple`.
        timestep: 0 to 999.
        text: One text an image, of the layout's widths.
        image_size: (height, width) in pixels, which SDXL is told.
        record_levels: Levels whose attention is kept.

    Raises:
        ValueError: If the text has a mask and the model has joint attention, which takes none.
    """
    more: dict[str, Any] = {"timestep": timestep, "embeddings": text.embeddings, "record_levels": record_levels}
    if isinstance(model, UNet2DConditionModel) and isinstance(layout, UNetLayout):
        return unet_pass(model, layout, latents, mask=text.mask, pooled=text.pooled, image_size=image_size, **more)
    if text.mask is not None:
        raise ValueError("joint attention takes no mask of the text; encode it without mask_padding.")
    if isinstance(model, JointTransformer) and isinstance(layout, JointLayout) and text.pooled is not None:
        return joint_pass(model, layout, latents, pooled=text.pooled, **more)
    raise ModelError(f"tadp cannot run a {type(model).__name__}; it reads {FAMILIES}.")
