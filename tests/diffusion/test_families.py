"""Every family of base models, loaded by from_pretrained and compared with diffusers' own forward."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from builders import WIDTH, build_unet, build_vae, images
from builders_families import (
    FAMILIES,
    POOLED,
    T5_WIDTH,
    build_family,
    build_flux,
    build_pipeline,
    build_sd3,
    build_xl_unet,
)
from diffusers import DiTTransformer2DModel
from safetensors.torch import save_file

import tadp.diffusion.joint_attention
from tadp import Conditioning, TADPBackbone
from tadp.cli.info import model_tables
from tadp.convert import read_token
from tadp.diffusion.families import family_of
from tadp.diffusion.vae import VAEEncoder
from tadp.errors import CaptionError, MissingFileError, ModelError, ModifierError
from tadp.modifiers import CaptionModifier
from tadp.text.stack import only_encoder

CAPTIONS = ["a dog", "a red raincoat and a cat"]
JOINT = {"SD 3": build_sd3, "FLUX": build_flux}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """One folder per family, written by diffusers; tests must not change them."""
    return {family: build_family(family, tmp_path_factory.mktemp("families") / family) for family in FAMILIES}


@pytest.fixture(scope="module")
def backbones(folders) -> dict[str, TADPBackbone]:
    return {family: TADPBackbone.from_pretrained(folder) for family, folder in folders.items()}


def noise(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Loading


LEVELS = {
    "SD 2.x": ((8, 16 + 77, 16 + 77, 16), (8, 16, 32, 64)),
    "SDXL": ((8, 16 + 77, 16 + 77), (8, 16, 32)),
    "SD 3": ((16, 16 + 333, 16 + 333), (8, 16, 32)),
    "SD 3 without T5": ((16, 16 + 333, 16 + 333), (8, 16, 32)),
    "FLUX": ((16, 16 + 512, 16 + 512), (8, 16, 32)),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(64, 64), (70, 92), (8, 33)])
def test_maps_have_the_promised_channels_and_cells_at_any_size(backbones, family, size):
    backbone = backbones[family]
    assert (backbone.feature_info.channels, backbone.feature_info.reduction) == LEVELS[family]
    with torch.no_grad():
        features = backbone(images(2, *size), CAPTIONS)
    for feature, channels, stride in zip(features.maps, *LEVELS[family], strict=True):
        assert feature.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert torch.isfinite(feature).all()
    assert features.attention.levels == (1, 2)
    assert not torch.allclose(features.maps[1][0], features.maps[1][1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recorded_layer_projects_queries_and_keys_only_once(backbones, family):
    backbone, counts, hooks = backbones[family], Counter(), []
    for name, layer in backbone.unet.named_modules():
        if name.endswith((".to_q", ".to_k", ".add_q_proj", ".add_k_proj")):
            hooks.append(layer.register_forward_hook(lambda *_, name=name: counts.update([name])))
    with torch.no_grad():
        features = backbone(images(1, 64, 64), "a red dog")
    for hook in hooks:
        hook.remove()
    assert features.attention.levels == (1, 2)
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_backbone_comes_back_bit_for_bit(backbones, family, tmp_path):
    backbone = backbones[family]
    backbone.save_pretrained(tmp_path / "saved")
    again = TADPBackbone.from_pretrained(tmp_path / "saved")
    state, expected = again.state_dict(), backbone.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    with torch.no_grad():
        loaded, original = again(images(1, 64, 64), "a red dog"), backbone(images(1, 64, 64), "a red dog")
    assert all(torch.equal(first, second) for first, second in zip(loaded.maps, original.maps, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tables_of_a_model_need_no_weights(folders, family, tmp_path):
    folder = Path(shutil.copytree(folders[family], tmp_path / "model"))
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    levels, parts, _ = model_tables(str(folder))
    assert levels.row_count == len(LEVELS[family][1])
    assert parts.row_count == sum(1 for path in folder.iterdir() if list(path.glob("config.json")))


PARTS = [
    ("SDXL", "text_encoder_2"),
    ("SDXL", "tokenizer_2"),
    ("SD 3", "transformer"),
    ("SD 3", "text_encoder_2"),
    ("SD 3", "tokenizer_3"),
    ("FLUX", "text_encoder_2"),
    ("FLUX", "vae"),
]


@pytest.mark.parametrize(("family", "part"), PARTS)
def test_a_missing_part_is_named(folders, family, part, tmp_path):
    folder = Path(shutil.copytree(folders[family], tmp_path / "model"))
    shutil.rmtree(folder / part)
    message = rf"no {part}/ in .*model; a model folder has unet/"
    if part == "transformer":
        message = r"no unet/ in .*model; .* Stable Diffusion 3 and FLUX have transformer/ instead of unet/"
    with pytest.raises(MissingFileError, match=message):
        TADPBackbone.from_pretrained(folder)


def test_a_t5_may_be_left_out(folders, backbones):
    backbone = TADPBackbone.from_pretrained(folders["SD 3"], load_t5=False)
    assert "text_encoder_3" not in backbone.text_encoder.parts
    assert backbone.encode_text("a dog").embeddings[:, 77:].abs().max() == 0
    assert backbone.text_length == backbones["SD 3"].text_length == 333


def test_a_t5_that_is_missing_is_not_left_out_unasked(folders, tmp_path):
    folder = Path(shutil.copytree(folders["SD 3"], tmp_path / "model"))
    shutil.rmtree(folder / "text_encoder_3")
    with pytest.raises(
        MissingFileError, match=r"no text_encoder_3/ in .*, which has its tokenizer\. Pass load_t5=False"
    ):
        TADPBackbone.from_pretrained(folder)
    TADPBackbone.from_pretrained(folder, load_t5=False)


def test_a_unet_of_another_family_is_blamed_for_the_text_that_it_wants(folders):
    with pytest.raises(
        MissingFileError, match=r"passed as unet= may need a text encoder .* no text_encoder_2/ in .*own family"
    ):
        TADPBackbone.from_pretrained(folders["SD 2.x"], unet=str(folders["SDXL"]))


def test_a_t5_of_another_kind_is_refused(folders, tmp_path):
    folder = Path(shutil.copytree(folders["FLUX"], tmp_path / "model"))
    path = folder / "text_encoder_2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "umt5"}))
    with pytest.raises(ModelError, match=r"text_encoder_2 holds a 'umt5', but must hold a T5 encoder"):
        TADPBackbone.from_pretrained(folder)


def test_an_unknown_family_is_told_of_the_known_ones(folders, tmp_path):
    folder = Path(shutil.copytree(folders["SD 3"], tmp_path / "model"))
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "PixArtTransformer2DModel"}))
    known = (
        r"Stable Diffusion 1\.x and 2\.x \(UNet2DConditionModel\), Stable Diffusion XL \(UNet2DConditionModel\), "
        r"Stable Diffusion 3\.x \(SD3Transformer2DModel\), FLUX \(FluxTransformer2DModel\)"
    )
    with pytest.raises(ModelError, match=rf"holds a 'PixArtTransformer2DModel'; tadp reads {known}"):
        TADPBackbone.from_pretrained(folder)
    with pytest.raises(ModelError, match=rf"cannot read a DiTTransformer2DModel; it reads {known}"):
        family_of(DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=4, num_layers=1))


def test_float16_leaves_the_vae_of_xl_in_float32(folders, tmp_path):
    """XL's VAE overflows in float16; its config has force_upcast."""
    backbone = TADPBackbone.from_pretrained(folders["SDXL"], dtype=torch.float16)
    assert next(backbone.vae.parameters()).dtype == torch.float32
    assert backbone.dtype == torch.float16
    plain = TADPBackbone.from_pretrained(folders["SD 2.x"], dtype=torch.float16)
    assert next(plain.vae.parameters()).dtype == torch.float16


