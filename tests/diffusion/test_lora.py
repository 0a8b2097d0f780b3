"""A LoRA added to denoiser and text encoders equals one added by hand, and one added by diffusers' own pipelines."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from builders import build_text_encoder, build_tokenizer, build_unet
from builders_families import build_family, build_flux, build_pipeline, build_sd3, build_xl_unet
from contracts import is_at_least
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import save_file

from tadp import TADPBackbone
from tadp.diffusion.loading.lora_fusion import add_to_encoder
from tadp.errors import CorruptFileError, MissingFileError, ModelError


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    first_state, second_state = first.state_dict(), second.state_dict()
    return first_state.keys() == second_state.keys() and all(
        torch.equal(first_state[key], second_state[key]) for key in first_state
    )


TARGETS = ["to_q", "to_v"]


def lora_of(model, *, seed: int = 1) -> dict[str, torch.Tensor]:
    """Random factors for each layer, under peft's names."""
    model = copy.deepcopy(model)
    model.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=TARGETS))
    generator = torch.Generator().manual_seed(seed)
    state = get_peft_model_state_dict(model)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


def added(model, factors: dict[str, torch.Tensor], scale: float):
    """The expected weights, W + scale · B A, computed layer by layer."""
    model, state = copy.deepcopy(model), {}
    for name, tensor in model.state_dict().items():
        layer = name.removesuffix(".weight")
        a, b = (factors.get(f"{layer}.lora_{side}.weight") for side in "AB")
        state[name] = tensor if a is None or b is None else tensor + scale * b @ a
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
    state = backbone.unet.state_dict()
    assert state.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=1e-5, rtol=1e-5)
    assert all(parameter.requires_grad for name, parameter in backbone.unet.named_parameters() if "_out" not in name)
    backbone.save_pretrained(tmp_path / "saved")
    assert same(TADPBackbone.from_pretrained(tmp_path / "saved"), backbone)


@pytest.mark.parametrize(("family", "build"), [("SDXL", build_xl_unet), ("SD 3", build_sd3), ("FLUX", build_flux)])
def test_a_lora_of_each_family_is_added(family, build, tmp_path):
    folder = build_family(family, tmp_path / "model")
    factors = lora_of(build())
    prefix = "unet" if family == "SDXL" else "transformer"
    save_file({f"{prefix}.{name}": tensor for name, tensor in factors.items()}, tmp_path / "lora.safetensors")
    unet = build()
    backbone = TADPBackbone.from_pretrained(folder, unet=unet, lora=tmp_path / "lora.safetensors")
    expected = added(build(), factors, 1.0).state_dict()
    for name, tensor in backbone.unet.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)
    assert same(unet, build())  # the caller's U-Net is unchanged


def test_kohyas_names_for_flux_are_read(tmp_path):
    folder = build_family("FLUX", tmp_path / "model")
    generator = torch.Generator().manual_seed(1)
    down, up = torch.randn(2, 16, generator=generator), torch.randn(16, 2, generator=generator)
    base = "lora_unet_double_blocks_0_img_attn_proj"
    state = {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up, f"{base}.alpha": torch.tensor(1.0)}
    save_file(state, tmp_path / "lora.safetensors")
    backbone = TADPBackbone.from_pretrained(folder, lora=tmp_path / "lora.safetensors")
    layer = "transformer_blocks.0.attn.to_out.0.weight"
    expected = build_flux().state_dict()[layer] + 0.5 * up @ down
    torch.testing.assert_close(backbone.unet.state_dict()[layer], expected, atol=1e-5, rtol=1e-5)


def test_a_lora_of_another_family_is_refused_with_what_does_not_fit(model_source, tmp_path):
    unet = build_unet()
    path = tmp_path / "lora.safetensors"
    wide = {f"unet.{name}": tensor for name, tensor in lora_of(build_unet(cross_attention_dim=24)).items()}
    save_file(wide, path)
    with pytest.raises(ModelError, match=r"attn2\.to_v with 24 input channels, but the model's layer has 16\."):
        TADPBackbone.from_pretrained(model_source, unet=unet, lora=path)
    save_file({f"unet.{name}": tensor for name, tensor in lora_of(build_unet(layers_per_block=2)).items()}, path)
    with pytest.raises(ModelError, match=r"changes .*, which this model lacks\. It was trained for another family"):
        TADPBackbone.from_pretrained(model_source, unet=unet, lora=path)
    save_file({f"transformer.{name}": tensor for name, tensor in lora_of(build_sd3()).items()}, path)
    with pytest.raises(ModelError, match=r"has no weights for the unet\. It was trained for another family"):
        TADPBackbone.from_pretrained(model_source, unet=unet, lora=path)
    assert same(unet, build_unet())


