import pytest
import torch
from builders import build_vae, images

from tadp.diffusion.vae import VAEEncoder


def test_the_posterior_is_the_whole_autoencoders():
    vae, pixels = build_vae(), images(2, 24, 40)
    posterior, expected = VAEEncoder(vae)(pixels), vae.encode(pixels).latent_dist
    assert torch.equal(posterior.mean, expected.mean)
    assert torch.equal(posterior.logvar, expected.logvar)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mid_block_add_attention": False},
        {"down_block_types": ("AttnDownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4},
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_without_a_gradient_memory_is_reused_and_the_numbers_are_the_same(options, memory_format):
    vae = build_vae(**options).to(memory_format=memory_format)
    pixels = images(2, 24, 40).contiguous(memory_format=memory_format)
    kept = pixels.clone()
    with torch.no_grad():
        posterior, expected = VAEEncoder(vae)(pixels), vae.encode(pixels).latent_dist
    assert torch.equal(posterior.parameters, expected.parameters)
    assert torch.equal(pixels, kept)


def test_bfloat16_on_a_cpu_attends_block_by_block_with_the_same_result(monkeypatch):
    monkeypatch.setattr("tadp.diffusion.attention.BLOCK", 16)
    vae, pixels = build_vae(), images(2, 64, 80)  # 80 latent cells: blocks of 16
    exact = vae.encode(pixels).latent_dist.mean
    with torch.no_grad():
        half = vae.to(torch.bfloat16)
        mean = VAEEncoder(half)(pixels.bfloat16()).mean
        fused = half.encode(pixels.bfloat16()).latent_dist.mean
    error, usual = ((latents.float() - exact).norm() / exact.norm() for latents in (mean, fused))
    assert error < 2 * usual


def test_a_vae_without_quantisation_convolution_encodes_too():
    vae, pixels = build_vae(use_quant_conv=False), images(1, 16, 16)
    assert torch.equal(VAEEncoder(vae)(pixels).mean, vae.encode(pixels).latent_dist.mean)


def test_the_decoder_is_left_behind():
    names = VAEEncoder(build_vae()).state_dict()
    assert {name.split(".")[0] for name in names} == {"encoder", "quant_conv"}


def test_reduction_and_scaling_come_from_the_config():
    encoder = VAEEncoder(build_vae())
    assert (encoder.reduction, encoder.scaling_factor) == (8, 0.18215)
    two_levels = build_vae(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.5,
    )
    assert (VAEEncoder(two_levels).reduction, VAEEncoder(two_levels).scaling_factor) == (2, 0.5)
    assert VAEEncoder(two_levels)(images(1, 8, 6)).mean.shape == (1, 4, 4, 3)


def test_the_config_names_its_class_as_loading_needs():
    assert VAEEncoder(build_vae()).config["_class_name"] == "AutoencoderKL"
