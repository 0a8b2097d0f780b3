"""What a variant does: encode an image, run the U-Net, or a training step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from benchmarking.variants import Variant
from tadp import Conditioning, TADPBackbone

KEPT_TOKENS = 32**2  # at 512 pixels, the released code keeps the means of layers with up to 32 x 32 cells
STOP = 1  # the up block whose output, after its upsampler, DIFT takes for correspondences; its up_ft_index


class PlainProcessor(AttnProcessor):
    """Attention that writes out all probabilities and averages heads, self-attention too, like the released code."""

    def __init__(self):
        super().__init__()
        self.kept: list[Tensor] = []

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


def encode(backbone: TADPBackbone, variant: Variant, image: Tensor) -> Tensor:
    """Encode an image as the variant does."""
    if variant.way == "tadp":
        return backbone.encode_image(image)
    attentions = [module for module in backbone.vae.modules() if isinstance(module, Attention)]
    processors = [module.processor for module in attentions]
    for module in attentions if variant.way == "by hand" else ():
        module.set_processor(AttnProcessor())
    moments = backbone.vae.quant_conv(backbone.vae.encoder(2 * image.to(variant.dtype) - 1))  # diffusers' own forward
    for module, processor in zip(attentions, processors, strict=True):
        module.set_processor(processor)
    return DiagonalGaussianDistribution(moments).mode() * backbone.vae.scaling_factor


def extract(backbone: TADPBackbone, variant: Variant, latents: Tensor, text: Conditioning) -> dict[str, Tensor]:
    """Run the U-Net as the variant does, and return the maps by name, if it has any."""
    unet: Any = backbone.unet
    if variant.way == "tadp":
        maps = with_attention(backbone, variant).extract(latents, text, levels=variant.levels).maps
        return {f"level {level}": feature for level, feature in zip(variant.levels or range(4), maps, strict=True)}
    if variant.way == "by hand":
        processors, plain = dict(unet.attn_processors), PlainProcessor()
        unet.set_attn_processor(plain)
        unet(latents, backbone.options.timestep, text.embeddings)
        unet.set_attn_processor(processors)
    elif "stopped" in variant.way:
        with kept(unet.up_blocks[STOP].upsamplers[0], stops=True) as outputs:
            if variant.way == "stopped":
                unet(latents, backbone.options.timestep, text.embeddings)
            else:
                with_attention(backbone, variant).extract(latents, text, levels=(1, 2, 3))
        return {"module": outputs[0]}
    elif variant.way == "hooks":
        with kept(*(unet.get_submodule(name) for name in backbone.layout.taps)) as maps:  # the coarsest runs first
            unet(latents, backbone.options.timestep, text.embeddings)
        return {f"level {len(maps) - 1 - place}": feature for place, feature in enumerate(maps)}
    else:
        unet(latents, backbone.options.timestep, text.embeddings)
    return {}


def with_attention(backbone: TADPBackbone, variant: Variant) -> TADPBackbone:
    """The backbone, without attached attention if the variant has none."""
    return backbone if variant.attention else backbone.with_options(attach_attention=())


class StoppedError(Exception):
    """A pass ended where it should."""


@contextmanager
def kept(*modules: nn.Module, stops: bool = False) -> Iterator[list[Tensor]]:
    """Keep the outputs of modules that run in the block, and perhaps end the block after the first."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)
        if stops:
            raise StoppedError

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield outputs
    except StoppedError:
        pass
    finally:
        for handle in handles:
            handle.remove()


def step(backbone: TADPBackbone, variant: Variant, latents: Tensor, text: Conditioning) -> None:
    """Run a forward and a backward pass of a U-Net that trains. diffusers' maps are taken by hooks, the usual way."""
    unet: Any = backbone.unet
    if variant.way == "tadp":
        maps = with_attention(backbone, variant).extract(latents, text).maps
    else:
        with kept(*(unet.get_submodule(name) for name in backbone.layout.taps)) as maps:
            unet(latents, backbone.options.timestep, text.embeddings)
    sum(feature.square().mean() for feature in maps).backward()
    unet.zero_grad(set_to_none=True)