# Text


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_what_the_pipeline_of_diffusers_makes_of_it(backbones, family):
    pipeline = build_pipeline(family)
    prompts = {"prompt": CAPTIONS, "device": "cpu", "num_images_per_prompt": 1}
    with torch.no_grad():
        if family == "SD 2.x":
            expected, pooled = pipeline.encode_prompt(**prompts, do_classifier_free_guidance=False)[0], None
        elif family == "SDXL":
            expected, _, pooled, _ = pipeline.encode_prompt(**prompts, do_classifier_free_guidance=False)
        elif family == "FLUX":
            expected, pooled, _ = pipeline.encode_prompt(**prompts, prompt_2=None)
        else:
            options = {"prompt_2": None, "prompt_3": None, "do_classifier_free_guidance": False}
            expected, _, pooled, _ = pipeline.encode_prompt(**prompts, **options)
    text = backbones[family].encode_text(CAPTIONS)
    assert torch.equal(text.embeddings, expected)
    assert (text.pooled is None) == (pooled is None)
    assert pooled is None or torch.equal(text.pooled, pooled)
    assert text.embeddings.shape[1] == backbones[family].text_length


def test_words_are_found_among_the_tokens_of_both_encoders(backbones):
    text = backbones["SD 3"].encode_text("a red raincoat")
    places = [(word.start, word.stop) for word in text.words[0] if word.text == "raincoat"]
    assert places == [(3, 5), (79, 81)]  # after the start token, "a" and "red"; then in T5, which has no start token
    assert [text.tokens[0][k] for k in (3, 4, 79, 80, 81)] == ["rain", "##coat", "rain", "##coat", "</s>"]
    t5 = backbones["FLUX"].encode_text("a red raincoat")
    assert t5.tokens[0][:5] == ("a", "red", "rain", "##coat", "</s>")