# Text encoders


def text_lora_of(encoder, *, seed: int = 2) -> dict[str, torch.Tensor]:
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "out_proj", "fc1"])
    encoder = inject_adapter_in_model(config, copy.deepcopy(encoder))
    generator = torch.Generator().manual_seed(seed)
    state = get_peft_model_state_dict(encoder, adapter_name="default")
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


def fused(family: str, path: Path, scale: float):
    """diffusers' own pipeline after it has fused a LoRA."""
    pipeline = build_pipeline(family)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    pipeline.fuse_lora(lora_scale=scale, components=pipeline._lora_loadable_modules)
    pipeline.unload_lora_weights()
    return pipeline


def before_peft(name: str) -> str:
    if name.startswith("unet"):
        return name.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up.")
    name = name.replace("text_encoder.", "text_encoder.text_model.")
    return name.replace(".lora_A.", ".lora_linear_layer.down.").replace(".lora_B.", ".lora_linear_layer.up.")


FORMS = ["peft", "peft with settings", "kohya", "diffusers before peft"]


def written(form: str, folder: Path, parts: dict[str, dict[str, torch.Tensor]]) -> tuple[Path, float]:
    """Write the factors of each part to a file; return its path, and alpha / rank."""
    path = folder / "lora.safetensors"
    named = {f"{part}.{name}": tensor for part, factors in parts.items() for name, tensor in factors.items()}
    if form == "kohya":
        tags = {
            "unet": "unet",
            "text_encoder": "te" if "text_encoder_2" not in parts else "te1",
            "text_encoder_2": "te2",
        }
        named = {}
        for part, factors in parts.items():
            own = factors
            if part.startswith("text"):
                own = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in factors.items()}
            named |= {
                name.replace("lora_unet_", f"lora_{tags[part]}_"): tensor for name, tensor in kohya(own, 1.0).items()
            }
    if form == "diffusers before peft":
        named = {before_peft(name): tensor for name, tensor in named.items()}
    settings = {f"{part}.{key}": value for part in parts for key, value in {"r": 2, "lora_alpha": 6}.items()}
    has_settings = form == "peft with settings"
    if has_settings:
        targets = {part: sorted({name.split(".lora_")[0] for name in factors}) for part, factors in parts.items()}
        settings |= {f"{part}.target_modules": names for part, names in targets.items()}
    save_file(named, path, {"lora_adapter_metadata": json.dumps(settings)} if has_settings else None)
    return path, {"kohya": 0.5, "peft with settings": 3.0}.get(form, 1.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["SD 2.x", "SDXL"])
