import contextlib
import copy
import json
import pickle
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import (
    WIDTH,
    build_backbone,
    build_sd2_unet,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
    embeddings,
    images,
    latents,
    relative_error,
)
from builders_families import build_family
from ddp_worker import train_one_step
from diffusers import UNet2DConditionModel
from PIL import Image
from running import fork_server
from tokenizers import normalizers
from torch.multiprocessing.spawn import start_processes
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextModel, CLIPTokenizer

from tadp import Conditioning, Features, TADPBackbone
from tadp.errors import CaptionError, ImageError, MissingFileError, ModelError, OutputError
from tadp.features import Word

SIZES = [(8, 8), (8, 64), (9, 13), (64, 64), (64, 128), (65, 127), (97, 201), (63, 8)]


def same(features: Features, other: Features) -> bool:
    attention = [] if features.attention is None else features.attention.levels
    return all(torch.equal(a, b) for a, b in zip(features.maps, other.maps, strict=True)) and all(
        torch.equal(features.attention.at(level), other.attention.at(level)) for level in attention
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def loss_of(features: Features) -> torch.Tensor:
    return torch.stack([level_map.square().mean() for level_map in features.maps]).sum()


# Shapes


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_maps_have_a_cell_for_each_stride_begun(backbone, size):
    features = backbone(images(2, *size), ["a dog", "a red cat on grass"])
    assert features.image_size == size
    info = backbone.feature_info
    for level_map, channels, stride in zip(features.maps, info.channels, info.reduction, strict=True):
        assert level_map.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert torch.isfinite(level_map).all()
    for level in (1, 2):
        assert features.attention.at(level).shape[2:] == features.maps[level].shape[2:]
        assert torch.equal(features.maps[level][:, -77:], features.attention.at(level))
        torch.testing.assert_close(
            features.attention.at(level).sum(dim=1), torch.ones_like(features.attention.at(level)[:, 0])
        )


@torch.no_grad()
@pytest.mark.parametrize("size", [(333, 500), (65, 511)])
def test_large_uneven_images_work_too(backbone, size):
    features = backbone(images(1, *size), "a dog")
    for level_map, stride in zip(features.maps, (8, 16, 32, 64), strict=True):
        assert level_map.shape[2:] == (-(-size[0] // stride), -(-size[1] // stride))
        assert torch.isfinite(level_map).all()


@torch.no_grad()
def test_padding_repeats_the_edge(backbone):
    pixels = images(1, 50, 70)
    padded = torch.zeros(1, 3, 64, 128)
    for row in range(64):
        for column in range(128):
            padded[:, :, row, column] = pixels[:, :, min(row, 49), min(column, 69)]
    assert torch.equal(backbone.encode_image(pixels), backbone.encode_image(padded))
    whole, cropped = backbone(padded, "a dog"), backbone(pixels, "a dog")
    for level_map, other_map in zip(whole.maps, cropped.maps, strict=True):
        assert torch.equal(level_map[:, :, : other_map.shape[2], : other_map.shape[3]], other_map)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (64, 128)])
def test_an_image_that_needs_no_padding_is_untouched(backbone, size):
    """The VAE, text encoder and U-Net called one by one give the same bits, up to the output of the U-Net."""
    pixels, unet = images(2, *size), build_unet()
    vae, text_encoder = (
        build_vae().requires_grad_(False),
        build_text_encoder().requires_grad_(False),
    )  # with gradients, PyTorch would choose another kernel
    latent = vae.encode(2 * pixels - 1).latent_dist.mode() * vae.config["scaling_factor"]
    ids = build_tokenizer()(["a dog"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    text = text_encoder(ids).last_hidden_state.repeat(2, 1, 1)
    expected = unet(latent, 0, encoder_hidden_states=text).sample
    assert torch.equal(backbone.encode_image(pixels), latent)
    finest = backbone(pixels, "a dog").maps[0]
    assert torch.equal(unet.conv_out(unet.conv_act(unet.conv_norm_out(finest))), expected)


@torch.no_grad()
def test_anything_that_shows_an_image_is_taken(backbone, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "image.png")
    expected = backbone(torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255, "a dog")
    for image in (array, picture, str(tmp_path / "image.png"), tmp_path / "image.png", [picture]):
        assert same(backbone(image, "a dog"), expected)


def test_an_image_under_8_pixels_is_refused(backbone):
    with pytest.raises(ImageError, match=r"7x20 pixels.*at least 8"):
        backbone(images(1, 7, 20), "a dog")


@torch.no_grad()
def test_an_image_in_a_batch_gets_what_it_gets_alone(backbone):
    pixels, captions = images(3, 40, 72), ["a dog", "", "a red cat"]
    together = backbone(pixels, captions)
    for number, caption in enumerate(captions):
        alone = backbone(pixels[number : number + 1], caption)
        for level_map, other_map in zip(together.maps, alone.maps, strict=True):
            assert relative_error(level_map[number : number + 1], other_map) < 1e-5


# Steps


@torch.no_grad()
def test_the_steps_are_the_whole(backbone):
    pixels, captions = images(2, 50, 70), ["a dog", "a cat"]
    sample = backbone.encode_image(pixels)
    text = backbone.encode_text(captions)
    whole = backbone(pixels, captions)
    assert same(backbone.extract(sample, text, image_size=(50, 70)), whole)
    assert same(backbone.extract(sample, captions, image_size=(50, 70)), whole)
    assert backbone.extract(sample, text).image_size == (64, 128)
    assert not same(backbone(pixels, ["a dog", ""]), whole)


@torch.no_grad()
def test_text_is_optional(backbone):
    pixels = images(2, 64, 64)
    empty = backbone(pixels, "")
    assert same(backbone(pixels), empty)
    assert same(backbone(pixels, ["", ""]), empty)
    assert same(backbone(pixels, backbone.encode_text("")), empty)


@torch.no_grad()
def test_text_of_any_length_is_taken_where_it_is_announced():
    text = Conditioning(embeddings(1, 20))
    backbone = build_backbone(text_length=20)
    features = backbone(images(2, 64, 64), text)
    assert [level_map.shape[1] for level_map in features.maps] == [8, 36, 36, 16]
    assert backbone.feature_info.channels == (8, 36, 36, 16)
    unattached = build_backbone(attach_attention=(), record_attention=(1,))
    assert unattached(images(1, 64, 64), text).attention.at(1).shape == (1, 20, 4, 4)
    with pytest.raises(
        ValueError, match=r"this text has 20 tokens, but feature_info counts 77 .*text_length=20, or attach none"
    ):
        build_backbone()(images(1, 64, 64), text)


@torch.no_grad()
def test_the_released_codes_options_change_the_latents():
    pixels, vae = images(1, 64, 64), build_vae()
    posterior = vae.encode(2 * pixels - 1).latent_dist
    assert torch.equal(build_backbone(scale_latents=False).encode_image(pixels), posterior.mode())
    sampling = build_backbone(sample_posterior=True)
    drawn = sampling.encode_image(pixels, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn, (posterior.mean + posterior.std * noise) * 0.18215)
    assert same(
        sampling(pixels, "a dog", generator=torch.Generator().manual_seed(3)),
        sampling(pixels, "a dog", generator=torch.Generator().manual_seed(3)),
    )
    assert not same(sampling(pixels, "a dog"), sampling(pixels, "a dog"))


@torch.no_grad()
def test_attention_is_attached_and_recorded_where_asked():
    expected = build_backbone(attach_attention=(0, 1, 2))(images(1, 64, 64), "a dog").attention
    for attach, further in (((1, 2), ()), ((), (0, 2)), ((2, 1, 2), (0,)), ((), ())):
        backbone = build_backbone(attach_attention=attach, record_attention=further)
        features = backbone(images(1, 64, 64), "a dog")
        assert [level_map.shape[1] - c for level_map, c in zip(features.maps, (8, 16, 16, 16), strict=True)] == [
            77 * (level in attach) for level in range(4)
        ]
        assert backbone.feature_info.channels == tuple(level_map.shape[1] for level_map in features.maps)
        if features.attention is None:
            assert not {*attach, *further}
        else:
            assert features.attention.levels == tuple(sorted({*attach, *further}))
            for level in features.attention.levels:
                assert torch.equal(features.attention.at(level), expected.at(level))


def test_feature_info_comes_from_the_configs():
    two = TADPBackbone(
        vae=build_vae(), unet=build_unet(channels=(8, 24)), attach_attention=(0,), text_length=10
    ).feature_info
    assert (two.channels, two.reduction) == ((18, 24), (8, 16))
    plain = TADPBackbone(vae=build_vae(), unet=build_sd2_unet(), attach_attention=())
    assert plain.feature_info.channels == (8, 16, 16, 16)
    unknown = TADPBackbone(vae=build_vae(), unet=build_unet())
    with pytest.raises(ModelError, match=r"without a text encoder .* unknown; pass text_length="):
        _ = unknown.feature_info


@torch.no_grad()
def test_a_backbone_without_a_text_encoder_takes_conditioning():
    backbone = TADPBackbone(vae=build_vae(), unet=build_unet()).eval()
    features = backbone(images(2, 64, 64), Conditioning(embeddings(2, 4)))
    assert features.maps[1].shape == (2, 20, 4, 4)
    for call in (lambda: backbone.encode_text("a dog"), lambda: backbone(images(1, 64, 64), "a dog")):
        with pytest.raises(ModelError, match=r"no text encoder; pass text as Conditioning, or load one"):
            call()


# The context


@torch.no_grad()
def test_the_context_gives_text_to_calls_without(backbone):
    pixels = images(1, 64, 64)
    dog, cat = backbone(pixels, "a dog"), backbone(pixels, "a cat")
    with backbone.conditioning("a dog"):
        assert same(backbone(pixels), dog)
        with backbone.conditioning(["a cat"]):
            assert same(backbone(pixels), cat)
            assert same(backbone(pixels, "a dog"), dog)
        assert same(backbone(pixels), dog)
    assert same(backbone(pixels), backbone(pixels, ""))


@torch.no_grad()
def test_the_context_ends_with_an_error_and_is_one_backbones_and_one_threads(backbone):
    pixels, other, results = images(1, 64, 64), build_backbone(), []
    empty = backbone(pixels, "")
    with contextlib.suppress(KeyError), backbone.conditioning("a dog"):
        assert same(other(pixels), empty)
        thread = threading.Thread(target=lambda: results.append(same(backbone(pixels), empty)))
        thread.start()
        thread.join()
        raise KeyError
    assert results == [True]
    assert same(backbone(pixels), empty)


# Training


def test_vae_and_text_encoder_stay_frozen_and_in_evaluation():
    backbone = build_backbone(text_adapter=True).train()
    assert backbone.unet.training
    assert backbone.text_adapter.training
    for part in (backbone.vae, backbone.text_encoder):
        assert not any(module.training for module in part.modules())
        assert not any(parameter.requires_grad for parameter in part.parameters())
    assert not backbone.eval().unet.training
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(backbone.train().parameter_groups(1e-2))
    loss_of(backbone(images(1, 64, 64), "a dog")).backward()
    optimizer.step()
    changed = {
        name.split(".")[0] for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed == {"unet", "text_adapter"}


@pytest.mark.parametrize("unet", [build_unet, build_sd2_unet])
@pytest.mark.parametrize("attach", [(), (1, 2)])
def test_every_trainable_parameter_gets_a_gradient(unet, attach):
    """DDP needs every trainable parameter to be used."""
    backbone = build_backbone(unet=unet(), attach_attention=attach, text_adapter=True).train()
    loss_of(backbone(images(1, 64, 64), "a dog")).backward()
    trainable = {name: parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert all(name.startswith(("unet.", "text_adapter.")) for name in trainable)
    assert [name for name, parameter in trainable.items() if parameter.grad is None] == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in trainable.values())


def test_parameter_groups_hold_each_trainable_parameter_once():
    backbone = build_backbone(text_adapter=True)
    groups = backbone.parameter_groups(1e-3, weight_decay=0.05)
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    grouped = [names[id(parameter)] for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            module = backbone.get_submodule(name.rpartition(".")[0])
            plain = name.endswith(("bias", "gate")) or isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm)
            assert group["weight_decay"] == (0 if plain else 0.05), name
            assert group["lr"] == pytest.approx(1e-4 if name.startswith("unet.") else 1e-3), name


def test_freezing_and_unfreezing():
    backbone = build_backbone(text_adapter=True)
    trainable = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert backbone.freeze() is backbone
    assert all(
        name.startswith("text_adapter.") for name, parameter in backbone.named_parameters() if parameter.requires_grad
    )
    assert sum(len(group["params"]) for group in backbone.parameter_groups(1e-3)) == 5
    assert backbone.unfreeze() is backbone
    assert [name for name, parameter in backbone.named_parameters() if parameter.requires_grad] == trainable
    assert build_backbone().freeze().parameter_groups(1e-3) == []


def test_checkpointing_gives_the_same_gradients_and_maps():
    plain, saving = build_backbone(text_adapter=True).train(), build_backbone(text_adapter=True).train()
    assert saving.enable_gradient_checkpointing() is saving
    pixels, text = images(2, 64, 64), ["a dog", "a red cat"]
    results = [backbone(pixels, text) for backbone in (plain, saving)]
    assert same(*results)
    for features in results:
        loss = loss_of(features) + features.attention.at(1)[:, 2].std()
        loss.backward()
    expected = {name: parameter.grad for name, parameter in plain.named_parameters() if parameter.requires_grad}
    for name, parameter in saving.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-7, msg=name)
    assert same(saving.enable_gradient_checkpointing(False)(pixels, text), results[0])


def test_checkpointing_runs_the_layers_again():
    """Otherwise the test above would prove nothing."""
    backbone, counted = build_backbone().train(), []
    for block in (backbone.unet.up_blocks[-1], backbone.unet.down_blocks[0]):
        block.resnets[0].conv1.register_forward_hook(lambda *_: counted.append(1))
    for enabled, expected in ((False, 2), (True, 4)):
        backbone.enable_gradient_checkpointing(enabled)
        counted.clear()
        loss_of(backbone(images(1, 64, 64), "a dog")).backward()
        assert len(counted) == expected


@pytest.mark.slow
def test_two_processes_agree_on_the_mean_gradient(tmp_path):
    fork_server()
    start_processes(train_one_step, args=(2, str(tmp_path)), nprocs=2, start_method="forkserver")
    (world, gradients), (_, other_gradients) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)
    )
    assert world == 2
    alone = []
    for rank in range(2):
        backbone = build_backbone(text_adapter=True, attach_attention=(0, 1, 2)).train()
        loss_of(backbone(images(1, 64, 64, seed=rank), "a dog")).backward()
        alone.append(
            {name: parameter.grad for name, parameter in backbone.named_parameters() if parameter.requires_grad}
        )
    assert gradients.keys() == alone[0].keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, other_gradients[name])
        torch.testing.assert_close(gradient, (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-6, msg=name)


# Precision and copies


@torch.no_grad()
@pytest.mark.parametrize("mask_padding", [False, True])
def test_half_precision_is_near(mask_padding):
    pixels, captions = images(2, 40, 72), ["a dog", "a red cat"]
    reference = build_backbone()
    expected = reference(pixels, reference.encode_text(captions, mask_padding=mask_padding))
    half = build_backbone().to(torch.bfloat16)
    assert half.dtype == torch.bfloat16
    features = half(pixels, half.encode_text(captions, mask_padding=mask_padding))
    for level_map, other_map in zip(features.maps, expected.maps, strict=True):
        assert level_map.dtype == torch.bfloat16
        assert relative_error(level_map, other_map) < 0.05
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = reference(pixels, reference.encode_text(captions, mask_padding=mask_padding))
    for level_map, other_map in zip(features.maps, expected.maps, strict=True):
        assert relative_error(level_map, other_map) < 0.05


def test_autocast_trains():
    backbone = build_backbone(text_adapter=True).train().enable_gradient_checkpointing()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(backbone(images(1, 64, 64), "a dog"))
    loss.backward()
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all()


@torch.no_grad()
def test_an_adapter_has_the_unets_dtype():
    backbone = build_backbone(unet=build_unet().bfloat16(), text_adapter=True)
    assert {parameter.dtype for parameter in backbone.text_adapter.parameters()} == {torch.bfloat16}
    assert backbone(images(1, 64, 64), "a dog").maps[0].dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda backbone: pickle.loads(pickle.dumps(backbone))])