def test_text_is_chosen_repeated_and_shared_with_what_is_pooled(backbones):
    backbone = backbones["SDXL"]
    text = backbone.encode_text([*CAPTIONS, CAPTIONS[0]])
    assert torch.equal(text.pooled[0], text.pooled[2])
    assert text.pooled.shape == (3, POOLED)
    shared = backbone.encode_text("a dog")
    assert shared.expand(3).pooled.shape == (3, POOLED)
    assert torch.equal(shared.join(Conditioning(torch.zeros(1, 4, 2 * WIDTH))).pooled, shared.pooled)
    assert shared.to(dtype=torch.float64).pooled.dtype == torch.float64


@pytest.mark.usefixtures("no_type_checker")
def test_pooled_embeddings_are_checked(backbones):
    with pytest.raises(ValueError, match=r"pooled must be \(B, P\), here with B = 2; got \(3, 5\)"):
        Conditioning(torch.zeros(2, 4, 8), pooled=torch.zeros(3, 5))
    backbone, latents = backbones["SDXL"], noise(1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"takes a pooled embedding of each text, 12 wide; this text has none"):
        backbone.extract(latents, Conditioning(torch.zeros(1, 77, 2 * WIDTH)))
    with pytest.raises(ValueError, match=r"12 wide; this text has one of 5\. Encode it with this backbone's"):
        backbone.extract(latents, Conditioning(torch.zeros(1, 77, 2 * WIDTH), pooled=torch.zeros(1, 5)))


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_of_another_batch_size_or_too_long_are_refused(backbones, family):
    with pytest.raises(CaptionError, match=r"1 images but 2 captions"):
        backbones[family](images(1, 64, 64), CAPTIONS)
    limit = backbones[family].text_encoder.max_length
    with pytest.raises(CaptionError, match=rf"the text encoder takes {limit}"):
        backbones[family].encode_text("a dog " * 400)
    with pytest.warns(UserWarning, match=rf"the text encoder takes {limit}; the rest was cut"):
        text = backbones[family].encode_text("a dog " * 400, truncate=True)
    assert text.embeddings.shape[1] == backbones[family].text_length


def test_parts_of_other_widths_are_refused(folders, backbones):
    with pytest.raises(ModelError, match=r"the text encoder is 32 wide, but the model takes 24"):
        TADPBackbone.from_pretrained(folders["SDXL"], unet=build_xl_unet(cross_attention_dim=24))
    unet = build_xl_unet(projection_class_embeddings_input_dim=20 + 24)
    with pytest.raises(ModelError, match=r"pools a text to a width of 12, but the model takes 20"):
        TADPBackbone.from_pretrained(folders["SDXL"], unet=unet)
    with pytest.raises(ModelError, match=r"the VAE makes 4 latent channels, but the model takes 16"):
        TADPBackbone.from_pretrained(folders["FLUX"], vae=build_vae())


