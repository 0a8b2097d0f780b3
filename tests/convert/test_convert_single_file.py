"""Whole Stable Diffusion models in one file, written with the names of the original code."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from builders import build_tokenizer, images
from builders_single_file import parts_of, whole, write, write_configs

from tadp import TADPBackbone
from tadp.assets import single_file_configs
from tadp.convert import from_single_file
from tadp.errors import CorruptFileError, MissingFileError, ModelError, UnknownModelError


@pytest.fixture
def base(tmp_path):
    """A function that writes a folder with the configurations of small models and their tokenizer."""
    return lambda family: write_configs(family, tmp_path / "base")


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_single_file_is_the_same_model(family, suffix, base, tmp_path):
    path = write(whole(family), tmp_path / f"model{suffix}")
    loaded = from_single_file(path, base_model=base(family), timestep=1)
    expected = TADPBackbone(**parts_of(family), tokenizer=build_tokenizer(), timestep=1).eval()
    state, expected_state = loaded.state_dict(), expected.state_dict()
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(state[name], expected_state[name]) for name in state)
    with torch.no_grad():
        maps, expected_maps = (model(images(1, 64, 64), "a red dog").maps for model in (loaded, expected))
    assert all(torch.equal(left, right) for left, right in zip(maps, expected_maps, strict=True))
    loaded.save_pretrained(tmp_path / "saved")
    assert TADPBackbone.from_pretrained(tmp_path / "saved").timestep == 1


def test_the_tokenizer_may_be_given_and_the_dtype_chosen(base, tmp_path):
    path = write(whole("sd1"), tmp_path / "model.safetensors")
    folder = base("sd1")
    for tokenizer in (build_tokenizer(), folder / "tokenizer"):
        loaded = from_single_file(path, base_model=folder, tokenizer=tokenizer, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


CLIP = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}


@pytest.mark.parametrize(("family", "padding"), [("sd1", "<|endoftext|>"), ("sd2", "!")])
def test_clips_own_tokenizer_comes_with_us_and_pads_as_the_family_was_trained(family, padding, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)  # nothing may be downloaded
    folder = write_configs(family, tmp_path / "base", **CLIP)
    shutil.rmtree(folder / "tokenizer")
    path = write(whole(family, **CLIP), tmp_path / "model.safetensors")
    loaded = from_single_file(path, base_model=folder)
    tokenizer = loaded.text_encoder.tokenizer
    assert tokenizer.pad_token == padding
    ids = loaded.text_encoder._fit(loaded.text_encoder._tokenize(["a golden retriever"])[0].ids)
    assert ids == [49406, 320, 3878, 28394, 49407, *[tokenizer.convert_tokens_to_ids(padding)] * 72]  # OpenAI's numbers
    loaded.save_pretrained(tmp_path / "saved")
    again = TADPBackbone.from_pretrained(tmp_path / "saved")
    text = "a golden retriever, naïve and 犬"
    assert torch.equal(again.encode_text(text).embeddings, loaded.encode_text(text).embeddings)
    assert again.text_encoder.tokenizer is not from_single_file(path, base_model=folder).text_encoder.tokenizer


def test_a_tokenizer_of_another_vocabulary_is_refused(base, tmp_path):
    folder = base("sd1")
    shutil.rmtree(folder / "tokenizer")
    path = write(whole("sd1"), tmp_path / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"the tokenizer has 49408 tokens, but the text encoder takes \d+; pass the tokenizer"
    ):
        from_single_file(path, base_model=folder)
    with pytest.raises(UnknownModelError, match=r"cannot get 'someone/words'.* Pass a folder with tokenizer\.json"):
        from_single_file(path, tokenizer="someone/words", cache_dir=tmp_path, local_files_only=True)


def test_the_configurations_that_come_with_us_are_those_of_the_examples():
    configs = json.loads(single_file_configs().read_text())
    assert {family: config["text_encoder"]["hidden_size"] for family, config in configs.items()} == {
        "sd1": 768,
        "sd2": 1024,
    }
    assert {family: config["unet"]["cross_attention_dim"] for family, config in configs.items()} == {
        "sd1": 768,
        "sd2": 1024,
    }
    public = json.loads((Path(__file__).parents[2] / "examples" / "base_models.json").read_text())
    assert all(config["unet"] == public[family]["config"] for family, config in configs.items())


def test_files_of_other_families_are_refused(tmp_path):
    path = write({"conditioner.embedders.0.weight": torch.zeros(2)}, tmp_path / "xl.safetensors")
    with pytest.raises(ModelError, match=r"xl\.safetensors is a Stable Diffusion XL model in one file"):
        from_single_file(path)
    path = write({"model.diffusion_model.out.0.weight": torch.zeros(2)}, tmp_path / "unet.safetensors")
    with pytest.raises(ModelError, match=r"has no text encoder under LDM's names \(cond_stage_model\.\*\)"):
        from_single_file(path)
    with pytest.raises(MissingFileError, match=r"no such file: .*none\.ckpt"):
        from_single_file(tmp_path / "none.ckpt")


def test_what_is_missing_or_unknown_is_named(base, tmp_path):
    folder, state = base("sd1"), whole("sd1")
    del state["model.diffusion_model.input_blocks.0.0.weight"]
    state["model.diffusion_model.control.weight"] = torch.zeros(2)
    path = write(state, tmp_path / "model.safetensors")
    with pytest.raises(
        ModelError,
        match=r"1 missing: model\.diffusion_model\.input_blocks\.0\.0\.weight\. 1 unknown: model\.diff.*control",
    ):
        from_single_file(path, base_model=folder)


def test_a_ckpt_that_would_run_something_is_refused(tmp_path):
    (tmp_path / "bad.ckpt").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(CorruptFileError, match=r"bad\.ckpt"):
        from_single_file(tmp_path / "bad.ckpt")