def test_copies_are_independent_and_give_the_same(duplicate):
    backbone = build_backbone(timestep=3, text_adapter=True)
    pixels = images(1, 40, 72)
    expected = backbone(pixels, "a dog")
    again = duplicate(backbone)
    assert again.options == backbone.options
    assert same(again(pixels, "a dog"), expected)
    for parameter in again.parameters():
        parameter.zero_()
    assert same(backbone(pixels, "a dog"), expected)


class Encoded(Dataset):
    """Encodes images and texts in the workers of the data loader."""

    def __init__(self, backbone: TADPBackbone):
        self.backbone = backbone

    def __len__(self) -> int:
        return 4

    @torch.no_grad()
    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        latent = self.backbone.encode_image(images(1, 64, 64, seed=index))[0]
        return latent, self.backbone.encode_text(f"a dog {index}").embeddings[0]


@torch.no_grad()
def test_a_loaders_workers_can_encode(backbone):
    data = Encoded(backbone)
    batches = list(DataLoader(data, batch_size=2, num_workers=2, timeout=60))
    for number in range(4):
        expected = data[number]
        for part in range(2):
            assert torch.equal(batches[number // 2][part][number % 2], expected[part])


# Saving


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_what_is_saved_comes_back_bit_for_bit(tmp_path, dtype):
    backbone = build_backbone(
        timestep=1,
        scale_latents=False,
        sample_posterior=True,
        attach_attention=(0, 2),
        detach_attention=True,
        record_attention=(1,),
        text_adapter=True,
    ).to(dtype)
    backbone.text_adapter.gate.normal_(generator=torch.Generator().manual_seed(0))
    backbone.save_pretrained(tmp_path / "saved")
    again = TADPBackbone.from_pretrained(tmp_path / "saved", dtype=dtype)
    assert again.options == backbone.options
    tensors, expected = again.state_dict(), backbone.state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) and tensors[name].dtype == dtype for name in tensors)
    drawn = [
        model(images(2, 40, 72), ["a dog", ""], generator=torch.Generator().manual_seed(0))
        for model in (again, backbone)
    ]
    assert same(*drawn)
    again.save_pretrained(tmp_path / "again")
    first, second = tree(tmp_path / "saved"), tree(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name] and name.endswith(".safetensors")] == []


