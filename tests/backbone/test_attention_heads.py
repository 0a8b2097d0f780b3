"""Attention of each head: the option record_heads of a backbone, at any size, in tiles and in half precision."""

import pytest
import torch
from builders import build_backbone, build_unet, build_vae, images
from builders_families import build_family
from diffusers import DDIMScheduler

from tadp import TADPBackbone
from tadp.diffusion.attention import AttentionRecorder
from tadp.diffusion.families import Layout
from tadp.errors import ModelError
from tadp.export import to_program

RECORDING = {"record_attention": (0, 1, 2)}


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (100, 130)])
def test_heads_change_nothing_else_and_their_mean_is_the_map(size):
    backbone = build_backbone(**RECORDING)
    plain = backbone(images(2, *size), ["a dog", "a red cat"])
    features = backbone.with_options(record_heads=True)(images(2, *size), ["a dog", "a red cat"])
    assert all(torch.equal(a, b) for a, b in zip(features.maps, plain.maps, strict=True))
    assert not plain.attention.head_maps
    for level in (0, 1, 2):
        maps, heads = features.attention.at(level), features.attention.heads(level)
        assert torch.equal(maps, plain.attention.at(level))
        layers = [layer for layer, at in backbone.layout.attention_layers.items() if at == level]
        count = sum(backbone.unet.get_submodule(layer).heads for layer in layers)
        assert heads.shape == (2, count, *maps.shape[1:])
        torch.testing.assert_close(heads.mean(dim=1), maps, rtol=0, atol=1e-6)
        assert heads.std(dim=1).mean() > 1e-3, "equal heads would prove nothing"
        assert (heads.sum(dim=2) - 1).abs().max() < 1e-5
        head = features.attention.head(count - 1).words(level)[1]["red"]
        assert torch.equal(head, heads[1, count - 1, 2])


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_heads_in_half_precision(dtype, tolerance):
    attention = build_backbone(**RECORDING, record_heads=True).to(dtype)(images(1, 64, 96), "a dog").attention
    for level in (0, 1, 2):
        heads, maps = attention.heads(level), attention.at(level)
        assert heads.dtype == maps.dtype == dtype
        torch.testing.assert_close(heads.float().mean(dim=1), maps.float(), rtol=0, atol=tolerance)
        assert (heads.float().sum(dim=2) - 1).abs().max() < 10 * tolerance


@torch.no_grad()
@pytest.mark.parametrize("options", [{"noise_samples": 2, "timestep": 100}, {"timestep": (1, 50)}])
def test_heads_are_averaged_over_passes(options):
    options |= {"scheduler": DDIMScheduler()}
    attention = build_backbone(**RECORDING, record_heads=True, **options)(images(1, 64, 64), "a dog").attention
    torch.testing.assert_close(attention.heads(1).mean(dim=1), attention.at(1), rtol=0, atol=1e-6)


@torch.no_grad()
def test_heads_are_blended_over_tiles_like_their_mean():
    backbone = build_backbone(**RECORDING, record_heads=True)
    attention = backbone.tiled(images(1, 150, 200), "a dog", tile_px=128, overlap_px=64, batch_size=2).attention
    for level in (0, 1, 2):
        torch.testing.assert_close(attention.heads(level).mean(dim=1), attention.at(level), rtol=0, atol=1e-6)
    single = backbone(images(1, 100, 120), "a dog").attention
    tiled = backbone.tiled(images(1, 100, 120), "a dog", tile_px=128, overlap_px=64).attention
    assert torch.equal(tiled.heads(1), single.heads(1))
    assert torch.equal(tiled.mean_over_levels((64, 64)).at(0), single.mean_over_levels((64, 64)).at(0))


def test_heads_have_gradients_also_under_checkpointing():
    gradients = []
    for is_checkpointed in (False, True):
        backbone = build_backbone(record_attention=(1,), attach_attention=(), record_heads=True).train()
        backbone.enable_gradient_checkpointing(is_checkpointed)
        backbone(images(1, 64, 64), "a dog").attention.heads(1)[:, 1, 2].sum().backward()
        layer = next(layer for layer, at in backbone.layout.attention_layers.items() if at == 1)
        gradients.append(backbone.unet.get_submodule(layer).to_q.weight.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


def test_the_option_is_saved_shown_and_checked(tmp_path, no_type_checker):
    backbone = build_backbone(record_heads=True)
    backbone.save_pretrained(tmp_path / "saved")
    assert TADPBackbone.from_pretrained(tmp_path / "saved").record_heads
    assert "recorded attention: none; each head of levels 1, 2" in repr(backbone)
    with pytest.raises(ValueError, match=r"record_heads needs levels to record; pass record_attention=\(0, 1\)"):
        build_backbone(attach_attention=(), record_heads=True)
    with pytest.raises(TypeError, match=r"record_heads must be True or False; got 1"):
        backbone.with_options(record_heads=1)
    with pytest.raises(
        ValueError, match=r"attention per head is not exported; pass backbone\.with_options\(record_heads"
    ):
        to_program(backbone, image_size=(64, 64))


@torch.no_grad()
def test_stable_diffusion_xl_has_heads(tmp_path):
    folder = build_family("SDXL", tmp_path / "xl")
    backbone = TADPBackbone.from_pretrained(folder, attach_attention=(), record_attention=(1,), record_heads=True)
    attention = backbone(images(1, 64, 64), "a dog").attention
    torch.testing.assert_close(attention.heads(1).mean(dim=1), attention.at(1), rtol=0, atol=1e-6)


def test_a_family_without_heads_is_refused(monkeypatch):
    monkeypatch.setattr("tadp.diffusion.families.stable_diffusion.StableDiffusion.records_heads", False)
    with pytest.raises(ValueError, match=r"attention per head is not recorded for Stable Diffusion 1\.x and 2\.x"):
        TADPBackbone(unet=build_unet(), vae=build_vae(), text_length=77, record_heads=True)


@pytest.mark.parametrize("channels", [5, 12])
def test_a_pass_that_returns_no_heads_is_refused(channels):
    layout = Layout((8,), (1,), (), {"a": 0}, 4, 16)
    arguments = {"tokens": 5, "record_levels": (0,), "record_heads": True, "family": "Sketches"}
    latents, attention = torch.zeros(1, 4, 2, 2), {0: torch.zeros(1, channels, 2, 2)}
    with pytest.raises(ModelError, match=r"the attention of level 0 must be \(B, 10 tokens, height, width\)"):
        layout.check_pass((torch.zeros(1, 8, 2, 2),), attention, latents, **arguments)


def test_layers_with_other_numbers_of_heads_follow_each_other():
    recorder = AttentionRecorder((0,), keep_heads=True)
    maps = {name: torch.rand(1, 1 + heads, 6, 5) for name, heads in (("b", 2), ("a", 3))}
    for name, layer in maps.items():
        recorder.store(name, 0, layer)
    recorded = recorder.close({0: (2, 3)})[0].unflatten(1, (-1, 5))
    expected = torch.cat([(maps["b"][:, :1] + maps["a"][:, :1]) / 2, maps["b"][:, 1:], maps["a"][:, 1:]], dim=1)
    torch.testing.assert_close(recorded, expected.transpose(2, 3).unflatten(3, (2, 3)))
