from pathlib import Path

import huggingface_hub
import pytest
import torch
from builders import build_unet, build_vae, images
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file

from tadp import TADPBackbone
from tadp.errors import MissingFileError, ModelError, UnknownModelError
from tadp.files.hub import HubOptions, local_file


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    first_state, second_state = first.state_dict(), second.state_dict()
    return first_state.keys() == second_state.keys() and all(
        torch.equal(first_state[key], second_state[key]) for key in first_state
    )


def build_tiny_vae(**options) -> AutoencoderTiny:
    config = {
        "encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4,
        "num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4,
    } | options  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderTiny(**config).eval()


# A U-Net that replaces the model's


@pytest.mark.parametrize("where", ["root", "unet", "file", "instance"])
def test_a_unet_takes_the_place_of_the_models(model_source, tmp_path, where):
    unet = build_unet(seed=5)
    if where == "file":  # like CleanDIFT's files: only tensors, under diffusers' names
        save_file(unet.state_dict(), tmp_path / "cleandift.safetensors")
    elif where != "instance":
        unet.save_pretrained(tmp_path / "other" / ("unet" if where == "unet" else "."))
    named = {"file": tmp_path / "cleandift.safetensors", "instance": unet}.get(where, tmp_path / "other")
    backbone = TADPBackbone.from_pretrained(model_source, unet=named)
    assert same(backbone.unet, build_unet(seed=5))
    assert same(backbone.vae, TADPBackbone.from_pretrained(model_source).vae)


def test_a_unets_file_may_be_one_of_a_repository(model_source, tmp_path, monkeypatch):
    save_file(build_unet(seed=5).state_dict(), tmp_path / "sd15.safetensors")
    requests: list = []

    def download(*repository_and_file, **options):
        requests.append((repository_and_file, options))
        return str(tmp_path / "sd15.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    backbone = TADPBackbone.from_pretrained(
        model_source, unet="CompVis/cleandift/sd15.safetensors", token="secret", cache_dir=tmp_path
    )
    assert same(backbone.unet, build_unet(seed=5))
    file, options = requests[0]
    assert file == ("CompVis/cleandift", "sd15.safetensors")
    assert (options["token"], options["cache_dir"], options["local_files_only"]) == ("secret", tmp_path, False)


def test_the_tensors_of_another_unet_are_refused(model_source, tmp_path):
    save_file(build_unet(layers_per_block=2).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"(?s)other\.safetensors does not hold the U-Net that .* describes"):
        TADPBackbone.from_pretrained(model_source, unet=tmp_path / "other.safetensors")


def test_a_file_of_anything_else_is_refused_in_a_few_lines(model_source, tmp_path):
    save_file({f"layer_{k}": torch.zeros(1) for k in range(500)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ModelError, match=r'(?s)Missing key.*"conv_in\.weight".*… \(\d{2,} of them\).*\(500 of them\)'
    ) as error:
        TADPBackbone.from_pretrained(model_source, unet=tmp_path / "other.safetensors")
    assert len(str(error.value)) < 2000


def test_a_folder_of_weights_alone_is_told_of_files(model_source, tmp_path):
    save_file(build_unet().state_dict(), tmp_path / "cleandift.safetensors")
    with pytest.raises(
        MissingFileError, match=r"neither config\.json nor unet/ in .* pass the path of the file: .*safetensors"
    ):
        TADPBackbone.from_pretrained(model_source, unet=tmp_path)


@pytest.mark.parametrize("name", ["nowhere.safetensors", "a/nowhere.safetensors", Path("no/such/file.safetensors")])
def test_a_file_that_is_nowhere_is_unknown(name):
    with pytest.raises(UnknownModelError, match=r"unknown file .*: it is neither on this machine nor on the hub"):
        local_file(name, hub=HubOptions())


def test_a_file_of_a_repository_that_is_not_cached_names_both(tmp_path):
    hub = HubOptions(revision="v2", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(UnknownModelError, match=r"cannot get 'b/c\.safetensors' from 'someone/a' at revision 'v2'"):
        local_file("someone/a/b/c.safetensors", hub=hub)


# A VAE


@pytest.mark.parametrize("where", ["root", "vae", "instance"])
def test_a_tiny_vae_encodes_in_place_of_the_models(model_source, tmp_path, where):
    vae = build_tiny_vae()
    if where != "instance":
        vae.save_pretrained(tmp_path / "taesd" / ("vae" if where == "vae" else "."))
    backbone = TADPBackbone.from_pretrained(model_source, vae=vae if where == "instance" else tmp_path / "taesd")
    pixels = images(1, 70, 64)
    padded = torch.nn.functional.pad(pixels, (0, 0, 0, 58), mode="replicate")
    with torch.no_grad():
        expected = vae.encode(2 * padded - 1).latents
        assert torch.equal(backbone.encode_image(pixels), expected)  # its latents are already scaled
        assert backbone(pixels, "a dog").maps[0].shape == (1, 8, 9, 8)
    sampled = TADPBackbone.from_pretrained(model_source, vae=vae, sample_posterior=True)
    assert torch.equal(sampled.encode_image(pixels), expected)
    backbone.save_pretrained(tmp_path / "saved")
    again = TADPBackbone.from_pretrained(tmp_path / "saved")
    assert same(again, backbone)
    assert set(load_file(tmp_path / "saved" / "vae" / "diffusion_pytorch_model.safetensors")) == {
        f"encoder.{name}" for name in vae.encoder.state_dict()
    }


def test_a_vae_of_other_latents_is_refused(model_source):
    with pytest.raises(ModelError, match=r"the VAE makes 16 latent channels, but the model takes 4"):
        TADPBackbone.from_pretrained(model_source, vae=build_tiny_vae(latent_channels=16))


def test_a_vae_of_another_kind_is_refused(model_source, tmp_path):
    build_unet().save_pretrained(tmp_path / "unet")
    with pytest.raises(ModelError, match=r"holds a 'UNet2DConditionModel'; tadp reads AutoencoderKL, AutoencoderTiny"):
        TADPBackbone.from_pretrained(model_source, vae=tmp_path / "unet")
    assert TADPBackbone.from_pretrained(model_source, vae=build_vae(seed=4)).vae.reduction == 8
