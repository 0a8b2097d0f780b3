"""Parts that do not fit each other, and inputs that do not fit the parts: refused, with what to do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from tadp.errors import ModelError
from tadp.text import Conditioning, TextEncoder
from tadp.unet import UNetLayout
from tadp.vae import VAEEncoder

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


def check_parts(vae: VAEEncoder, unet: "UNet2DConditionModel", text_encoder: TextEncoder | None) -> None:
    """The U-Net takes the VAE's latents and the text encoder's embeddings, or a ModelError."""
    made, taken = vae.config["latent_channels"], unet.config["in_channels"]
    if made != taken:
        raise ModelError(f"the VAE makes {made} latent channels, the U-Net takes {taken}; use a pair trained together.")
    width = unet.config["cross_attention_dim"]
    if text_encoder is not None and text_encoder.width != width:
        raise ModelError(
            f"the text encoder is {text_encoder.width} wide, the U-Net takes {width}; use a pair trained together."
        )


def check_levels(levels: Sequence[int], layout: UNetLayout, vae_reduction: int) -> None:
    """The U-Net has attention at these levels, or a ValueError."""
    for level in levels:
        if level not in layout.attention_levels:
            strides = ", ".join(f"{k} (stride {vae_reduction * layout.reduction[k]})" for k in layout.attention_levels)
            raise ValueError(f"no attention at level {level}; this U-Net has it at {strides}.")


def check_timestep(timestep: int) -> None:
    """A step of Stable Diffusion's 1,000, or a ValueError."""
    if not 0 <= timestep < 1000:
        raise ValueError(f"timestep is 0 to 999; got {timestep}.")


def check_latents(latents: Tensor, *, channels: int, multiple: int) -> None:
    """Latents that the U-Net takes, or a ValueError.

    Args:
        latents: (B, channels, H, W).
        channels: What the U-Net takes.
        multiple: Of which H and W must be multiples.
    """
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise ValueError(f"latents are (B, {channels}, H, W); got {tuple(latents.shape)}.")
    if latents.shape[2] % multiple or latents.shape[3] % multiple:
        raise ValueError(
            f"latent height and width must be multiples of {multiple}; got {latents.shape[2]}x{latents.shape[3]}. "
            "Take them from encode_image, which pads."
        )


def check_text(text: Conditioning, *, width: int, is_attached: bool, is_pooled: bool, text_length: int | None) -> None:
    """Text that the U-Net takes, and whose attention has the channels that `feature_info` promises, or a ValueError.

    Args:
        text: Of any length.
        width: Of the embeddings that the U-Net takes.
        is_attached: Whether attention is attached at all.
        is_pooled: Whether it is attached by name, which takes a text with words, rather than by token.
        text_length: The tokens that `feature_info` counts on; None for any number.
    """
    _, length, found = text.embeddings.shape
    if found != width:
        raise ValueError(f"embeddings are {found} wide, the U-Net takes {width}; encode the text with this backbone.")
    if not is_attached:
        return
    if is_pooled:
        if text.words is None:
            raise ValueError(
                "attention is pooled by name, and this text has no words; pass captions, or a Conditioning with "
                "`words`."
            )
    elif text_length not in (None, length):
        raise ValueError(
            f"this text has {length} tokens, feature_info promises {text_length} attention channels; build "
            f"the backbone with text_length={length}, or attach none with attach_attention=(), or one a name with "
            "pool_attention=[…]."
        )