@torch.no_grad()
def test_a_fresh_adapter_may_be_asked_for_and_a_saved_one_must_be_there(tmp_path):
    build_backbone().save_pretrained(tmp_path)
    assert TADPBackbone.from_pretrained(tmp_path, text_adapter=True).text_adapter is not None
    build_backbone(text_adapter=True).save_pretrained(tmp_path)
    assert TADPBackbone.from_pretrained(tmp_path, text_adapter=False).text_adapter is None
    (tmp_path / "text_adapter.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"no text_adapter\.safetensors in .*, whose tadp_config\.json lists it"):
        TADPBackbone.from_pretrained(tmp_path)


@torch.no_grad()
def test_an_adapter_left_from_before_is_not_taken_for_this_ones(tmp_path):
    old = build_backbone(text_adapter=True)
    old.text_adapter.gate.fill_(5)
    old.save_pretrained(tmp_path)
    build_backbone().save_pretrained(tmp_path)
    assert (TADPBackbone.from_pretrained(tmp_path, text_adapter=True).text_adapter.gate < 1).all()


@torch.no_grad()
def test_a_backbone_without_a_text_encoder_is_saved_without(tmp_path):
    backbone = TADPBackbone(vae=build_vae(), unet=build_unet(), text_length=5).eval()
    backbone.save_pretrained(tmp_path)
    assert not (tmp_path / "text_encoder").exists()
    again = TADPBackbone.from_pretrained(tmp_path)
    assert again.text_encoder is None
    assert again.text_length == 5
    text = Conditioning(embeddings(1, 5))
    assert same(again(images(1, 64, 64), text), backbone(images(1, 64, 64), text))


def test_parts_of_an_older_model_do_not_become_parts_of_the_new_one(tmp_path):
    build_family("SD 2.x", tmp_path / "sd")
    build_family("SD 3 without T5", tmp_path / "sd3")
    TADPBackbone.from_pretrained(tmp_path / "sd").save_pretrained(tmp_path / "model")
    for newer in (TADPBackbone.from_pretrained(tmp_path / "sd3"), build_backbone()):
        newer.save_pretrained(tmp_path / "model")
        loaded = TADPBackbone.from_pretrained(tmp_path / "model")
        assert same(loaded(images(1, 64, 64), "a dog"), newer(images(1, 64, 64), "a dog"))
    assert not (tmp_path / "model" / "scheduler").exists()


@torch.no_grad()
def test_what_is_saved_loads_in_diffusers_and_transformers(tmp_path, backbone):
    backbone.save_pretrained(tmp_path)
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "unet", local_files_only=True)
    text_encoder = CLIPTextModel.from_pretrained(tmp_path / "text_encoder", local_files_only=True).eval()
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer", local_files_only=True)
    ids = tokenizer(["a dog"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    text = text_encoder(ids).last_hidden_state
    torch.testing.assert_close(text, backbone.encode_text("a dog").embeddings)
    sample = latents(1, 8, 8)
    expected = backbone.unet(sample, 0, encoder_hidden_states=text).sample
    torch.testing.assert_close(unet(sample, 0, encoder_hidden_states=text).sample, expected)


def test_the_decoder_is_not_saved(tmp_path, backbone):
    backbone.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "vae" / "config.json").read_text())["_class_name"] == "AutoencoderKL"
    size = (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").stat().st_size
    encoder = sum(parameter.numel() for parameter in backbone.vae.parameters()) * 4
    assert size < encoder + 20_000


def test_saving_onto_what_was_loaded_is_safe(tmp_path, backbone):
    backbone.save_pretrained(tmp_path)
    TADPBackbone.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert all(
        torch.equal(parameter, other)
        for parameter, other in zip(
            TADPBackbone.from_pretrained(tmp_path).parameters(), backbone.parameters(), strict=True
        )
    )


@pytest.mark.parametrize("limit", [1_000, 100_000])
def test_a_full_disk_leaves_what_was_saved_before(tmp_path, backbone, limit):
    """A limit on file size stands for a full disk: writing fails at the config, or half-way through the weights."""
    build_backbone(seed=1).save_pretrained(tmp_path)
    before = tree(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .* Free some space or choose another folder"):
            backbone.save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(tmp_path) == before
    assert not list(tmp_path.glob(".part*"))


def test_a_tokenizer_that_cannot_be_written_is_an_output_error(tmp_path):
    """The tokenizers library raises a bare Exception, which becomes an OutputError."""
    backbone = build_backbone()
    backbone.text_encoder.tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("w" * 1_000_000)
    limit = 900_000  # bytes: more than the weights, less than the tokenizer
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .* File too large"):
            backbone.save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(tmp_path) == {}


def test_an_interrupted_save_leaves_what_was_saved_before(tmp_path, backbone, monkeypatch):
    build_backbone(seed=1).save_pretrained(tmp_path)
    before = tree(tmp_path)

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(backbone.text_encoder.model, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        backbone.save_pretrained(tmp_path)
    assert tree(tmp_path) == before


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"attach_attention": (3,)},
            r"no attention at level 3; this model has it at 0 \(stride 8\), 1 \(stride 16\), 2",
        ),
        ({"attach_attention": (-1,)}, r"no attention at level -1"),
        ({"record_attention": (4,)}, r"no attention at level 4"),
        ({"timestep": 1000}, r"timestep must be from 0 to 999; got 1000"),
        ({"timestep": -1}, r"timestep must be from 0 to 999; got -1"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(**options)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match=r"the VAE makes 8 latent channels, but the model takes 4"):
        TADPBackbone(vae=build_vae(latent_channels=8), unet=build_unet())
    with pytest.raises(ModelError, match=r"the text encoder is 24 wide, but the model takes 16"):
        TADPBackbone(
            vae=build_vae(), unet=build_unet(), text_encoder=build_text_encoder(width=24), tokenizer=build_tokenizer()
        )
    with pytest.raises(
        ModelError, match=r"text encoder and its tokenizer must be passed together; one of them is None"
    ):
        TADPBackbone(vae=build_vae(), unet=build_unet(), text_encoder=build_text_encoder())


@pytest.mark.parametrize("captions", [["a dog"], ["a dog"] * 3, []])
def test_other_numbers_of_captions_than_images_are_refused(backbone, captions):
    message = (
        rf"2 images but {len(captions)} captions; pass one caption per image|no captions; pass one caption per image"
    )
    with pytest.raises(CaptionError, match=message):
        backbone(images(2, 64, 64), captions)


def test_other_numbers_of_texts_than_images_are_refused(backbone):
    with pytest.raises(CaptionError, match=r"3 images but 2 texts"):
        backbone(images(3, 64, 64), backbone.encode_text(["a dog", "a cat"]))
    with pytest.raises(CaptionError, match=r"3 images but 2 captions"):
        backbone.extract(latents(3, 8, 8), ["a dog", "a cat"])


def test_a_caption_that_is_too_long_is_counted_or_cut(backbone):
    long = "dog " * 100
    with pytest.raises(CaptionError, match=r"caption 1 .* has 102 tokens, but the text encoder takes 77"):
        backbone(images(2, 64, 64), ["a dog", long])
    with pytest.warns(UserWarning, match=r"caption 0 .* has 102 tokens"), torch.no_grad():
        cut = backbone(images(1, 64, 64), long, truncate=True)
    assert len(cut.attention.words(1)[0]) == 75


@pytest.mark.parametrize("text", [5, ["a dog", 5], [None, None]])
def test_what_is_no_text_is_refused(no_type_checker, backbone, text):
    for call in (backbone.encode_text, lambda text: backbone(images(2, 64, 64), text)):
        with pytest.raises(TypeError, match=r"captions? .*strings"):
            call(text)


def test_latents_that_do_not_fit_are_refused(no_type_checker, backbone):
    text = backbone.encode_text("a dog")
    with pytest.raises(ValueError, match=r"latents must be \(B, 4, H, W\); got \(1, 3, 8, 8\)"):
        backbone.extract(torch.zeros(1, 3, 8, 8), text)
    with pytest.raises(ValueError, match=r"latents must be \(B, 4, H, W\); got \(4, 8, 8\)"):
        backbone.extract(torch.zeros(4, 8, 8), text)
    with pytest.raises(ValueError, match=r"multiples of 8; got 8x12\. encode_image pads images to it"):
        backbone.extract(latents(1, 8, 12), text)
    with pytest.raises(ValueError, match=r"an image of 65x64 has 9x8 cells at stride 8"):
        backbone.extract(latents(1, 8, 8), text, image_size=(65, 64))


def test_embeddings_of_another_width_are_refused(backbone):
    with pytest.raises(
        ValueError, match=rf"embeddings are 8 wide, but the model takes {WIDTH}; encode the text with this"
    ):
        backbone(images(1, 64, 64), Conditioning(torch.zeros(1, 77, 8)))


def test_a_list_of_one_caption_does_not_serve_two_images_whichever_way_one_enters(backbone):
    with pytest.raises(
        CaptionError, match="2 images but 1 captions; pass one caption per image, or a single string for all"
    ):
        backbone(torch.rand(2, 3, 64, 64), ["a dog"])
    with pytest.raises(CaptionError, match="2 images but 1 captions"):
        backbone.extract(latents(2, 8, 8), ["a dog"])


def test_autocast_gives_all_maps_one_dtype(backbone):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = backbone(torch.rand(1, 3, 64, 64), "a dog")
    assert len({level_map.dtype for level_map in features.maps}) == 1


# Attention pooled by name


@torch.no_grad()
def test_pooled_attention_is_attached_in_place_of_tokens():
    names = ["dog", "raincoat", "bird"]
    backbone = build_backbone(pool_attention=names)
    plain = build_backbone()
    captions = ["a red dog", "two dogs and a raincoat"]
    features, expected = (model(images(2, 64, 128), captions) for model in (backbone, plain))
    assert backbone.feature_info.channels == (8, 16 + 3, 16 + 3, 16)
    assert [level_map.shape[1] for level_map in features.maps] == [8, 19, 19, 16]
    assert torch.equal(features.maps[0], expected.maps[0])
    for level in (1, 2):
        pooled = expected.attention.pool(names, level)
        assert torch.equal(features.maps[level][:, :16], expected.maps[level][:, :16])
        assert torch.equal(features.maps[level][:, 16:], pooled.maps)
        assert features.attention.at(level).shape[1] == 77
        assert pooled.missing() == (("raincoat", "bird"), ("bird",))


@torch.no_grad()
def test_pooled_attention_takes_text_of_any_length():
    backbone = build_backbone(pool_attention=["dog"])
    for length in (1, 20, 99):
        text = Conditioning(embeddings(1, length), words=((Word("dog", 0, 1),),))
        features = backbone(images(2, 64, 64), text)
        assert [level_map.shape[1] for level_map in features.maps] == [8, 17, 17, 16]
        assert torch.equal(features.maps[1][:, 16], features.attention.at(1)[:, 0])


def test_text_without_words_is_not_pooled():
    with pytest.raises(ValueError, match=r"pooled by name, but this text has no words; pass captions, or a Cond"):
        build_backbone(pool_attention=["dog"])(images(1, 64, 64), Conditioning(embeddings(1, 5)))


def test_names_to_pool_by_say_the_channels_without_a_text_encoder():
    backbone = TADPBackbone(vae=build_vae(), unet=build_unet(), pool_attention=("dog", "cat"))
    assert backbone.feature_info.channels == (8, 18, 18, 16)
    with pytest.raises(ModelError, match=r"attention channels is unknown; pass text_length= or pool_attention="):
        _ = TADPBackbone(vae=build_vae(), unet=build_unet()).feature_info


@pytest.mark.parametrize("detach", [False, True])
def test_the_gradient_flows_through_pooled_attention_unless_detached(detach):
    backbone = build_backbone(pool_attention=["dog"], detach_attention=detach)
    features = backbone(images(1, 64, 64), "a dog on grass")
    keys = [parameter for name, parameter in backbone.unet.named_parameters() if name.endswith("attn2.to_k.weight")]
    grads = torch.autograd.grad(features.maps[1][:, 16].square().sum(), keys, allow_unused=True)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in grads) == (not detach)