def test_text_encoders_are_changed_as_diffusers_pipeline_changes_them(family, form, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.peft.check_peft_version", lambda **_: None)  # an older version works
    if (family, form) == ("SDXL", "diffusers before peft"):
        pytest.skip("such files are older than SDXL")
    pipeline = build_pipeline(family)
    pipeline.save_pretrained(tmp_path / "model")
    encoders = [name for name in ("text_encoder", "text_encoder_2") if getattr(pipeline, name, None) is not None]
    parts = {"unet": lora_of(pipeline.unet)} | {name: text_lora_of(getattr(pipeline, name)) for name in encoders}
    path, ratio = written(form, tmp_path, parts)
    backbone = TADPBackbone.from_pretrained(tmp_path / "model", lora=path, lora_scale=0.5)
    is_old = not is_at_least("diffusers", "0.38")  # cannot add a LoRA to the text encoders of transformers 5
    reference = None if is_old else fused(family, path, 0.5)
    ours = {"unet": backbone.unet}
    ours |= {name: encoder.model for name, encoder in getattr(backbone.text_encoder, "parts", {}).items()}
    ours.setdefault("text_encoder", getattr(backbone.text_encoder, "model", None))
    for part, factors in parts.items():
        state, by_hand = ours[part].state_dict(), added(getattr(pipeline, part), factors, 0.5 * ratio).state_dict()
        assert not same(ours[part], getattr(pipeline, part))
        for expected in (by_hand, *(() if reference is None else (getattr(reference, part).state_dict(),))):
            for name, tensor in expected.items():
                torch.testing.assert_close(state[name], tensor, atol=1e-5, rtol=1e-5)


def test_the_text_encoder_that_was_given_is_as_it_was_and_another_ones_lora_is_refused(model_source, tmp_path):
    encoder = build_text_encoder()
    path, _ = written("peft", tmp_path, {"text_encoder": text_lora_of(encoder)})
    options = {"text_encoder": encoder, "tokenizer": build_tokenizer()}
    backbone = TADPBackbone.from_pretrained(model_source, lora=path, **options)
    assert same(encoder, build_text_encoder())
    expected = added(encoder, text_lora_of(encoder), 1.0).state_dict()
    for name, tensor in backbone.text_encoder.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in backbone.text_encoder.parameters())

    path, _ = written("peft", tmp_path, {"text_encoder": text_lora_of(build_text_encoder(width=24))})
    with pytest.raises(ModelError, match=r"fc1 of the text encoder as a 48x24 matrix, but the model's is 32x16\."):
        TADPBackbone.from_pretrained(model_source, lora=path)
    path, _ = written("peft", tmp_path, {"text_encoder": text_lora_of(build_text_encoder(num_hidden_layers=3))})
    with pytest.raises(ModelError, match=r"layers\.2\..* of the text encoder, which this model lacks\. It was trained"):
        TADPBackbone.from_pretrained(model_source, lora=path)
    half = {name: tensor for name, tensor in text_lora_of(encoder).items() if "lora_A" in name}
    path, _ = written("peft", tmp_path, {"text_encoder": half})
    with pytest.raises(ModelError, match=r"has only one of the two factors of .* of the text encoder"):
        TADPBackbone.from_pretrained(model_source, lora=path)
    save_file({"text_encoder.encoder.layers.0.mlp.fc1.lora_C.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(
        ModelError, match=r"lora_C\.weight' for the text encoder, which is not a LoRA factor that tadp knows"
    ):
        TADPBackbone.from_pretrained(model_source, lora=path)


def test_alphas_of_some_layers_are_read_as_peft_reads_them(tmp_path):
    """Compared with peft itself, running the model with the adapter."""
    config = LoraConfig(
        r=2, lora_alpha=4, target_modules=["q_proj", "fc1"], alpha_pattern={"layers.1.mlp.fc1": 12}, use_rslora=True
    )
    encoder = inject_adapter_in_model(config, build_text_encoder())
    state = {name: torch.randn_like(tensor) for name, tensor in get_peft_model_state_dict(encoder).items()}
    set_peft_model_state_dict(encoder, state)
    ids = torch.tensor([[5, 6, 7, 8]])
    ours = build_text_encoder()
    add_to_encoder(ours, state, tmp_path, alphas={}, metadata=config.to_dict(), scale=1.0)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).last_hidden_state, encoder(ids).last_hidden_state, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(ours(ids).last_hidden_state, build_text_encoder()(ids).last_hidden_state, atol=0.01)