def test_what_takes_one_text_encoder_says_so(backbones):
    with pytest.raises(ModelError, match=r"needs a model with one text encoder .* the model has 2"):
        only_encoder(backbones["SDXL"].text_encoder)
    modifier = CaptionModifier("a {caption}, <toy>", token="<toy>", embedding=torch.zeros(WIDTH))
    with pytest.raises(ModelError.__mro__[1], match=r"several text encoders, and '<toy>' was learned for one"):
        modifier.install(backbones["SDXL"])


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_token_for_two_text_encoders_is_installed_in_both(backbones, tmp_path, suffix):
    backbone, path = backbones["SDXL"], tmp_path / f"toy.{suffix}"
    parts = [backbone.text_encoder.parts[name] for name in ("text_encoder", "text_encoder_2")]
    left, right = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0)).unbind()
    tensors = {"clip_g": right.contiguous(), "clip_l": left.contiguous()}
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    token, vectors = read_token(path, token="<toy>")
    assert torch.equal(vectors, torch.cat([left, right], dim=1))
    before = backbone.encode_text("a red dog").embeddings
    with CaptionModifier("a <toy>, {caption}", token=token, embedding=vectors).install(backbone):
        for part, own in zip(parts, (left, right), strict=True):
            ids = part.tokenizer("<toy> <toy>_1 <toy>_2").input_ids[1:-1]
            assert torch.equal(part.model.get_input_embeddings().weight[ids], own)
        words = backbone.encode_text("a <toy> dog").words[0]
    assert [word.text for word in words] == ["a", "<toy>", "dog"]
    assert torch.equal(backbone.encode_text("a red dog").embeddings, before)
    assert all(len(part.model.get_input_embeddings().weight) == len(part.tokenizer) for part in parts)
    with pytest.raises(ModifierError, match=r"is 32 wide, but this text encoder's are 16 wide; it was learned for an"):
        CaptionModifier("<toy>, {caption}", token=token, embedding=vectors).install(backbones["SD 2.x"])
    with pytest.raises(ModifierError, match=r"only be added to CLIP text encoders, and this backbone also has another"):
        CaptionModifier("<toy>, {caption}", token=token, embedding=vectors).install(backbones["SD 3"])


