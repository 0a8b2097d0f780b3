import pytest
import torch
from builders import build_sd2_unet, build_unet, embeddings, latents
from diffusers import UNet2DConditionModel

from tadp.diffusion.families import StableDiffusion
from tadp.diffusion.unet import unet_pass
from tadp.errors import ModelError

TWO_LEVELS = {"channels": (8, 16), "attention_head_dim": 2}
THREE_LEVELS = {"channels": (8, 16, 24)}
ATTENTION_EVERYWHERE = {
    "channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}
LAYOUTS = {
    "one layer": {"layers_per_block": 1},
    "two layers": {"layers_per_block": 2},
    "three layers": {"layers_per_block": 3, "channels": (8, 16)},
    "two levels": TWO_LEVELS,
    "three levels": THREE_LEVELS,
    "layers by level": {"layers_per_block": (1, 2, 3), "channels": (8, 16, 24)},
    "attention on the coarsest level": ATTENTION_EVERYWHERE,
    "attention on only one level": {
        "channels": (8, 16, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "two transformer layers": {"transformer_layers_per_block": 2, "channels": (8, 16)},
    "no middle block": {"mid_block_type": None, "channels": (8, 16)},
    "a middle block without text": {"mid_block_type": "UNetMidBlock2D", "channels": (8, 16)},
    "centred input": {"center_input_sample": True, "channels": (8, 16)},
    "an activation after the time": {"time_embedding_act_fn": "silu", "channels": (8, 16)},
    "fourier time": {"time_embedding_type": "fourier", "channels": (8, 16)},
}
# The layers of up_blocks whose outputs are the maps, finest first, written out by hand. With two layers
# per block, they are VPD's.
TAPS = {
    (2, 4): ("3.attentions.2", "2.attentions.1", "1.attentions.1", "0.resnets.1"),
    (1, 4): ("3.attentions.1", "2.attentions.0", "1.attentions.0", "0.resnets.0"),
    (3, 4): ("3.attentions.3", "2.attentions.2", "1.attentions.2", "0.resnets.2"),
    (2, 2): ("1.attentions.2", "0.resnets.1"),
    (1, 3): ("2.attentions.1", "1.attentions.0", "0.resnets.0"),
}
FAMILY = StableDiffusion()
CHANNELS = {2: (8, 16), 3: (8, 16, 24), 4: (8, 16, 16, 16)}


def run(unet: UNet2DConditionModel, sample: torch.Tensor, text: torch.Tensor, **options):
    layout = FAMILY.layout(unet)
    FAMILY.install_recording(unet, layout)
    with torch.no_grad():
        return unet_pass(unet, sample, taps=layout.taps, embeddings=text, **({"timestep": 3} | options))


@pytest.mark.parametrize("timestep", [0, 1, 999])
@pytest.mark.parametrize("layout", [*LAYOUTS, "SD 2.x"])
def test_a_pass_continued_to_the_end_is_the_unets_own_output(layout, timestep):
    """Equal bit for bit; this fails if diffusers changes its forward."""
    options = LAYOUTS.get(layout)
    unet = build_sd2_unet() if options is None else build_unet(**options)
    sample, text = latents(2, 8, 16), embeddings(2, 5)
    with torch.no_grad():
        expected = unet(sample, timestep, encoder_hidden_states=text).sample
        maps, _ = run(unet, sample, text, timestep=timestep, record_levels=FAMILY.layout(unet).attention_levels)
        assert torch.equal(unet.conv_out(unet.conv_act(unet.conv_norm_out(maps[0]))), expected)


def test_a_masked_pass_is_the_unets_own_too():
    unet, sample, text = build_unet(), latents(2, 8, 8), embeddings(2, 5)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    with torch.no_grad():
        expected = unet(sample, 7, encoder_hidden_states=text, encoder_attention_mask=mask).sample
        maps, _ = run(unet, sample, text, timestep=7, mask=mask)
        assert torch.equal(unet.conv_out(unet.conv_act(unet.conv_norm_out(maps[0]))), expected)


@pytest.mark.parametrize(("layers", "depth"), TAPS)
def test_levels_are_taken_at_the_documented_layers(layers, depth):
    """Compared with hooks on diffusers' own forward."""
    unet = build_unet(layers_per_block=layers, channels=CHANNELS[depth])
    sample, text = latents(1, 8, 16), embeddings(1, 5)
    outputs: dict[str, torch.Tensor] = {}
    for name in TAPS[layers, depth]:

        def keep(_module, _inputs, output, name=name):
            outputs[name] = output[0] if isinstance(output, tuple) else output

        unet.get_submodule(f"up_blocks.{name}").register_forward_hook(keep)
    with torch.no_grad():
        unet(sample, 3, encoder_hidden_states=text)
    expected = [outputs[name].clone() for name in TAPS[layers, depth]]
    assert FAMILY.layout(unet).taps == tuple(f"up_blocks.{name}" for name in TAPS[layers, depth])
    maps, _ = run(unet, sample, text)
    for level, feature in enumerate(maps):
        assert torch.equal(feature, expected[level])
        assert feature.shape == (1, CHANNELS[depth][level], 8 >> level, 16 >> level)


def test_the_layout_of_stable_diffusion_1():
    layout = FAMILY.layout(build_unet(layers_per_block=2))
    assert layout.channels == (8, 16, 16, 16)
    assert layout.reduction == (1, 2, 4, 8)
    assert layout.multiple == 8
    assert layout.attention_levels == (0, 1, 2)
    levels = list(layout.attention_layers.values())
    assert [levels.count(level) for level in range(4)] == [5, 5, 5, 0]
    assert not any("mid_block" in name or "attn1" in name for name in layout.attention_layers)


@pytest.mark.parametrize(
    ("layout", "levels"),
    [
        ("two levels", (0,)),
        ("three levels", (0, 1)),
        ("attention on the coarsest level", (0, 1)),
        ("attention on only one level", (1,)),
    ],
)
def test_attention_levels_come_from_the_blocks(layout, levels):
    assert FAMILY.layout(build_unet(**LAYOUTS[layout])).attention_levels == levels


def test_whole_numbers_and_tensors_are_one_timestep():
    unet, sample, text = build_unet(), latents(1, 8, 8), embeddings(1, 5)
    for first, second in zip(
        run(unet, sample, text, timestep=5)[0], run(unet, sample, text, timestep=torch.tensor(5))[0], strict=True
    ):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"down_block_types": ("CrossAttnDownBlock2D", "AttnDownBlock2D")},
            r"unknown down block 'AttnDownBlock2D' in the U-Net; tadp reads DownBlock2D and CrossAttnDownBlock2D",
        ),
        (
            {"up_block_types": ("AttnUpBlock2D", "CrossAttnUpBlock2D")},
            r"unknown up block 'AttnUpBlock2D' in the U-Net; tadp reads UpBlock2D and CrossAttnUpBlock2D",
        ),
        (
            {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "attention_head_dim": 8},
            r"unknown mid block 'UNetMidBlock2DSimpleCrossAttn' in the U-Net",
        ),
        (
            {"addition_embed_type": "text", "encoder_hid_dim": 64},
            r"has addition_embed_type='text'; tadp reads None \(Stable Diffusion 1.x and 2.x\) and 'text_time' \(XL\)",
        ),
        ({"num_class_embeds": 10}, r"num_class_embeds=10"),
        ({"class_embed_type": "timestep"}, r"class_embed_type='timestep'"),
        ({"encoder_hid_dim": 8}, r"encoder_hid_dim_type='text_proj'"),
        ({"time_cond_proj_dim": 8}, r"time_cond_proj_dim=8"),
        ({"cross_attention_norm": "layer_norm", "channels": (8, 8)}, r"cross_attention_norm='layer_norm'"),
        ({"dual_cross_attention": True}, r"dual_cross_attention=True"),
        ({"attention_type": "gated"}, r"attention_type='gated'"),
        ({"cross_attention_dim": (16, 24)}, r"cross_attention_dim=\(16, 24\).*one number"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_another_kind_of_unet_is_refused_by_name(options, message):
    unet = build_unet(**({"channels": (8, 16)} | options))
    with pytest.raises(ModelError, match=message):
        FAMILY.layout(unet)


def test_only_layers_after_the_last_map_are_frozen():
    unet = build_unet()
    FAMILY.freeze_unused(unet, FAMILY.layout(unet))
    frozen = {name for name, parameter in unet.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv_norm_out.weight", "conv_norm_out.bias", "conv_out.weight", "conv_out.bias"}
