"""E of the paper: pixels to the latents that the denoiser takes."""

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.diffusion.vae import AnyVAE, VAEEncoder
from tadp.errors import ModelError
from tadp.images.reading import pad_to_multiple
from tadp.training.parameter_groups import first_parameter

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def encode(
    vae: AnyVAE,
    pixels: Float[Tensor, "b 3 h w"],
    *,
    multiple: int,
    imagenet_pixels: bool,
    sample: bool,
    scale: bool,
    generator: torch.Generator | None,
    vae_map: bool,
) -> tuple[Float[Tensor, "_b _c _h _w"], Float[Tensor, "_b _d _p _q"] | None]:
    """Latents of images, and the VAE encoder's map at half their stride if asked for.

    Args:
        vae: The encoder.
        pixels: (B, 3, H, W) in [0, 1].
        multiple: Of which height and width of the latents are multiples.
        imagenet_pixels: Give the VAE pixels by ImageNet's mean and deviation, not in [-1, 1].
        sample: Sample the posterior; its mode otherwise.
        scale: Scale as the denoiser was trained.
        generator: For the sample.
        vae_map: Whether to return the map.

    Raises:
        ModelError: If the VAE gives no map.
    """
    weight = first_parameter(vae)
    padded = pad_to_multiple(pixels.to(weight.device, weight.dtype), vae.reduction * multiple)
    taken = _imagenet(padded) if imagenet_pixels else 2 * padded - 1
    if not vae_map:
        posterior, half = vae(taken), None
    elif isinstance(vae, VAEEncoder):
        posterior, half = vae.with_map(taken)
    else:
        raise ModelError("a tiny autoencoder gives no map of its own; use the model's VAE, or stride4='upsampled'.")
    latents = posterior.sample(generator) if sample else posterior.mode()
    return (vae.scale(latents) if scale else latents), half


def _imagenet(pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    mean, deviation = (pixels.new_tensor(one).view(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return (pixels - mean) / deviation
