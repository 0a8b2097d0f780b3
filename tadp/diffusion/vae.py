"""The encoder half of a Stable Diffusion VAE, or of the tiny VAE that approximates it."""

import json
import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tadp.diffusion.attention import blockwise_attention, wants_blocks
from tadp.errors import ModelError
from tadp.files.diffusers_hooks import check_hooks, is_hooked
from tadp.files.inference import without_autocast


class VAEEncoder(nn.Module):
    """The encoder of an `AutoencoderKL`, E in the paper. The decoder is left out, because perception does not need it.

    Args:
        vae: The autoencoder. Its encoder and quantisation convolution are shared, not copied.

    Attributes:
        repeated: The classes of the parts that `backbone.compile` compiles.

    Raises:
        ModelError: If the VAE normalises its latents per channel. No base model that tadp supports has such a VAE.
    """

    repeated: ClassVar[tuple[type[nn.Module], ...]] = (ResnetBlock2D,)

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv
        self.config: dict[str, Any] = json.loads(vae.to_json_string())  # includes the class name that loading needs
        if self.config.get("latents_mean") is not None:
            raise ModelError(
                "the VAE's config has latents_mean; tadp reads VAEs with one scaling_factor and shift_factor."
            )
        _check_number(self.config, "scaling_factor", least=0)
        if self.config.get("shift_factor") is not None:
            _check_number(self.config, "shift_factor", least=-math.inf)

    @property
    def reduction(self) -> int:
        """Pixels per latent cell in each direction: 8 for Stable Diffusion."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    @property
    def scaling_factor(self) -> float:
        """The factor that gives latents a standard deviation of about 1; Rombach et al., App. G."""
        return self.config["scaling_factor"]

    def scale(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale latents to the range that the denoiser was trained on, and shift them first if the VAE has a shift."""
        shift = self.config.get("shift_factor")
        return (latents if shift is None else latents - shift) * self.scaling_factor

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> DiagonalGaussianDistribution:
        """The posterior over latents, (B, 4, H / 8, W / 8), unscaled.

        Args:
            images: Images in [-1, 1]. Height and width are multiples of `reduction`.
        """
        with without_autocast(images.device):
            # Hooks of diffusers may wait for a call of the encoder or of its blocks.
            if torch.is_grad_enabled() or not self._is_known or any(map(is_hooked, self.encoder.modules())):
                return self._posterior(self.encoder(images))
            return self._posterior(_encode_in_place(self.encoder, images)[0])

    @torch.no_grad()
    def with_map(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[DiagonalGaussianDistribution, Float[Tensor, "_b _c _h _w"]]:
        """Return the posterior of the latents, and a map of the encoder at half the stride of the latents.

        For Stable Diffusion, that is stride 4. The map is the output of the encoder's second-to-last block, before
        downsampling. No gradient is computed.

        Args:
            images: Images (B, 3, H, W), normalised as the VAE expects.

        Raises:
            ModelError: If the encoder has blocks that Stable Diffusion's encoder lacks.
        """
        if not self._is_known or self.reduction < 2:
            raise ModelError("this VAE's encoder is not laid out like Stable Diffusion's, so it cannot provide a map.")
        blocks: Any = [*self.encoder.down_blocks, self.encoder.mid_block]
        check_hooks(self, [self, self.encoder, *blocks, *(layer for block in blocks for layer in block.resnets)], "VAE")
        with without_autocast(images.device):
            moments, half = _encode_in_place(self.encoder, images)
            return self._posterior(moments), half

    @property
    def _is_known(self) -> bool:
        return set(self.config["down_block_types"]) == {"DownEncoderBlock2D"}

    def _posterior(self, moments: Tensor) -> DiagonalGaussianDistribution:
        return DiagonalGaussianDistribution(moments if self.quant_conv is None else self.quant_conv(moments))


class Exact:
    """A posterior without uncertainty, for an encoder that returns the latents themselves: its sample is its mode."""

    def __init__(self, latents: Float[Tensor, "b c h w"]):
        self.latents = latents

    def mode(self) -> Float[Tensor, "b c h w"]:
        """The latents."""
        return self.latents

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "b c h w"]:
        """The latents."""
        return self.latents