@torch.no_grad()
def test_pooling_is_saved_with_the_model(tmp_path):
    backbone = build_backbone(pool_attention=("dog", "person"), pool_synonyms={"person": ("man", "cat")})
    backbone.save_pretrained(tmp_path)
    again = TADPBackbone.from_pretrained(tmp_path)
    assert again.options == backbone.options
    assert again.feature_info == backbone.feature_info
    caption = "a cat and a dog"
    assert same(again(images(1, 64, 64), caption), backbone(images(1, 64, 64), caption))
    tokens = TADPBackbone.from_pretrained(tmp_path, pool_attention=())
    assert tokens.feature_info.channels == (8, 93, 93, 16)


@pytest.mark.parametrize("names", [["dog", ""], ["🐶"], ["..."]])
def test_a_name_that_cannot_be_found_is_refused_at_once(names):
    with pytest.raises(ValueError, match=r"a name must have a letter or digit; got '"):
        build_backbone(pool_attention=names)


def test_options_of_a_wrong_kind_say_which_is_right(no_type_checker):
    with pytest.raises(TypeError, match=r"dtype must be a torch.dtype, such as torch.bfloat16; got 'bfloat16'"):
        TADPBackbone.from_pretrained("tadp-tiny", dtype="bfloat16")
    for name in ("attach_attention", "record_attention"):
        for value in (True, 1, None):
            with pytest.raises(TypeError, match=rf"{name} must be a list of levels, such as \(1, 2\), .* got {value}"):
                build_backbone(**{name: value})
