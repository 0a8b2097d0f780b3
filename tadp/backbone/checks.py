"""Parts that do not fit each other, and inputs that do not fit the parts: refused, with what to do."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from tadp.diffusion.families import Layout
from tadp.diffusion.vae import AnyVAE
from tadp.errors import ModelError
from tadp.text.conditioning import Conditioning
from tadp.text.stack import AnyText


def check_parts(vae: AnyVAE, layout: Layout, text_encoder: AnyText | None) -> None:
    """The denoiser takes the VAE's latents and the text encoder's embeddings, or a ModelError."""
    made, taken = vae.config["latent_channels"], layout.latent_channels
    if made != taken:
        raise ModelError(f"the VAE makes {made} latent channels, the model takes {taken}; use a pair trained together.")
    if text_encoder is None:
        return
    if text_encoder.width != layout.text_width:
        raise ModelError(
            f"the text encoder is {text_encoder.width} wide, the model takes {layout.text_width}; use a pair trained "
            "together."
        )
    if layout.pooled_width is not None and text_encoder.pooled_width != layout.pooled_width:
        raise ModelError(
            f"the text encoder pools a text to a width of {text_encoder.pooled_width}, the model takes "
            f"{layout.pooled_width}; use a pair trained together."
        )


def level_set(levels: Sequence[int], *, name: str) -> tuple[int, ...]:
    """Levels in order, each once, or a TypeError that says what a list of them is."""
    if isinstance(levels, int) or not isinstance(levels, Iterable):
        raise TypeError(f"{name} is a list of levels, such as (1, 2), or () for none; got {levels!r}.")
    return tuple(sorted(set(levels)))


def check_levels(levels: Sequence[int], layout: Layout, vae_reduction: int) -> None:
    """The denoiser has attention at these levels, or a ValueError."""
    for level in levels:
        if level not in layout.attention_levels:
            strides = ", ".join(f"{k} (stride {vae_reduction * layout.reduction[k]})" for k in layout.attention_levels)
            raise ValueError(f"no attention at level {level}; this model has it at {strides}.")


def check_latents(latents: Tensor, *, channels: int, multiple: int) -> None:
    """Latents that the denoiser takes, or a ValueError.

    Args:
        latents: (B, channels, H, W).
        channels: What the denoiser takes.
        multiple: Of which H and W must be multiples.
    """
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise ValueError(f"latents are (B, {channels}, H, W); got {tuple(latents.shape)}.")
    if latents.shape[2] % multiple or latents.shape[3] % multiple:
        raise ValueError(
            f"latent height and width must be multiples of {multiple}; got {latents.shape[2]}x{latents.shape[3]}. "
            "Take them from encode_image, which pads."
        )


def check_text(
    text: Conditioning, *, layout: Layout, is_attached: bool, is_pooled: bool, text_length: int | None
) -> None:
    """Text that the denoiser takes, and whose attention has the channels that `feature_info` promises, or a ValueError.

    Args:
        text: Of any length.
        layout: With the widths that the denoiser takes.
        is_attached: Whether attention is attached at all.
        is_pooled: Whether it is attached by name, which takes a text with words, rather than by token.
        text_length: The tokens that `feature_info` counts on; None for any number.
    """
    _, length, found = text.embeddings.shape
    if found != layout.text_width:
        raise ValueError(
            f"embeddings are {found} wide, the model takes {layout.text_width}; encode the text with this backbone."
        )
    pooled = None if text.pooled is None else text.pooled.shape[1]
    if layout.pooled_width is not None and pooled != layout.pooled_width:
        raise ValueError(
            f"this model takes a pooled embedding of each text, {layout.pooled_width} wide; this text has "
            f"{'none' if pooled is None else f'one of {pooled}'}. Encode it with this backbone's encode_text, or pass "
            "Conditioning(…, pooled=…)."
        )
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


def refuse_name(backbone: object) -> None:
    """Refuse the name of a model where a backbone is wanted: with which options it is to be loaded, nobody said."""
    if isinstance(backbone, str | Path):
        raise TypeError(f"a TADPBackbone is wanted; got {str(backbone)!r}. Pass TADPBackbone.from_pretrained(…) of it.")
