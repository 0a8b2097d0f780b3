"""DreamBooth: what moves, prior preservation, the LoRA, and what diffusers reads of it."""

import json

import numpy as np
import pytest
import torch
from builders import WIDTH, relative_error
from builders_personalize import TUNE, build_model, pictures, tune
from diffusers import UNet2DConditionModel

import tadp
from tadp.errors import ImageError, MissingExtraError, ModifierError
from tadp.images import to_pil
from tadp.personalize import dreambooth_tuning, load_diffusion, loop


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("dreambooth") / "sd")


def unet_of(modifier):
    return modifier._steps[0].unet


def predicted(unet):
    generator = torch.Generator().manual_seed(0)
    noisy, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, WIDTH, generator=generator)
    with torch.no_grad():
        return unet(noisy, 500, text).sample


def test_the_whole_unet_moves_and_nothing_else(source, monkeypatch):
    loaded = []

    def keep(*arguments, **options):
        loaded.append(load_diffusion(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr(dreambooth_tuning, "load_diffusion", keep)
    modifier = tune(source, pictures(), **TUNE)
    before = load_diffusion(source)
    tuned, old = unet_of(modifier).state_dict(), before.backbone.unet.state_dict()
    still = [name for name in old if torch.equal(tuned[name], old[name])]
    assert not still  # the last layers too, which a backbone does not use
    for part in ("vae", "text_encoder"):
        one, other = (getattr(model.backbone, part).state_dict() for model in (before, loaded[0]))
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert modifier("Two dogs") == ["a sks style painting of two dogs"]


def test_diffusers_reads_the_unet(source, tmp_path):
    modifier = tune(source, pictures(), **TUNE, output=tmp_path)
    read = UNet2DConditionModel.from_pretrained(tmp_path / "unet").state_dict()
    tuned = unet_of(modifier).state_dict()
    assert read.keys() == tuned.keys()
    assert all(torch.equal(read[name], tuned[name]) for name in read)
    again = tadp.CaptionModifier.from_pretrained(tmp_path)
    assert again.templates == modifier.templates
    backbone = tadp.TADPBackbone.from_pretrained(source)
    with again.install(backbone):
        assert torch.equal(backbone.unet.conv_in.weight, tuned["conv_in.weight"])
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == TUNE["steps"]


def test_a_lora_is_merged_and_diffusers_reads_it_apart(source, tmp_path):
    modifier = tune(source, pictures(), **TUNE | {"lr": 0.05}, lora_rank=2, output=tmp_path)
    merged = unet_of(modifier)
    plain = UNet2DConditionModel.from_pretrained(source / "unet")
    assert merged.state_dict().keys() == plain.state_dict().keys()
    changed = [name for name, value in plain.state_dict().items() if not torch.equal(value, merged.state_dict()[name])]
    assert changed
    assert all(".attn" in name and name.endswith("weight") for name in changed)
    untouched = predicted(plain)
    plain.load_lora_adapter(tmp_path, weight_name="pytorch_lora_weights.safetensors", prefix="unet")
    torch.testing.assert_close(predicted(plain), predicted(merged), rtol=1e-4, atol=1e-5)
    assert relative_error(predicted(merged), untouched) > 1e-3
    again = UNet2DConditionModel.from_pretrained(tmp_path / "unet").state_dict()
    assert all(torch.equal(again[name], value) for name, value in merged.state_dict().items())
    written = (tmp_path / "pytorch_lora_weights.safetensors").read_bytes()
    modifier.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "pytorch_lora_weights.safetensors").read_bytes() == written
    tadp.CaptionModifier.from_pretrained(tmp_path / "copy").save_pretrained(tmp_path / "second")
    assert (tmp_path / "second" / "pytorch_lora_weights.safetensors").read_bytes() == written
    tadp.CaptionModifier("a photo of {caption}").save_pretrained(tmp_path / "second")  # an older model's parts go
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == ["modifier.json"]
    tune(source, pictures(), **TUNE, output=tmp_path, resume=False)
    assert not (tmp_path / "pytorch_lora_weights.safetensors").exists()  # it belonged to the U-Net of the older run


def test_one_seed_gives_one_unet(source):
    one, same, other = (unet_of(tune(source, pictures(), **TUNE, lora_rank=2, seed=seed)) for seed in (0, 0, 1))
    weights = [unet.state_dict() for unet in (one, same, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_bfloat16_trains_a_unet_of_float32(source, monkeypatch):
    seen = []
    predict = dreambooth_tuning.DiffusionModel.predict

    def watch(self, noisy, timesteps, embeddings):
        seen.append((self.backbone.unet.dtype, embeddings.dtype, self.precision))
        return predict(self, noisy, timesteps, embeddings)

    monkeypatch.setattr(dreambooth_tuning.DiffusionModel, "predict", watch)
    tuned = unet_of(tune(source, pictures(), **TUNE, dtype=torch.bfloat16))
    assert set(seen) == {(torch.float32, torch.bfloat16, torch.bfloat16)}
    weight = tuned.state_dict()["conv_in.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())
    low = unet_of(tune(source, pictures(), **TUNE, dtype=torch.bfloat16, lora_rank=2))
    assert low.dtype is torch.float32


def test_gradient_checkpointing_changes_nothing_but_memory(source):
    plain, saving = (unet_of(tune(source, pictures(), **TUNE, gradient_checkpointing=on)) for on in (False, True))
    assert not saving.is_gradient_checkpointing
    torch.testing.assert_close(predicted(saving), predicted(plain), rtol=1e-3, atol=1e-4)


# Prior preservation


def test_prior_images_add_their_weighted_loss(source, monkeypatch):
    """Each step has a part for either, and a weight of 0 leaves nothing but the first."""
    parts = []
    losses = loop._losses

    def watch(*arguments):
        listed = []
        for part in losses(*arguments):
            listed.append(part.item())
            yield part
        parts.append(listed)

    monkeypatch.setattr(loop, "_losses", watch)
    prior = {"prior_images": pictures(2, seed=9), "prior_prompt": "a photo"}
    single_step = TUNE | {"steps": 1}
    tune(source, pictures(), **single_step, **prior)
    tune(source, pictures(), **single_step, **prior, prior_weight=0.5)
    assert len(parts[0]) == len(parts[1]) == 2
    assert parts[0][0] == parts[1][0]
    assert parts[1][1] == pytest.approx(parts[0][1] / 2)
    monkeypatch.undo()
    without = unet_of(tune(source, pictures(), **single_step)).state_dict()
    none = unet_of(tune(source, pictures(), **single_step, **prior, prior_weight=0.0)).state_dict()
    kept = unet_of(tune(source, pictures(), **single_step, **prior)).state_dict()
    assert all(torch.equal(none[name], value) for name, value in without.items())
    assert any(not torch.equal(kept[name], value) for name, value in without.items())


def test_prior_images_are_drawn_once(source, tmp_path, monkeypatch):
    settings = TUNE | {"steps": 1, "prior_images": 3, "prior_prompt": "a photo"}
    first = unet_of(tune(source, pictures(), **settings, output=tmp_path)).state_dict()
    (folder,) = tmp_path.glob("prior-*")
    drawn = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"0000.png", "0001.png", "0002.png"} <= drawn.keys()
    sizes = {to_pil(folder / name).size for name in drawn}
    assert sizes == {(64, 64)}
    assert len(set(drawn.values())) == len(drawn)
    for spoil in (lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:99])):
        spoil(folder / "0001.png")
        again = unet_of(tune(source, pictures(), **settings, output=tmp_path, resume=False)).state_dict()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == drawn
        assert all(torch.equal(again[name], value) for name, value in first.items())
    monkeypatch.setattr("tadp.personalize.dreambooth_tuning.Sampler", lambda model: pytest.fail("drawn again"))
    tune(source, pictures(), **settings, output=tmp_path, resume=False)


def test_the_sheets_show_the_prior_too(source, tmp_path):
    prior = {"prior_images": pictures(1), "prior_prompt": "a photo"}
    tune(source, pictures(), **TUNE | {"sample_every": 3}, **prior, output=tmp_path)
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["step-00000000.png", "step-00000003.png"]
    picture = np.asarray(to_pil(tmp_path / "samples" / "step-00000000.png"))
    assert picture.shape[0] == 12 + 22 + 2 * (22 + 64 + 12)


# What images are called


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "a sks style painting"),
        ({"instance_prompt": "an image in sks style"}, "an image in sks style"),
        ({"captions": ["A dog"] * 3}, "a sks style painting of a dog"),
        ({"prompt": "a dashcam photo of {caption} at zwx night", "token": "zwx"}, "a dashcam photo at zwx night"),
    ],
)
def test_what_images_are_called(source, options, text, monkeypatch):
    seen = []
    train = dreambooth_tuning.train

    def watch(model, concepts, **options):
        seen.append(concepts)
        train(model, concepts, **options)

    monkeypatch.setattr(dreambooth_tuning, "train", watch)
    tune(source, pictures(), **TUNE | {"steps": 1}, **options)
    assert seen[0][0].texts == [[text]] * 3


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"token": "s k s"}, ModifierError, r"one word without white space"),
        ({"prompt": "a painting of {caption}"}, ModifierError, r"the prompt 'a painting' lacks the token 'sks'"),
        ({"instance_prompt": "an image"}, ModifierError, r"the instance_prompt 'an image' lacks the token"),
        ({"prior_images": 3}, ModifierError, r"pass both, e.g. prior_images=200"),
        ({"prior_prompt": "a photo"}, ModifierError, r"pass both"),
        ({"prior_images": 0, "prior_prompt": "a photo"}, ValueError, r"1 or more; got 0"),
        ({"prior_images": [], "prior_prompt": "a photo"}, ImageError, r"at least one image"),
        ({"lora_rank": 0}, ValueError, r"lora_rank must be 1 or more; got 0"),
        (
            {"prior_images": pictures(), "prior_prompt": "a", "prior_weight": -1.0},
            ValueError,
            r"prior_weight must be 0 or",
        ),
        ({"max_grad_norm": 0.0}, ValueError, r"max_grad_norm must be above 0; got 0.0"),
        ({"max_grad_norm": -1.0}, ValueError, r"max_grad_norm must be above 0; got -1.0"),
        ({"steps": 0}, ValueError, r"steps must be 1 or more; got 0"),
    ],
)
def test_a_wrong_argument_is_refused_before_training(source, options, error, match, monkeypatch):
    monkeypatch.setattr(dreambooth_tuning, "train", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(error, match=match):
        tune(source, pictures(), **TUNE | options)


def test_no_images_are_refused(source):
    with pytest.raises(ImageError, match=r"at least one image"):
        tune(source, [], **TUNE)


def test_a_lora_without_peft_says_what_to_install(source, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"a LoRA needs peft, .*: pip install 'tadp\[train\]'"):
        tune(source, pictures(), **TUNE, lora_rank=2)
