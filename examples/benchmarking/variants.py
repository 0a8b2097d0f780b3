"""Variants of the same two networks: diffusers by hand ("plain"), and tadp in several formats and memory layouts."""

from dataclasses import dataclass

import torch
import torch._inductor.config
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from tadp import Conditioning, TADPBackbone
from tadp.diffusion.vae import VAEEncoder

SD15_UNET = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
SD15_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TINY_UNET = SD15_UNET | {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 32}
TINY_VAE = SD15_VAE | {"block_out_channels": (32, 32, 64, 64)}
SIZES = {
    "sd15": (SD15_UNET, SD15_VAE, 512),
    "tiny": (TINY_UNET, TINY_VAE, 256),
    "tiniest": (TINY_UNET, TINY_VAE, 128),  # so small that a process's memory does not show a pass
}
ATTENTION_LEVELS = (1, 2)
KEPT_TOKENS = 32**2  # at 512 pixels, the released code keeps the means of layers with up to 32 x 32 cells


@dataclass(frozen=True)
class Variant:
    """One way to run the same two networks."""

    name: str
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    plain: bool = False
    compiled: bool = False


PLAIN = Variant("plain, float32", plain=True)
EXACT = Variant("tadp, float32")
VARIANTS = (
    EXACT,
    Variant("tadp, float32, channels_last", memory_format=torch.channels_last),
    Variant("tadp, bfloat16", dtype=torch.bfloat16),
    Variant("tadp, bfloat16, channels_last", dtype=torch.bfloat16, memory_format=torch.channels_last),
)
COMPILED = (
    Variant("tadp, float32, compiled", compiled=True),  # the compiler lays out convolutions itself
    Variant(
        "tadp, bfloat16, channels_last, compiled",
        dtype=torch.bfloat16,
        memory_format=torch.channels_last,
        compiled=True,
    ),
)


class PlainProcessor(AttnProcessor):
    """Attention that writes out all probabilities and averages heads, self-attention too, like the released code."""

    def __init__(self):
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def __call__(self, attn: Attention, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = map(
            attn.head_to_batch_dim, (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        probabilities = (torch.einsum("bid,bjd->bij", query, key) * attn.scale).softmax(dim=-1)
        mean = probabilities.unflatten(0, (-1, attn.heads)).mean(dim=1)
        if mean.shape[1] <= KEPT_TOKENS:
            self.kept.append(mean)
        return attn.to_out[0](attn.batch_to_head_dim(probabilities @ value))


def build(size: str, variant: Variant, device: str = "cpu") -> tuple[TADPBackbone, torch.Tensor, Conditioning]:
    """Build a backbone with random weights, an image and a text."""
    unet_config, vae_config, side = SIZES[size]
    with torch.device("meta"):
        unet, encoder = UNet2DConditionModel(**unet_config), VAEEncoder(AutoencoderKL(**vae_config))
    torch.manual_seed(0)
    for module in (unet, encoder):
        module.to_empty(device=device)
        for name, parameter in module.named_parameters():
            with torch.no_grad():
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
                else:
                    parameter.fill_(float(name.endswith("weight")))
    backbone = TADPBackbone(vae=encoder, unet=unet, attach_attention=ATTENTION_LEVELS, text_length=77).freeze().eval()
    backbone.to(dtype=variant.dtype, memory_format=variant.memory_format)
    if variant.plain:
        unet.set_attn_processor(PlainProcessor())
        for module in encoder.modules():
            if isinstance(module, Attention):
                module.set_processor(AttnProcessor())
    if variant.compiled:
        torch._inductor.config.freezing = True  # weights become constants, laid out for the kernels
        backbone.encode_image, backbone.extract = map(torch.compile, (backbone.encode_image, backbone.extract))
    text = Conditioning(torch.randn(1, 77, unet_config["cross_attention_dim"], device=device))
    return backbone, torch.rand(1, 3, side, side, device=device), text


def encode(backbone: TADPBackbone, variant: Variant, image: torch.Tensor) -> torch.Tensor:
    """Encode an image as the variant does."""
    if not variant.plain:
        return backbone.encode_image(image)
    moments = backbone.vae.quant_conv(backbone.vae.encoder(2 * image - 1))  # diffusers' own forward
    return DiagonalGaussianDistribution(moments).mode() * backbone.vae.scaling_factor


def extract(backbone: TADPBackbone, variant: Variant, latents: torch.Tensor, text: Conditioning):
    """Extract the maps with a text. The plain variant returns means of what it keeps, which computes everything."""
    if not variant.plain:
        return backbone.extract(latents, text).maps
    processor = next(iter(backbone.unet.attn_processors.values()))
    processor.kept.clear()
    backbone.unet(latents, 0, text.embeddings)
    return [probabilities.mean() for probabilities in processor.kept]