def test_each_vector_of_a_token_for_two_text_encoders_reaches_the_embeddings_and_the_pooled_one(backbones):
    backbone = backbones["SDXL"]
    vectors = torch.randn(2, 2 * WIDTH, generator=torch.Generator().manual_seed(0))

    def encoded(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with CaptionModifier("a <toy>, {caption}", token="<toy>", embedding=vectors).install(backbone):
            text = backbone.encode_text("a <toy> dog")
        return text.embeddings[..., :WIDTH], text.embeddings[..., WIDTH:], text.pooled

    before = encoded(vectors)
    for row in (0, 1):
        for columns, changed in ((slice(WIDTH), [True, False, False]), (slice(WIDTH, None), [False, True, True])):
            other = vectors.clone()
            other[row, columns] += 1
            after = encoded(other)
            assert [not torch.equal(a, b) for a, b in zip(before, after, strict=True)] == changed
            # "<|startoftext|> a" comes first, and attention is causal.
            assert all(torch.equal(a[:, :2], b[:, :2]) for a, b in zip(before[:2], after[:2], strict=True))


def test_tensors_of_a_token_that_do_not_belong_together_are_refused(tmp_path):
    for tensors, message in (
        ({"clip_l": torch.zeros(2, 4), "clip_g": torch.zeros(3, 4)}, "the same number of vectors"),
        ({"clip_l": torch.zeros(2, 4), "t5": torch.zeros(2, 4)}, r"contains 2: clip_l, t5"),
        ({"clip_l": torch.zeros(2, 4), "clip_g": torch.zeros(2, 4).half()}, "in one precision"),
    ):
        save_file(tensors, tmp_path / "toy.safetensors")
        with pytest.raises(ModifierError, match=message):
            read_token(tmp_path / "toy.safetensors", token="<toy>")
    save_file({"clip_l": torch.zeros(4), "clip_g": torch.zeros(6)}, tmp_path / "toy.safetensors")
    assert read_token(tmp_path / "toy.safetensors", token="<toy>").vectors.shape == (1, 10)
    with pytest.raises(ModifierError, match="does not name its token"):
        read_token(tmp_path / "toy.safetensors")


@pytest.mark.parametrize("family", ["SDXL", "SD 3 without T5"])
@pytest.mark.parametrize("is_old", [True, False])
def test_a_text_is_pooled_at_its_end_token_after_a_token_was_added(backbones, family, is_old, monkeypatch):
    """Models from 2022 and 2023 have configs with end token 2, and then pool at the highest id."""
    encoder = backbones[family].text_encoder
    for part in encoder.parts.values():
        network = getattr(part.model, "text_model", part.model)
        monkeypatch.setattr(network, "eos_token_id", 2 if is_old else part.tokenizer.eos_token_id)
    plain = encoder("a dog").pooled
    vectors = torch.randn(2, 2 * WIDTH, generator=torch.Generator().manual_seed(0))
    with CaptionModifier("<toy>, {caption}", token="<toy>", embedding=vectors).install(backbones[family]):
        assert torch.equal(encoder("a dog").pooled, plain)
        pooled = encoder("a <toy> and a dog").pooled
        part = encoder.parts["text_encoder_2"]
        ids = part.tokenizer("a <toy> <toy>_1 and a dog").input_ids
        state = part.model(torch.tensor([ids])).last_hidden_state[0, -1]  # attention is causal: no padding needed
        torch.testing.assert_close(pooled[0, -POOLED:], part.model.text_projection(state))


def test_a_mask_is_for_cross_attention_alone(backbones):
    text = backbones["FLUX"].encode_text("a dog", mask_padding=True)
    with pytest.raises(ValueError, match=r"the attention of FLUX takes no text mask"):
        backbones["FLUX"](images(1, 64, 64), text)
    masked = backbones["SDXL"](images(1, 64, 64), backbones["SDXL"].encode_text("a dog", mask_padding=True))
    assert masked.attention.at(1)[:, 4:].max() == 0


# Latents


@pytest.mark.parametrize("family", ["SDXL", "SD 3"])
def test_latents_are_shifted_and_scaled(backbones, family):
    backbone, pixels = backbones[family], images(1, 64, 64)
    config = backbone.vae.config
    assert config["scaling_factor"] == {"SDXL": 0.13025, "SD 3": 1.5305}[family]
    with torch.no_grad():
        mode = backbone.vae(2 * pixels - 1).mode()
    shift = config["shift_factor"] or 0.0
    torch.testing.assert_close(backbone.encode_image(pixels), (mode - shift) * config["scaling_factor"])
    assert mode.shape[1] == {"SDXL": 4, "SD 3": 16}[family]


def test_latents_normalised_by_channel_are_refused():
    with pytest.raises(ModelError, match=r"the VAE's config has latents_mean"):
        VAEEncoder(build_vae(latents_mean=[0.0] * 4, latents_std=[1.0] * 4))


# The pass


def layout_of(model):
    return family_of(model).layout(model)


def run(model, latents: torch.Tensor, text: Conditioning, **options):
    family = family_of(model)
    layout = family.layout(model)
    family.prepare(model, layout)
    return family.run_once(model, layout, latents, text=text, **({"image_size": (60, 120), "timestep": 250} | options))


@pytest.mark.parametrize("timestep", [0, 1, 999])
def test_a_pass_of_xl_continued_to_the_end_is_the_unets_own_output(timestep):
    unet, latents, text = build_xl_unet(), noise(2, 4, 8, 16), noise(2, 5, 2 * WIDTH)
    pooled = noise(2, POOLED)
    ids = torch.tensor([[60.0, 120.0, 0.0, 0.0, 60.0, 120.0]] * 2)
    with torch.no_grad():
        added = {"text_embeds": pooled, "time_ids": ids}
        expected = unet(latents, timestep, encoder_hidden_states=text, added_cond_kwargs=added).sample
        conditioning = Conditioning(text, pooled=pooled)
        maps, attention = run(unet, latents, conditioning, timestep=timestep, record_levels=(1, 2))
        assert torch.equal(unet.conv_out(unet.conv_act(unet.conv_norm_out(maps[0]))), expected)
        other, _ = run(unet, latents, conditioning, timestep=timestep, image_size=(512, 512))
    assert {level: maps.shape for level, maps in attention.items()} == {1: (2, 5, 4, 8), 2: (2, 5, 2, 4)}
    assert not torch.allclose(maps[0], other[0])


def test_xl_has_no_attention_at_its_finest_level(backbones):
    with pytest.raises(
        ValueError, match=r"no attention at level 0; this model has it at 1 \(stride 16\), 2 \(stride 32\)"
    ):
        TADPBackbone(unet=build_xl_unet(), vae=build_vae(), attach_attention=(0,), text_length=77)
    with pytest.raises(ValueError, match=r"no attention at level 3"):
        TADPBackbone(unet=build_sd3(), vae=build_vae(latent_channels=16), record_attention=(3,), text_length=77)


def own_forward(
    model, latents: torch.Tensor, text: torch.Tensor, pooled: torch.Tensor, timestep: float
) -> torch.Tensor:
    """diffusers' forward, with FLUX's packing written out as loops."""
    if type(model).__name__ == "SD3Transformer2DModel":
        time = torch.full((len(latents),), timestep)
        return model(latents, text, pooled, time).sample
    height, width = latents.shape[2] // 2, latents.shape[3] // 2
    cells = [
        latents[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten(1) for y in range(height) for x in range(width)
    ]
    ids = torch.tensor([[0.0, y, x] for y in range(height) for x in range(width)])
    return model(
        torch.stack(cells, dim=1), text, pooled, torch.full((len(latents),), timestep / 1000), ids,
        torch.zeros(text.shape[1], 3), torch.ones(len(latents)) if model.config["guidance_embeds"] else None,
    ).sample  # fmt: skip


@pytest.mark.parametrize("family", JOINT)
@pytest.mark.parametrize("timestep", [0, 250])
def test_levels_of_a_transformer_are_the_outputs_of_its_blocks(family, timestep):
    model = JOINT[family]()
    latents, text = noise(2, 16, 8, 12), noise(2, 7, T5_WIDTH)
    pooled = noise(2, model.config["pooled_projection_dim"])
    seen: dict[str, torch.Tensor] = {}
    for name in (names := layout_of(model).taps):

        def keep(_module, _inputs, output, name=name):
            seen[name] = output[1]

        model.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        own_forward(model, latents, text, pooled, timestep)
        outputs = [seen[name].transpose(1, 2).unflatten(2, (4, 6)).clone() for name in names]
        maps, _ = run(model, latents, Conditioning(text, pooled=pooled), timestep=timestep)
    assert torch.equal(maps[1], outputs[1])
    assert torch.equal(maps[0], F.interpolate(outputs[0], size=(8, 12), mode="bilinear"))
    torch.testing.assert_close(maps[2], outputs[2].unflatten(2, (2, 2)).unflatten(4, (3, 2)).mean(dim=(3, 5)))


def test_the_blocks_of_a_level_follow_from_the_depth():
    """Of the 24 blocks of Stable Diffusion 3, the 9th, the 12th and the 16th."""
    layout = layout_of(build_sd3(num_layers=24, num_attention_heads=1, caption_projection_dim=8))
    assert layout.taps == tuple(f"transformer_blocks.{k}" for k in (15, 11, 8))
    flux = build_flux(num_layers=19, num_single_layers=38, num_attention_heads=1)
    assert layout_of(flux).taps == tuple(f"single_transformer_blocks.{k}" for k in (18, 8, 1))


# The first level uses the last block, which has no text output, and the blocks are in no particular order.
CHOSEN = {"SD 3": (5, 1, 3), "FLUX": (5, 0, 4)}


@pytest.mark.parametrize("family", JOINT)
def test_the_blocks_that_become_levels_may_be_chosen(folders, family, tmp_path):
    backbone = TADPBackbone.from_pretrained(folders[family], blocks=CHOSEN[family], attach_attention=(), timestep=250)
    names = backbone.layout.taps
    single = {"FLUX": ("single_transformer_blocks.2", "transformer_blocks.0", "single_transformer_blocks.1")}
    assert names == single.get(family, tuple(f"transformer_blocks.{k}" for k in CHOSEN[family]))
    backbone = backbone.with_options(record_attention=(0, 1, 2))
    text, latents = backbone.encode_text("a red dog"), noise(1, 16, 8, 12)
    seen: dict[str, torch.Tensor] = {}
    model = JOINT[family]()
    for name in names:

        def keep(_module, _inputs, output, name=name):
            seen[name] = output[1] if isinstance(output, tuple) else output

        model.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        own_forward(model, latents, text.embeddings, text.pooled, 250)
        features = backbone.extract(latents, text)
    torch.testing.assert_close(features.maps[1], seen[names[1]].transpose(1, 2).unflatten(2, (4, 6)))
    expected = attention_by_hand(JOINT[family](), names[1], latents, text.embeddings, text.pooled).float()
    torch.testing.assert_close(features.attention.at(1), expected, atol=1e-5, rtol=0)
    backbone.save_pretrained(tmp_path / "saved")
    again = TADPBackbone.from_pretrained(tmp_path / "saved")
    assert again.blocks == CHOSEN[family]
    assert again.layout.taps == names
    tuned = again.train()
    sum(feature.square().sum() for feature in tuned(images(1, 64, 64), "a dog").maps).backward()
    assert [
        name for name, parameter in tuned.named_parameters() if parameter.requires_grad and parameter.grad is None
    ] == []
    again.freeze().unfreeze()
    assert {name for name, parameter in again.named_parameters() if parameter.requires_grad} == {
        name for name, parameter in tuned.named_parameters() if parameter.requires_grad
    }


@pytest.mark.parametrize(
    ("family", "blocks", "message"),
    [
        ("SD 3", (1, 2, 6), r"no block 6; this transformer has blocks 0 to 5\."),
        ("FLUX", (-1, 2, 3), r"no block -1; .* blocks 0 to 5; those from 3 on are single_transformer_blocks"),
        ("SD 3", (1, 2), r"blocks must be 3 different numbers, for strides 8, 16 and 32; got \(1, 2\)"),
        ("FLUX", (1, 2, 2), r"blocks must be 3 different numbers"),
        (
            "SDXL",
            (1, 2, 3),
            r"blocks= selects the levels of a transformer .* the levels of a U-Net are its 3 up blocks",
        ),
    ],
)
def test_blocks_that_are_not_there_are_refused(folders, family, blocks, message):
    with pytest.raises(ValueError, match=message):
        TADPBackbone.from_pretrained(folders[family], blocks=blocks)


def rotate(heads: torch.Tensor, ids: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """FLUX's rotary embedding with complex numbers: pairs of channels, one axis after another."""
    angles = torch.cat(
        [ids[:, k : k + 1] * 10000.0 ** (-torch.arange(0, size, 2) / size) for k, size in enumerate(axes)], dim=1
    )
    rotated = torch.view_as_complex(heads.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(rotated).flatten(-2)


def attention_by_hand(model, name: str, latents, text, pooled) -> torch.Tensor:
    """One block's attention, (B, L, h, w), averaged over its heads."""
    return heads_by_hand(model, name, latents, text, pooled).mean(dim=1)


def heads_by_hand(model, name: str, latents, text, pooled) -> torch.Tensor:
    """The same of each head, (B, heads, L, h, w): the whole softmax in float64, from what hooks saw in diffusers."""
    attn = model.get_submodule(f"{name}.attn")
    seen: dict[str, torch.Tensor] = {}
    for part in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        module = getattr(attn, part, None)
        if module is not None:

            def keep(_module, _inputs, output, part=part):
                seen[part] = output.double()

            module.register_forward_hook(keep)
    with torch.no_grad():
        own_forward(model, latents, text, pooled, 250)
    height, width, length = latents.shape[2] // 2, latents.shape[3] // 2, text.shape[1]
    if type(model).__name__ == "SD3Transformer2DModel":  # (B, heads, N, d)
        query, key = seen["norm_q"], torch.cat([seen["norm_added_k"], seen["norm_k"]], dim=2)
    else:  # (B, N, heads, d); text comes first
        query, key = (
            (
                torch.cat([seen[f"norm_added_{k}"], seen[f"norm_{k}"]], dim=1)
                if "norm_added_q" in seen
                else seen[f"norm_{k}"]
            )
            for k in "qk"
        )
        image = [[0.0, y, x] for y in range(height) for x in range(width)]
        ids = torch.tensor([[0.0, 0.0, 0.0]] * length + image, dtype=torch.float64)
        query, key = (rotate(heads.transpose(1, 2), ids, model.config["axes_dims_rope"]) for heads in (query, key))
        query = query[:, :, length:]
    weights = torch.softmax(query @ key.transpose(2, 3) / query.shape[-1] ** 0.5, dim=-1)
    return weights[..., :length].transpose(2, 3).unflatten(3, (height, width))


@pytest.mark.parametrize("family", [*JOINT, "FLUX with only double blocks"])
@pytest.mark.parametrize("rows", [256, 5])
def test_joint_attention_is_the_texts_part_of_the_whole_softmax(family, rows, monkeypatch):
    monkeypatch.setattr(tadp.diffusion.joint_attention, "ROWS", rows)  # 24 cells: one chunk or five
    build = JOINT.get(family, lambda: build_flux(num_layers=6, num_single_layers=0, guidance_embeds=False))
    latents, text = noise(2, 16, 8, 12), noise(2, 7, T5_WIDTH)
    pooled = noise(2, build().config["pooled_projection_dim"])
    model = build()
    with torch.no_grad():
        maps, attention = run(model, latents, Conditioning(text, pooled=pooled), record_levels=(0, 1, 2))
        unrecorded, _ = run(model, latents, Conditioning(text, pooled=pooled))
    assert all(torch.equal(first, second) for first, second in zip(maps, unrecorded, strict=True))
    for level, name in enumerate(layout_of(model).taps):
        expected = attention_by_hand(build(), name, latents, text, pooled).float()
        assert expected.std() > 0.005  # far from uniform
        if level == 0:
            expected = F.interpolate(expected, scale_factor=2, mode="bilinear")
        if level == 2:
            expected = F.avg_pool2d(expected, 2)
        torch.testing.assert_close(attention[level], expected, atol=1e-5, rtol=0)
        assert attention[level].sum(dim=1).max() < 1


@pytest.mark.parametrize("family", JOINT)
@pytest.mark.parametrize("rows", [256, 5])
def test_joint_attention_of_each_head(family, rows, monkeypatch):
    monkeypatch.setattr(tadp.diffusion.joint_attention, "ROWS", rows)
    build, latents, text = JOINT[family], noise(2, 16, 8, 12), noise(2, 7, T5_WIDTH)
    pooled = noise(2, build().config["pooled_projection_dim"])
    backbone = TADPBackbone(unet=build(), vae=build_vae(latent_channels=16), attach_attention=(1,), text_length=7)
    expected = backbone.with_options(timestep=250).extract(latents, Conditioning(text, pooled=pooled))
    backbone = backbone.with_options(record_attention=(0, 1, 2), record_heads=True, timestep=250)
    features = backbone.extract(latents, Conditioning(text, pooled=pooled))
    assert all(torch.equal(first, second) for first, second in zip(features.maps, expected.maps, strict=True))
    names = backbone.layout.taps
    for level, name in enumerate(names):
        heads = heads_by_hand(build(), name, latents, text, pooled).float()
        assert heads.std(dim=1).mean() > 1e-3, "equal heads would prove nothing"
        if level != 1:
            maps = heads.flatten(0, 1)
            maps = F.interpolate(maps, scale_factor=2, mode="bilinear") if level == 0 else F.avg_pool2d(maps, 2)
            heads = maps.unflatten(0, heads.shape[:2])
        torch.testing.assert_close(features.attention.heads(level), heads, atol=1e-5, rtol=0)
        torch.testing.assert_close(features.attention.heads(level).mean(dim=1), features.attention.at(level))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_all_that_trains(folders, family, checkpointing):
    """And no trainable parameter is left that a pass never uses, because DDP would wait for its gradient."""
    backbone = TADPBackbone.from_pretrained(folders[family], record_attention=()).train()
    backbone.enable_gradient_checkpointing(checkpointing)
    features = backbone(images(1, 64, 64), "a red dog")
    sum((feature * noise(*feature.shape)).sum() for feature in features.maps).backward()
    missing = [
        name for name, parameter in backbone.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert missing == []
    assert all(
        parameter.grad is None for parameter in (*backbone.vae.parameters(), *backbone.text_encoder.parameters())
    )
    assert all(
        torch.isfinite(parameter.grad).all() for parameter in backbone.unet.parameters() if parameter.grad is not None
    )


@pytest.mark.parametrize("family", JOINT)
def test_the_gradient_flows_through_joint_attention(folders, family, monkeypatch):
    """The gradient is the same for chunks, each computed again in the backward pass, and for one whole computation."""
    gradients = []
    for rows in (256, 5):
        monkeypatch.setattr(tadp.diffusion.joint_attention, "ROWS", rows)
        backbone = TADPBackbone.from_pretrained(folders[family])
        attention = backbone(images(1, 64, 96), "a red dog").attention.at(1)
        (attention * noise(*attention.shape)).sum().backward()
        block = backbone.unet.get_submodule(backbone.layout.taps[1])
        gradients.append(block.attn.to_q.weight.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_transformer_that_does_not_fit_is_refused(backbones):
    with pytest.raises(ModelError, match=r"has patch_size=1; tadp reads 2"):
        layout_of(build_sd3(patch_size=1))
    with pytest.raises(ModelError, match=r"has 5 blocks; it needs 6 or more, because tadp takes its levels from three"):
        layout_of(build_sd3(num_layers=5))
    with pytest.raises(
        ValueError, match=r"has positions for at most 24x24 latent cells; got 28x8\. Use smaller images, or tiles"
    ):
        backbones["SD 3"](images(1, 224, 64), "a dog")


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_close(folders, backbones, family):
    half = TADPBackbone.from_pretrained(folders[family], dtype=torch.bfloat16)
    with torch.no_grad():
        ours, expected = half(images(1, 64, 64), "a dog").maps, backbones[family](images(1, 64, 64), "a dog").maps
    for feature, exact in zip(ours, expected, strict=True):
        assert feature.dtype == torch.bfloat16
        assert (feature.float() - exact).norm() < 0.1 * exact.norm()


def test_a_small_unet_of_one_family_is_not_the_others():
    assert layout_of(build_unet()).pooled_width is None
    assert layout_of(build_xl_unet()).pooled_width == POOLED