def test_what_is_left_out_is_told_and_a_dora_is_refused(model_source, tmp_path):
    state = {f"unet.{name}": tensor for name, tensor in lora_of(build_unet()).items()}
    path = tmp_path / "lora.safetensors"
    save_file(state | {"text_encoder_2.encoder.layers.0.mlp.fc1.lora_A.weight": torch.zeros(2, 16)}, path)
    with pytest.warns(
        UserWarning, match=r"changes parts that this model lacks \(1 tensors, the first is text_encoder_2.*ignored"
    ):
        TADPBackbone.from_pretrained(model_source, lora=path)
    save_file(state | {"unet.down_blocks.0.attentions.0.to_q.dora_scale": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match=r"is a DoRA, whose magnitudes diffusers would ignore"):
        TADPBackbone.from_pretrained(model_source, lora=path)


def test_a_folder_without_a_lora_and_a_damaged_file_are_named(model_source, tmp_path):
    with pytest.raises(
        MissingFileError,
        match=r"no pytorch_lora_weights\.safetensors in .*, which has no \.safetensors file\. Pass the path",
    ):
        TADPBackbone.from_pretrained(model_source, lora=tmp_path)
    (tmp_path / "lora.safetensors").write_bytes(b"no")
    with pytest.raises(CorruptFileError, match=r"lora\.safetensors is not a complete safetensors file"):
        TADPBackbone.from_pretrained(model_source, lora=tmp_path)
    shutil.copy(model_source / "vae" / "diffusion_pytorch_model.safetensors", tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match=r"lora\.safetensors"):
        TADPBackbone.from_pretrained(model_source, lora=tmp_path)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("unet.alpha_pattern", {"(a+)+$": 4}, "not patterns"),
        ("unet.rank_pattern", {".*to_q": 4}, "not patterns"),
        ("unet.target_modules", "(x+x+)+y", "not patterns"),
        ("unet.rank_pattern", {"to_q": 10**9}, r"must be a number from 1 to \d+; got 1000000000"),
        ("unet.lora_alpha", float("inf"), "must be a number from 0 to inf; got inf"),
        ("unet.r", "two", r"must be a number from 1 to \d+; got 'two'"),
        ("unet.alpha_pattern", [1], r"must be an object; got \[1\]"),
        (
            "unet.lora_alpha",
            10**400,
            "must be a number from 0 to inf; got a number of more than 90",
        ),
        ("unet.r", 0, r"must be a number from 1 to \d+; got 0"),
        ("unet.r", 1.5, r"must be a whole number; got 1\.5"),
        ("unet.use_rslora", "no", "must be true or false; got 'no'"),
        ("unet.layers_to_transform", [[1]], r"must be a list of whole numbers.* got \[\[1\]\]"),
        ("unet.init_lora_weights", [], r"must be true or false or a text or null; got \[\]"),
    ],
)
def test_settings_with_patterns_or_impossible_numbers_are_refused(setting, value, message, tmp_path):
    build_family("SD 2.x", tmp_path / "model")
    unet = build_pipeline("SD 2.x").unet
    factors = {f"unet.{name}": tensor for name, tensor in lora_of(unet).items()}
    path = tmp_path / "lora.safetensors"
    save_file(factors, path, {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 2, setting: value})})
    with pytest.raises(ModelError, match=rf"lora\.safetensors: {setting} .*{message}"):
        TADPBackbone.from_pretrained(tmp_path / "model", lora=path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("lora_dropout", "many"), ("bias", 3), ("task_type", "x"), ("modules_to_save", [None]), ("peft_type", [])],
)
def test_settings_about_training_do_not_matter(setting, value, tmp_path):
    build_family("SD 2.x", tmp_path / "model")
    factors = {f"unet.{name}": tensor for name, tensor in lora_of(build_pipeline("SD 2.x").unet).items()}
    weights = []
    for number, more in enumerate(({}, {f"unet.{setting}": value})):
        settings = {"unet.r": 2, "unet.lora_alpha": 2, "unet.target_modules": ["to_q", "to_v"]} | more
        path = tmp_path / f"{number}.safetensors"
        save_file(factors, path, {"lora_adapter_metadata": json.dumps(settings)})
        weights.append(TADPBackbone.from_pretrained(tmp_path / "model", lora=path).unet.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_settings_that_peft_refuses_are_named(tmp_path):
    build_family("SD 2.x", tmp_path / "model")
    factors = {f"unet.{name}": tensor for name, tensor in lora_of(build_pipeline("SD 2.x").unet).items()}
    settings = {"unet.r": 2, "unet.lora_alpha": 2, "unet.target_modules": ["to_q"], "unet.init_lora_weights": "many"}
    path = tmp_path / "lora.safetensors"
    save_file(factors, path, {"lora_adapter_metadata": json.dumps(settings)})
    with pytest.raises(ModelError, match=r"lora\.safetensors does not describe a LoRA: .*init_lora_weights is 'many'"):
        TADPBackbone.from_pretrained(tmp_path / "model", lora=path)
