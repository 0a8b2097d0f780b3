import copy
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from builders import build_unet, build_vae, images
from builders_families import build_family, build_flux, build_sd3, build_xl_unet
from diffusers import AutoencoderTiny
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from tadp import TADPBackbone
from tadp.errors import CorruptFileError, MissingFileError, ModelError, UnknownModelError
from tadp.hub import local_file


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def build_tiny_vae(**options) -> AutoencoderTiny:
    config = {
        "encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4,
        "num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4,
    } | options  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderTiny(**config).eval()


# A U-Net in place of the model's


@pytest.mark.parametrize("where", ["root", "unet", "file", "instance"])
def test_a_unet_takes_the_place_of_the_models(model_source, tmp_path, where):
    unet = build_unet(seed=5)
    if where == "file":  # as CleanDIFT's are: the tensors alone, under diffusers' names
        save_file(unet.state_dict(), tmp_path / "cleandift.safetensors")
    elif where != "instance":
        unet.save_pretrained(tmp_path / "other" / ("unet" if where == "unet" else "."))
    named = {"file": tmp_path / "cleandift.safetensors", "instance": unet}.get(where, tmp_path / "other")
    backbone = TADPBackbone.from_pretrained(model_source, unet=named)
    assert same(backbone.unet, build_unet(seed=5))
    assert same(backbone.vae, TADPBackbone.from_pretrained(model_source).vae)


def test_a_unets_file_may_be_one_of_a_repository(model_source, tmp_path, monkeypatch):
    save_file(build_unet(seed=5).state_dict(), tmp_path / "sd15.safetensors")
    asked: list = []

    def download(*repository_and_file, **how):
        asked.append((repository_and_file, how))
        return str(tmp_path / "sd15.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    backbone = TADPBackbone.from_pretrained(
        model_source, unet="CompVis/cleandift/sd15.safetensors", token="secret", cache_dir=tmp_path
    )
    assert same(backbone.unet, build_unet(seed=5))
    (where, how) = asked[0]
    assert where == ("CompVis/cleandift", "sd15.safetensors")
    assert (how["token"], how["cache_dir"], how["local_files_only"]) == ("secret", tmp_path, False)


def test_the_tensors_of_another_unet_are_refused(model_source, tmp_path):
    save_file(build_unet(layers_per_block=2).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"(?s)other\.safetensors does not hold the U-Net that .* describes"):
        TADPBackbone.from_pretrained(model_source, unet=tmp_path / "other.safetensors")


def test_a_folder_of_weights_alone_is_told_of_files(model_source, tmp_path):
    save_file(build_unet().state_dict(), tmp_path / "cleandift.safetensors")
    with pytest.raises(MissingFileError, match=r"neither config\.json nor unet/ in .*; name the file|name the file"):
        TADPBackbone.from_pretrained(model_source, unet=tmp_path)


@pytest.mark.parametrize("name", ["nowhere.safetensors", "a/nowhere.safetensors", Path("no/such/file.safetensors")])
def test_a_file_that_is_nowhere_is_unknown(name):
    with pytest.raises(UnknownModelError, match=r"unknown file .* it is not here, and no file of a repository"):
        local_file(name)


def test_a_file_of_a_repository_that_is_not_cached_names_both(tmp_path):
    with pytest.raises(UnknownModelError, match=r"cannot get 'b/c\.safetensors' of 'someone/a' at revision 'v2'"):
        local_file("someone/a/b/c.safetensors", revision="v2", cache_dir=tmp_path, local_files_only=True)


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
        assert torch.equal(backbone.encode_image(pixels), expected)  # its latents come scaled
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
    with pytest.raises(ModelError, match=r"the VAE makes 16 latent channels, the model takes 4"):
        TADPBackbone.from_pretrained(model_source, vae=build_tiny_vae(latent_channels=16))


def test_a_vae_of_another_kind_is_refused(model_source, tmp_path):
    build_unet().save_pretrained(tmp_path / "unet")
    with pytest.raises(ModelError, match=r"holds a 'UNet2DConditionModel'; tadp reads AutoencoderKL, AutoencoderTiny"):
        TADPBackbone.from_pretrained(model_source, vae=tmp_path / "unet")
    assert TADPBackbone.from_pretrained(model_source, vae=build_vae(seed=4)).vae.reduction == 8


# A LoRA

TARGETS = ["to_q", "to_v"]


def lora_of(model, *, seed: int = 1) -> dict[str, torch.Tensor]:
    """Random factors by layer, as peft names them."""
    model = copy.deepcopy(model)
    model.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=TARGETS))
    generator = torch.Generator().manual_seed(seed)
    state = get_peft_model_state_dict(model)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


