"""The encoder half of a Stable Diffusion VAE."""

import json
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from jaxtyping import Float
from torch import Tensor, nn


class VAEEncoder(nn.Module):
    """E of the paper: an `AutoencoderKL` without its decoder, which perception never needs.

    Args:
        vae: Its encoder and quantisation convolution are shared, not copied.
    """

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv
        self.config: dict[str, Any] = json.loads(vae.to_json_string())  # with the class name that loading looks for

    @property
    def reduction(self) -> int:
        """Pixels per latent cell: 8 for Stable Diffusion."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    @property
    def scaling_factor(self) -> float:
        """What latents are multiplied by so that their standard deviation is about one; Rombach et al., App. G."""
        return self.config["scaling_factor"]

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> DiagonalGaussianDistribution:
        """The posterior over latents, (B, 4, H / 8, W / 8), unscaled.

        Args:
            images: In [-1, 1], height and width multiples of `reduction`.
        """
        moments = self.encoder(images)
        return DiagonalGaussianDistribution(moments if self.quant_conv is None else self.quant_conv(moments))
