"""E of the paper: from pixels to the latents that the denoiser takes."""

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
    """Encode images to latents; also return the VAE encoder's map at half their stride if `vae_map` is True.

    Args:
        vae: The VAE encoder.
        pixels: (B, 3, H, W) in [0, 1].
        options: How pixels are normalised, and latents are sampled and scaled.
        multiple: The latents' height and width are padded to a multiple of this number of cells.
        generator: Source of random numbers for `sample_posterior`.
        vae_map: Whether to return the map.

    Raises:
        ModelError: If the map is asked for and the VAE has none.
    """
    weight = next(vae.parameters())
    padded = pad_to_multiple(pixels.to(weight.device, weight.dtype), vae.reduction * multiple)
    normalised = _normalise_by_imagenet(padded) if options.imagenet_pixels else 2 * padded - 1
    if not vae_map:
        posterior, half = vae(normalised), None
    elif isinstance(vae, VAEEncoder):
        posterior, half = vae.with_map(normalised)
    else:
        raise ModelError("an AutoencoderTiny has no map at stride 4; use the model's own VAE, or stride4='upsampled'.")
    latents = posterior.sample(generator) if options.sample_posterior else posterior.mode()
    return (vae.scale(latents) if options.scale_latents else latents), half


def check_latents(latents: Tensor, *, channels: int, multiple: int) -> None:
    """Refuse latents that the denoiser cannot take.

    Args:
        latents: Latents that should be (B, channels, H, W).
        channels: Number of channels that the denoiser takes.
        multiple: Number that H and W must be multiples of.

    Raises:
        ValueError: If the latents have another shape.
    """
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
