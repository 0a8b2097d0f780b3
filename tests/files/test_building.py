"""Configs that others wrote: what they may ask for, and how an entry that cannot be used is reported."""

import ast
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from builders_captioner import build_blip, build_llava
from builders_families import build_family
from contracts import is_at_least
from diffusers import UNet2DConditionModel
from torch import nn

from tadp import Captioner, TADPBackbone
from tadp.errors import ModelError
from tadp.files.building import Sizes, build, check_entries, explained, limited
from tadp.files.hub import read_json
from tadp.files.schema import check_types

PATH = Path("model/config.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return build_family("FLUX", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def unet_folder(tmp_path_factory) -> Path:
    return build_family("SD 2.x", tmp_path_factory.mktemp("sd"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


PROCESSOR = ("patch_size", "image_token", "num_additional_image_tokens", "vision_feature_select_strategy")


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    return build_llava(tmp_path_factory.mktemp("llava"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text_config", {}),
        ("vision_config", None),
        ("vision_config.image_size", None),
        ("vision_config.image_size", 0),
        pytest.param(
            *("vision_feature_layer", []),
            marks=pytest.mark.skipif(not is_at_least("transformers", "5.24"), reason="old versions report the sizes"),
        ),
        ("text_config.rope_parameters.rope_theta", "x"),
        ("text_config.rope_parameters.rope_theta", None),
        ("text_config.rope_parameters.rope_theta", 0),
        ("text_config.rope_parameters.rope_type", True),
        ("text_config.max_position_embeddings", -1),
        ("text_config.attention_bias", True),
        ("text_config.head_dim", True),
        ("quantization_config", {}),
        ("dtype", {}),
        ("auto_map", True),
        ("image_token_index", 0),
        ("patch_size", None),
        ("patch_size", []),
        ("image_token", "x"),
        ("patch_size", True),
        ("vision_feature_select_strategy", 0),
        ("num_additional_image_tokens", "x"),
    ],
)
def test_an_entry_of_a_captioners_config_that_cannot_be_used_is_reported(llava, key, value):
    path = llava / ("processor_config.json" if key in PROCESSOR else "config.json")
    before = path.read_text()
    config = content = json.loads(before)
    *parts, name = key.split(".")
    for part in parts:
        content = content[part]
    content[name] = value
    path.write_text(json.dumps(config))
    try:
        with pytest.raises(
            ModelError, match=rf"config\.json.*{name}" if name != "image_token_index" else r"config\.json"
        ):
            Captioner.from_pretrained(llava, max_new_tokens=4)(torch.rand(1, 3, 32, 32))
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("unet/config.json", "layers_per_block", 100_000_000),
        ("unet/config.json", "layers_per_block", 1e8),
        ("unet/config.json", "transformer_layers_per_block", 60),
        ("unet/config.json", "block_out_channels", [30_000] * 4),
        ("unet/config.json", "act_fn", "swoosh"),
        ("unet/config.json", "norm_num_groups", None),
        ("unet/config.json", "norm_num_groups", 0),
        ("unet/config.json", "sample_size", "large"),
        ("unet/config.json", "down_block_types", None),
        ("unet/config.json", "class_embed_type", "projection"),
        ("unet/config.json", "downsample_padding", 30_000),
        ("unet/config.json", "norm_eps", float("nan")),
        ("unet/config.json", "in_channels", -4),
        ("vae/config.json", "scaling_factor", "0.18"),
        ("vae/config.json", "layers_per_block", 10**9),
        ("vae/config.json", "norm_num_groups", 3),
        ("text_encoder/config.json", "num_hidden_layers", 100_000_000),
        ("text_encoder/config.json", "hidden_act", "swoosh"),
        ("text_encoder/config.json", "num_attention_heads", 7),
        ("text_encoder/config.json", "vocab_size", 30_000),
        ("text_encoder/config.json", "_attn_implementation", "somebody/kernel"),
        ("text_encoder/config.json", "_attn_implementation", "flash_attention_2"),
        ("text_encoder/config.json", "transformers_weights", "adapter_model.bin"),
        ("tokenizer/tokenizer_config.json", "model_max_length", "long"),
        ("tokenizer/tokenizer_config.json", "pad_token", None),
        ("tokenizer/tokenizer_config.json", "padding_side", "top"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**9),
        ("scheduler/scheduler_config.json", "beta_schedule", "steep"),
        ("scheduler/scheduler_config.json", "_class_name", None),
    ],
)
def test_an_entry_that_cannot_be_used_is_reported_by_file_key_and_value_at_once(unet_folder, file, key, value):
    path = unet_folder / file
    before = path.read_text()
    edit(path, **{key: value})
    start = time.monotonic()
    try:
        with pytest.raises(ModelError) as caught:
            TADPBackbone.from_pretrained(unet_folder)
    finally:
        path.write_text(before)
    assert str(path.parent) in str(caught.value)
    assert path.name in str(caught.value)
    assert key in str(caught.value)
    assert time.monotonic() - start < 20  # without limits, some of these take hours


@pytest.mark.parametrize(
    ("file", "names", "value"),
    [
        ("config.json", ("text_config", "num_hidden_layers"), 100_000_000),
        ("config.json", ("vision_config", "hidden_act"), "swoosh"),
        ("config.json", ("text_config", "bos_token_id"), 10**6),
        ("config.json", ("text_config", "_attn_implementation"), "somebody/kernel"),
        ("config.json", ("text_config", "hidden_size"), 0),
        ("config.json", ("text_config", "intermediate_size"), 0),
        ("processor_config.json", ("processor_class",), "x"),
        ("processor_config.json", ("image_processor", "image_processor_type"), "a" * 5000),
        ("processor_config.json", ("image_processor", "pad_size"), "a" * 5000),
        ("processor_config.json", ("image_processor", "size", "width"), None),
        ("processor_config.json", ("image_processor", "size"), {"height": 10**6, "width": 10**6}),
        ("processor_config.json", ("image_processor", "image_mean"), "grey"),
        ("processor_config.json", ("image_processor", "resample"), 77),
        ("generation_config.json", ("num_beams",), 10**6),
    ],
)
def test_a_captioner_reports_its_files_in_the_same_way(tmp_path, file, names, value):
    folder = build_blip(tmp_path / "blip")
    config = json.loads((folder / file).read_text())
    place = config
    for name in names[:-1]:
        place = place[name]
    place[names[-1]] = value
    (folder / file).write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        Captioner.from_pretrained(folder)
    assert str(folder) in str(caught.value)
    assert file in str(caught.value)
    assert names[-1] in str(caught.value)
    assert len(str(caught.value).replace(str(folder), "")) < 600


SPY = """
import os
open(os.environ["TADP_TEST_MARKER"], "w").close()
class Spy:
    @classmethod
    def from_pretrained(cls, *args, **options):
        return cls()
"""


@pytest.mark.parametrize(
    "file",
    [
        "transformer/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer_2/tokenizer_config.json",
    ],
)
def test_no_code_in_a_model_folder_is_run_and_nobody_is_asked(model, file, tmp_path, monkeypatch):
    monkeypatch.setenv("TADP_TEST_MARKER", str(tmp_path / "ran"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    path = model / file
    before = path.read_text()
    (path.parent / "spy.py").write_text(SPY)
    names = ("AutoTokenizer", "AutoModel", "AutoConfig", "UNet2DConditionModel")
    edit(path, auto_map={name: ["spy.Spy", "spy.Spy"] if "Tok" in name else "spy.Spy" for name in names})
    try:
        TADPBackbone.from_pretrained(model)
    except ModelError as error:
        assert path.parent.name in str(error)  # noqa: PT017  a refusal is fine too
    finally:
        path.write_text(before)
        (path.parent / "spy.py").unlink()
    assert not (tmp_path / "ran").exists()


def test_code_in_a_captioners_folder_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TADP_TEST_MARKER", str(tmp_path / "ran"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    folder = build_blip(tmp_path / "blip")
    (folder / "spy.py").write_text(SPY)
    for file in ("config.json", "processor_config.json", "tokenizer_config.json"):
        names = ("AutoProcessor", "AutoModelForImageTextToText", "AutoConfig", "AutoImageProcessor")
        edit(folder / file, auto_map=dict.fromkeys(names, "spy.Spy") | {"AutoTokenizer": ["spy.Spy", "spy.Spy"]})
    Captioner.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def test_every_auto_class_is_told_to_trust_no_code():
    """`trust_remote_code=None`, the default of the auto classes, asks on the terminal."""
    calls = 0
    for path in (Path(__file__).parents[2] / "tadp").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            owner = ast.unparse(call.func.value)
            is_auto = owner.startswith("Auto") and "Autoencoder" not in owner
            if call.func.attr in ("from_pretrained", "from_config") and (is_auto or owner.endswith("_class")):
                calls += 1
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                is_passed_on = owner == "model_class" and None in options and call.func.attr == "from_pretrained"
                assert options.get("trust_remote_code") == "False" or is_passed_on, f"{path}, line {call.lineno}"
    assert calls >= 4


def test_types_are_those_of_the_arguments():
    config = {"sample_size": [8, 8], "act_fn": "silu", "norm_eps": 1, "unread": object()}
    check_types(config, UNet2DConditionModel, PATH)
    for key, value, rule in [
        ("act_fn", None, "a text; got None"),
        ("block_out_channels", "wide", "a list of whole numbers; got 'wide'"),
        ("flip_sin_to_cos", 1, "true or false; got 1"),
        ("layers_per_block", True, "a whole number or a list of whole numbers; got True"),
        ("sample_size", [8, 8, 8], r"or a list of whole numbers or null; got \[8, 8, 8\]"),
    ]:
        with pytest.raises(ModelError, match=rf"model/config\.json: {key} must be .*{rule}"):
            check_types({key: value}, UNet2DConditionModel, PATH)


def test_a_network_that_outgrows_its_weights_is_abandoned():
    with pytest.raises(Exception, match="many more values than its weights"), limited(Sizes(2, 100, 10)):
        nn.Linear(10_000, 10_000, device="meta")
    with pytest.raises(Exception, match="many more tensors than its weights"), limited(Sizes(2, 100, 10)):
        nn.ModuleList(nn.Linear(1, 1) for _ in range(2000))


def test_a_number_that_no_float_can_hold_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(f'{{"size": [1, {10**400}]}}')
    with pytest.raises(ModelError, match=r"config\.json: size must be a finite number; got a number of more than 90"):
        read_json(tmp_path / "config.json")


def test_deep_nesting_is_refused():
    nested: Any = {"a": 1}
    for _ in range(50):
        nested = {"a": nested}
    with pytest.raises(ModelError, match=r"config\.json: a\.a.* is nested too deeply"):
        check_entries(nested, PATH, Sizes.of([]))


def test_the_entry_without_which_it_works_is_at_fault():
    def make(config):
        if config.get("third") == "odd":
            raise RuntimeError("no name in this message")
        return torch.empty(1)

    with pytest.raises(ModelError, match=r"does not describe a model: third is 'odd' \(RuntimeError: no name in"):
        build(make, {"first": 1, "second": None, "third": "odd"}, PATH, what="a model")


def test_errors_that_name_the_file_pass_unchanged():
    message = f"{PATH.parent}/vae is missing."
    with pytest.raises(ModelError, match=rf"^{message}$"), explained(PATH, {}, what="a model"):
        raise ModelError(message)


def test_memory_that_runs_out_is_not_reported_as_weights_that_do_not_fit(unet_folder, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(nn.Module, "load_state_dict", fail)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        TADPBackbone.from_pretrained(unet_folder)