class TinyVAEEncoder(nn.Module):
    """The encoder of an `AutoencoderTiny` (TAESD): a small network that approximates a VAE's scaled latents.

    Args:
        vae: The autoencoder. Its encoder is shared, not copied.

    Attributes:
        repeated: The classes of the parts that `backbone.compile` compiles.
    """

    repeated: ClassVar[tuple[type[nn.Module], ...]] = (AutoencoderTinyBlock,)

    def __init__(self, vae: AutoencoderTiny):
        super().__init__()
        self.encoder = vae.encoder
        self.config: dict[str, Any] = json.loads(vae.to_json_string())
        _check_number(self.config, "scaling_factor", least=0)

    @property
    def reduction(self) -> int:
        """Pixels per latent cell in each direction: 8."""
        return 2 ** (len(self.config["encoder_block_out_channels"]) - 1)

    @property
    def scaling_factor(self) -> float:
        """1, because the encoder's latents are already scaled."""
        return self.config["scaling_factor"]

    def scale(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale latents to the range that the denoiser was trained on."""
        return latents * self.scaling_factor

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Exact:
        """The latents, (B, C, H / 8, W / 8).

        Args:
            images: Images in [-1, 1]. Height and width are multiples of `reduction`.
        """
        with without_autocast(images.device):
            return Exact(self.encoder(images))


def _check_number(config: dict[str, Any], key: str, *, least: float) -> None:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least < value < math.inf:
        rule = "a finite number" if least < 0 else "a finite number above 0"
        raise ModelError(f"the VAE's config has {key}={value!r}; it must be {rule}. Get the model again.")


AnyVAE = VAEEncoder | TinyVAEEncoder


def encoder_of(vae: AutoencoderKL | AutoencoderTiny | AnyVAE) -> AnyVAE:
    """The encoder half of an autoencoder.

    Raises:
        ModelError: If `vae` is neither an `AutoencoderKL` nor an `AutoencoderTiny` nor the encoder of one.
    """
    if isinstance(vae, AnyVAE):
        return vae
    if isinstance(vae, AutoencoderTiny):
        return TinyVAEEncoder(vae)
    if isinstance(vae, AutoencoderKL):
        return VAEEncoder(vae)
    raise ModelError(f"tadp cannot encode with a {type(vae).__name__}; it reads AutoencoderKL and AutoencoderTiny.")


def _encode_in_place(encoder: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Run the encoder's own layers in the usual order, and overwrite tensors that are not needed again.

    For an image of 512x512 pixels a map takes 134 MB, and allocating this memory takes longer than the arithmetic on
    it. Without a gradient, no tensor is needed twice. A test checks that the result equals the encoder's own bit for
    bit.
    """
    half = hidden = encoder.conv_in(hidden)
    for number, block in enumerate(encoder.down_blocks):
        for resnet in block.resnets:
            hidden = _resnet(resnet, hidden)
        if number == len(encoder.down_blocks) - 2:
            half = hidden
        for downsampler in block.downsamplers or ():
            hidden = downsampler(hidden)
    first, *further = encoder.mid_block.resnets
    hidden = _resnet(first, hidden)
    for attention, resnet in zip(encoder.mid_block.attentions, further, strict=True):
        hidden = _resnet(resnet, hidden if attention is None else _attention(attention, hidden))
    return encoder.conv_out(F.silu(encoder.conv_norm_out(hidden), inplace=True)), half


def _resnet(block: Any, hidden: Tensor) -> Tensor:
    if block._compiled_call_impl is not None:
        return block(hidden, None)
    inner = block.conv1(F.silu(block.norm1(hidden), inplace=True))
    inner = block.conv2(F.silu(block.norm2(inner), inplace=True))
    return inner.add_(hidden if block.conv_shortcut is None else block.conv_shortcut(hidden))


def _attention(attention: Any, hidden: Tensor) -> Tensor:
    if not wants_blocks(hidden, tokens=hidden.shape[2] * hidden.shape[3]):
        return attention(hidden)
    height, width = hidden.shape[2:]
    tokens = rearrange(attention.group_norm(hidden), "b c h w -> b (h w) c")
    layers = attention.to_q, attention.to_k, attention.to_v
    query, key, value = (rearrange(layer(tokens), "b n (k d) -> b n k d", k=attention.heads) for layer in layers)
    out = attention.to_out[0](rearrange(blockwise_attention(query, key, value), "b n k d -> b n (k d)"))
    return rearrange(out, "b (h w) c -> b c h w", h=height, w=width).add_(hidden)
