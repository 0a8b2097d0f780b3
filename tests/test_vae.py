import torch
from builders import build_vae, images

from tadp.vae import VAEEncoder


def test_the_posterior_is_the_whole_autoencoders():
    vae, pixels = build_vae(), images(2, 24, 40)
    ours, theirs = VAEEncoder(vae)(pixels), vae.encode(pixels).latent_dist
    assert torch.equal(ours.mean, theirs.mean)
    assert torch.equal(ours.logvar, theirs.logvar)


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