def added(model, factors: dict[str, torch.Tensor], scale: float):
    """The oracle: W + scale · B A, layer by layer."""
    model, state = copy.deepcopy(model), {}
    for name, one in model.state_dict().items():
        layer = name.removesuffix(".weight")
        a, b = (factors.get(f"{layer}.lora_{side}.weight") for side in "AB")
        state[name] = one if a is None or b is None else one + scale * b @ a
    model.load_state_dict(state)
    return model


def kohya(factors: dict[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in factors.items():
        layer, _, side = name.partition(".lora_")
        base = "lora_unet_" + layer.replace(".", "_")
        state[f"{base}.lora_{'down' if side.startswith('A') else 'up'}.weight"] = tensor
        state[f"{base}.alpha"] = torch.tensor(alpha)
    return state


@pytest.mark.parametrize(("form", "scale"), [("diffusers", 1.0), ("diffusers", 0.5), ("kohya", 1.0)])
def test_a_lora_is_added_to_the_weights(model_source, tmp_path, form, scale):
    factors = lora_of(build_unet())
    state = {f"unet.{name}": tensor for name, tensor in factors.items()} if form == "diffusers" else kohya(factors, 1.0)
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    expected = added(build_unet(), factors, scale * (1.0 if form == "diffusers" else 0.5))  # kohya: alpha / rank
    backbone = TADPBackbone.from_pretrained(model_source, lora=tmp_path, lora_scale=scale)
    mine = backbone.unet.state_dict()
    assert mine.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(mine[name], tensor, atol=1e-5, rtol=1e-5)
    assert all(one.requires_grad for name, one in backbone.unet.named_parameters() if "_out" not in name)
    backbone.save_pretrained(tmp_path / "saved")
    assert same(TADPBackbone.from_pretrained(tmp_path / "saved"), backbone)


@pytest.mark.parametrize(("family", "build"), [("SDXL", build_xl_unet), ("SD 3", build_sd3), ("FLUX", build_flux)])
def test_a_lora_of_each_family_is_added(family, build, tmp_path):
    folder = build_family(family, tmp_path / "model")
    factors = lora_of(build())
    prefix = "unet" if family == "SDXL" else "transformer"
    save_file({f"{prefix}.{name}": tensor for name, tensor in factors.items()}, tmp_path / "lora.safetensors")
    given = build()
    backbone = TADPBackbone.from_pretrained(folder, unet=given, lora=tmp_path / "lora.safetensors")
    expected = added(build(), factors, 1.0).state_dict()
    for name, tensor in backbone.unet.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)
    assert same(given, build())  # the one that was given is as it was


def test_a_lora_of_another_family_is_refused_with_what_does_not_fit(model_source, tmp_path):
    unet = build_unet()
    path = tmp_path / "lora.safetensors"
    wide = {f"unet.{name}": tensor for name, tensor in lora_of(build_unet(cross_attention_dim=24)).items()}
    save_file(wide, path)
    with pytest.raises(ModelError, match=r"attn2\.to_v, where it takes 24 channels and the model's layer 16\."):
        TADPBackbone.from_pretrained(model_source, unet=unet, lora=path)
    save_file({f"unet.{name}": one for name, one in lora_of(build_unet(layers_per_block=2)).items()}, path)
    with pytest.raises(ModelError, match=r"changes .*, which this model has not\. It was trained for another family"):
        TADPBackbone.from_pretrained(model_source, unet=unet, lora=path)
    save_file({f"transformer.{name}": one for name, one in lora_of(build_sd3()).items()}, path)
    with pytest.raises(ModelError, match=r"changes nothing of the unet\. It was trained for another family"):
        TADPBackbone.from_pretrained(model_source, unet=unet, lora=path)
    assert same(unet, build_unet())


def test_what_a_lora_does_to_the_text_is_told(model_source, tmp_path):
    state = {f"unet.{name}": tensor for name, tensor in lora_of(build_unet()).items()}
    state["text_encoder.encoder.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(2, 16)
    save_file(state, tmp_path / "lora.safetensors")
    with pytest.warns(UserWarning, match=r"also changes the text encoder \(1 tensors, .*\); tadp leaves that out"):
        TADPBackbone.from_pretrained(model_source, lora=tmp_path / "lora.safetensors")


def test_a_folder_without_a_lora_and_a_damaged_file_are_named(model_source, tmp_path):
    with pytest.raises(MissingFileError, match=r"no pytorch_lora_weights\.safetensors in .*, which has none; name the"):
        TADPBackbone.from_pretrained(model_source, lora=tmp_path)
    (tmp_path / "lora.safetensors").write_bytes(b"no")
    with pytest.raises(CorruptFileError, match=r"lora\.safetensors is no whole safetensors file"):
        TADPBackbone.from_pretrained(model_source, lora=tmp_path)
    shutil.copy(model_source / "vae" / "diffusion_pytorch_model.safetensors", tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match=r"lora\.safetensors"):
        TADPBackbone.from_pretrained(model_source, lora=tmp_path)
