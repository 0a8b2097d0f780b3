"""Compare with the released extractor's output (tests/data/golden, see facts.json), and with plain diffusers."""

import copy
from functools import cache

import pytest
import torch
from builders import build_unet, build_vae, relative_error
from diffusers import UNet2DConditionModel
from golden import CASES, TOLERANCE, build, expected_map, golden

from tadp import Conditioning, Features, TADPBackbone

ATTENTION_LEVELS = {"attn64": 0, "attn32": 1, "attn16": 2}  # named after the width of the map for a 512x512 image


@cache
def features(case: str, dtype: torch.dtype) -> Features:
    with torch.no_grad():
        return build(case, dtype)(
            golden("inputs")["image"].to(torch.float64) / 255, Conditioning(golden("inputs")["context"].float())
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_every_map_is_the_released_codes(case, dtype):
    maps = features(case, dtype).maps
    assert [list(feature.shape) for feature in maps] == CASES[case]["feats"]
    for level, feature in enumerate(maps):
        assert feature.dtype == dtype
        assert relative_error(feature, expected_map(case, level)) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_the_attention_is_the_released_codes(case, dtype):
    attention = features(case, dtype).attention
    recorded = {name: level for name, level in ATTENTION_LEVELS.items() if CASES[case]["attn"][name]}
    assert attention.levels == tuple(sorted(recorded.values()))
    for name, level in recorded.items():
        assert relative_error(attention.at(level), golden("expected")[f"{case}.{name}"]) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_double_precision_agrees_with_single(case):
    for double, single in zip(features(case, torch.float64).maps, features(case, torch.float32).maps, strict=True):
        assert relative_error(single, double) < TOLERANCE


@pytest.mark.parametrize(
    ("case", "name"), [("t1.unscaled.default", "latent_mode"), ("t1.scaled.default", "latent_scaled")]
)
def test_the_latents_are_the_released_codes(case, name):
    latents = build(case, torch.float32).encode_image(golden("inputs")["image"])
    assert relative_error(latents, golden("expected")[name]) < TOLERANCE


def test_the_timestep_and_the_scale_matter_more_than_the_tolerance():
    """Otherwise the cases would prove nothing."""
    cases = [case for case in CASES if case.endswith("default")]
    for level in range(4):
        first, *rest = [expected_map(case, level) for case in cases]
        assert min(relative_error(other, first) for other in rest) > 20 * TOLERANCE


# Random networks: channels, heads per layer, layers per block, transformer layers, and width of the text.
NETWORKS = {
    "narrow": ((8, 16, 16, 16), 2, 1, 1, 16),
    "Stable Diffusion's depth": ((32, 64, 96, 96), 4, 2, 1, 48),
    "three layers, one head": ((16, 32, 32), 1, 3, 1, 24),
    "two transformer layers": ((24, 48), 3, 2, 2, 40),
}
SIZES = [(128, 64), (64, 192)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("network", NETWORKS)
def test_double_precision_agrees_with_plain_diffusers(network, size):
    """Maps by hooks on diffusers' own forward, attention by the softmax of what its projections returned."""
    channels, heads, layers, depth, width = NETWORKS[network]
    options = {"attention_head_dim": heads, "transformer_layers_per_block": depth, "cross_attention_dim": width}
    unet = build_unet(seed=1, channels=channels, layers_per_block=layers, **options).double()
    vae = build_vae().double()
    backbone = TADPBackbone(vae=copy.deepcopy(vae), unet=copy.deepcopy(unet), attach_attention=())
    levels = range(1, len(channels) - 1) if len(channels) > 2 else (0,)
    backbone = backbone.with_options(record_attention=tuple(levels), record_heads=True)
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)
    text = torch.randn(2, 9, width, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        result = backbone(image, Conditioning(text))
        mode = vae.encode(2 * image - 1).latent_dist.mode() * vae.config.scaling_factor
        maps, attention = by_hooks(unet, mode, text, layers)
    assert len(result.maps) == len(maps) == len(channels)
    for ours, expected in zip(result.maps, maps, strict=True):
        assert ours.shape == expected.shape
        assert relative_error(ours, expected) < 1e-9
    for level in levels:
        assert relative_error(result.attention.at(level), attention[level].mean(dim=1)) < 1e-9
        assert result.attention.heads(level).shape == attention[level].shape
        assert relative_error(result.attention.heads(level), attention[level]) < 1e-9
    assert attention[1 if len(channels) > 2 else 0].std(dim=1).mean() > 0.01, "equal heads would prove nothing"


def by_hooks(unet: UNet2DConditionModel, latents: torch.Tensor, text: torch.Tensor, layers: int):
    """Maps and the attention of each head by level, finest first, from one call of diffusers' U-Net."""
    count, outputs, projected, hooks = len(unet.up_blocks), {}, {}, []

    def keep(store, key):
        def hook(module, inputs, output):
            store[key] = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)

        return hook

    for name, module in unet.named_modules():
        if name.endswith((".attn2.to_q", ".attn2.to_k")):
            hooks.append(module.register_forward_hook(keep(projected, name)))
        elif name.startswith("up_blocks.") and name.split(".")[-2] in ("resnets", "attentions"):
            hooks.append(module.register_forward_hook(keep(outputs, name)))
    try:
        unet(latents, 0, encoder_hidden_states=text)
    finally:
        for hook in hooks:
            hook.remove()
    maps, attention = [], {}
    for level in range(count):
        block = count - 1 - level
        layer = layers if level == 0 else layers - 1  # the last layer of the finest level, else the last but one
        kind = "attentions" if f"up_blocks.{block}.attentions.{layer}" in outputs else "resnets"
        maps.append(outputs[f"up_blocks.{block}.{kind}.{layer}"])
        own = (f"down_blocks.{level}.", f"up_blocks.{block}.")
        queries = [name for name in projected if name.startswith(own) and name.endswith("to_q")]
        shape = maps[-1].shape[2:]
        heads = [head_attention(unet, name, projected, shape) for name in queries]  # down blocks run first
        if heads:
            attention[level] = torch.cat(heads, dim=1)
    return maps, attention


def head_attention(unet: UNet2DConditionModel, name: str, projected: dict, shape: torch.Size) -> torch.Tensor:
    heads = unet.get_submodule(name.removesuffix(".to_q")).heads
    query, key = (projected[name.removesuffix("to_q") + kind].unflatten(-1, (heads, -1)) for kind in ("to_q", "to_k"))
    logits = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    return logits.softmax(-1).transpose(2, 3).unflatten(-1, shape)
