"""E of the paper: from pixels to the latents that the denoiser takes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.backbone.options import BackboneOptions
from tadp.diffusion.vae import VAEEncoder
from tadp.errors import ModelError
from tadp.files.checks import check_ordered
from tadp.files.diffusers_hooks import compute_device, compute_dtype
from tadp.files.model_folder import OFFLOADED
from tadp.images.reading import pad_to_multiple

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def encode(
    vae: Any,
    pixels: Float[Tensor, "b 3 h w"],
    options: BackboneOptions,
    *,
    multiple: int,
    generator: torch.Generator | None,
    vae_map: bool,
) -> tuple[Float[Tensor, "_b _c _h _w"], Float[Tensor, "_b _d _p _q"] | None]:
    """Encode images to latents, and optionally return a map of the VAE encoder too.

    Args:
        vae: The VAE encoder, which may be compiled.
        pixels: Images (B, 3, H, W) in [0, 1].
        options: The backbone's options, which determine how pixels are normalised and latents sampled and scaled.
        multiple: Number of latent cells to whose multiple the height and width of the latents are padded.
        generator: Random number generator for the option `sample_posterior`; None is torch's global one.
        vae_map: Whether to also return the VAE encoder's map at half the latents' stride.

    Returns:
        The latents, (B, C, H', W'), and the map; None in place of the map if it is not requested.

    Raises:
        ModelError: If `vae_map` is set and the VAE has no such map.
    """
    weight = next(vae.parameters())
    if weight.is_meta and not pixels.is_meta:
        raise ModelError(f"the VAE has no weights here; {OFFLOADED}")
    padded = pad_to_multiple(pixels.to(compute_device(vae), compute_dtype(vae)), vae.reduction * multiple)
    normalised = _normalise_by_imagenet(padded) if options.imagenet_pixels else 2 * padded - 1
    if not vae_map:
        posterior, half = vae(normalised), None
    elif isinstance(vae._modules.get("_orig_mod", vae), VAEEncoder):
        posterior, half = vae.with_map(normalised)
    else:
        raise ModelError("an AutoencoderTiny has no map at stride 4; use the model's own VAE, or stride4='upsampled'.")
    latents = posterior.sample(generator) if options.sample_posterior else posterior.mode()
    return (vae.scale(latents) if options.scale_latents else latents), half


def check_latents(latents: Tensor, *, channels: int, multiple: int, size: tuple[int, int] | None) -> None:
    """Check that latents have a shape that the denoiser takes, and the size of their images.

    Args:
        latents: The latents to check, which should be (B, channels, H, W).
        channels: Number of channels that the denoiser takes.
        multiple: Number that H and W must be multiples of.
        size: (height, width) of the images in pixels; None is not checked.

    Raises:
        TypeError: If the size is a set, which has no order.
        ValueError: If the latents have another shape, or the size is not two whole numbers of 1 or more.
    """
    check_ordered(image_size=size)
    if size is not None and (len(size) != 2 or min(size) < 1 or any(isinstance(side, float) for side in size)):
        raise ValueError(f"image_size must be (height, width) in pixels; got {size}.")
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise ValueError(f"latents must be (B, {channels}, H, W); got {tuple(latents.shape)}.")
    if latents.shape[2] % multiple or latents.shape[3] % multiple:
        raise ValueError(
            f"latent height and width must be multiples of {multiple}; got {latents.shape[2]}x{latents.shape[3]}. "
            "encode_image pads images to it."
        )


def _normalise_by_imagenet(pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    mean, deviation = (pixels.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return (pixels - mean) / deviation
