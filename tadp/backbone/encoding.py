"""E of the paper: pixels to the latents that the denoiser takes."""

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.backbone.options import BackboneOptions
from tadp.diffusion.vae import AnyVAE, VAEEncoder
from tadp.errors import ModelError
from tadp.images.reading import pad_to_multiple

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def encode(
    vae: AnyVAE,
    pixels: Float[Tensor, "b 3 h w"],
    options: BackboneOptions,
    *,
    multiple: int,
    generator: torch.Generator | None,
    vae_map: bool,
) -> tuple[Float[Tensor, "_b _c _h _w"], Float[Tensor, "_b _d _p _q"] | None]:
    """Latents of images, and the VAE encoder's map at half their stride if asked for.

    Args:
        vae: The encoder.
        pixels: (B, 3, H, W) in [0, 1].
        options: How pixels are normalised, and latents are sampled and scaled.
        multiple: Number of which height and width of the latents are multiples.
        generator: Source of the sample's random numbers.
        vae_map: Whether to return the map.

    Raises:
        ModelError: If the VAE gives no map.
    """
    weight = next(vae.parameters())
    padded = pad_to_multiple(pixels.to(weight.device, weight.dtype), vae.reduction * multiple)
    taken = _imagenet(padded) if options.imagenet_pixels else 2 * padded - 1
    if not vae_map:
        posterior, half = vae(taken), None
    elif isinstance(vae, VAEEncoder):
        posterior, half = vae.with_map(taken)
    else:
        raise ModelError("a tiny autoencoder gives no map of its own; use the model's VAE, or stride4='upsampled'.")
    latents = posterior.sample(generator) if options.sample_posterior else posterior.mode()
    return (vae.scale(latents) if options.scale_latents else latents), half


def check_latents(latents: Tensor, *, channels: int, multiple: int) -> None:
    """Refuse latents that the denoiser does not take.

    Args:
        latents: (B, channels, H, W).
        channels: Channels that the denoiser takes.
        multiple: Number of which H and W must be multiples.

    Raises:
        ValueError: If the latents are of another shape.
    """
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise ValueError(f"latents are (B, {channels}, H, W); got {tuple(latents.shape)}.")
    if latents.shape[2] % multiple or latents.shape[3] % multiple:
        raise ValueError(
            f"latent height and width must be multiples of {multiple}; got {latents.shape[2]}x{latents.shape[3]}. "
            "Take them from encode_image, which pads."
        )


def _imagenet(pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    mean, deviation = (pixels.new_tensor(one).view(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return (pixels - mean) / deviation
