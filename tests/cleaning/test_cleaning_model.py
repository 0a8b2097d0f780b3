"""The cleaner with a local language model: a tiny random one on disk, and a stub that answers correctly."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tadp.cleaning import ModelCleaner
from tadp.errors import CorruptFileError, MissingFileError, ModelError, UnknownModelError

CAPTIONS = ["a watercolor painting of a dog", "שלום 🐶 in watercolor", "", "a bird", "a watercolor painting of a dog"]
TEMPLATE = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}[answer]"


def build_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes and an end token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("language-model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = build_tokenizer()
        sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 1200}
        config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=256, eos_token_id=256, **sizes)
        GPT2LMHeadModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


class Good(torch.nn.Module):
    """Answers as a good model would, and records its prompts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, room: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.tokenizer, self.config = tokenizer, SimpleNamespace(max_position_embeddings=room)
        self.prompts: list[str] = []
        self.batches: list[int] = []

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any) -> torch.Tensor:
        assert options["do_sample"] is False
        self.batches.append(len(input_ids))
        answers = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            prompt = self.tokenizer.decode(ids[mask.bool()])
            self.prompts.append(prompt)
            caption = re.findall(r"(?:Caption: |\n\n)(.*)\n", prompt)[-1]
            text = re.sub(r"a watercolor painting of | in watercolor", "", caption)
            answers.append(self.tokenizer(f" {text}\nCaption: and so on").input_ids)
        longest = max(map(len, answers))
        padded = torch.tensor([[*answer, *[256] * (longest - len(answer))] for answer in answers])
        return torch.cat([input_ids, padded], dim=1)


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_a_good_models_answers_are_taken(template):
    model = Good(build_tokenizer(chat_template=template))
    report = ModelCleaner(model, model.tokenizer, batch_size=2).clean(CAPTIONS)
    assert report.after == ("a dog", "שלום 🐶", "", "a bird", "a dog")
    assert not report.failures
    assert model.batches == [2, 1]  # the same caption once, the empty one never
    assert all("watercolor" in prompt for prompt in model.prompts)
    assert all(prompt.endswith("[answer]" if template else "Edited:") for prompt in model.prompts)
    assert all(("[user]" in prompt) == bool(template) for prompt in model.prompts)


def test_a_random_model_costs_no_caption(folder):
    cleaner = ModelCleaner.from_pretrained(folder, max_new_tokens=8, batch_size=2)
    report = cleaner.clean(CAPTIONS)
    assert report.after == tuple(CAPTIONS)
    assert report.failures.keys() == {0, 1, 3, 4}
    assert repr(cleaner) == f"ModelCleaner({str(folder)!r}, domain='watercolor')"
    with pytest.warns(UserWarning, match=r"1 of 1 captions could not be cleaned"):
        assert cleaner("a bird") == ["a bird"]
    assert cleaner([]) == []


def test_answers_do_not_depend_on_the_batch(folder):
    single, batched = (ModelCleaner.from_pretrained(folder, max_new_tokens=8, batch_size=size) for size in (1, 4))
    captions = [text for text in CAPTIONS if text]
    assert single.clean(captions).failures == batched.clean(captions).failures


@pytest.mark.parametrize("failing", [0, 1])
def test_a_batch_on_which_the_model_fails_costs_no_other(monkeypatch, failing):
    """The model runs out of memory on one batch. On the first batch this is an error, as nothing is lost."""
    model = Good(build_tokenizer())
    generate = model.generate

    def fails(input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any) -> torch.Tensor:
        if len(model.batches) == failing:
            model.batches.append(0)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more")
        return generate(input_ids, attention_mask, **options)

    monkeypatch.setattr(model, "generate", fails)
    cleaner = ModelCleaner(model, model.tokenizer, batch_size=1)
    captions = [f"a watercolor painting of a {name}" for name in ("dog", "cat", "bird")]
    if failing == 0:
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            cleaner.clean(captions)
    else:
        report = cleaner.clean(captions)
        assert report.after == ("a dog", captions[1], "a bird")
        assert report.failures == {1: "the model failed: CUDA out of memory. Tried to allocate 2.00 GiB."}


def test_a_prompt_that_is_too_long_is_reported():
    model = Good(build_tokenizer(), room=700)
    report = ModelCleaner(model, model.tokenizer).clean(["a watercolor painting of a dog", "a dog " * 100])
    assert report.after == ("a dog", "a dog " * 100)
    assert report.failures == {1: "the prompt is longer than the model allows"}


def test_folders_that_hold_no_language_model_are_refused(folder, tmp_path):
    with pytest.raises(UnknownModelError, match=r"unknown model .*Pass a language model's folder"):
        ModelCleaner.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match=r"no config\.json in"):
        ModelCleaner.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ModelError, match=r"holds a model of type 'clip', which .* cannot use to write text"):
        ModelCleaner.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CorruptFileError, match=r"tadp reads safetensors, never pickles"):
        ModelCleaner.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "config.json",
            {"sliding_window": "x"},
            r"config\.json: sliding_window must be a whole number.*; got 'x'",
        ),
        (
            "config.json",
            {"sliding_window": [[1]]},
            r"config\.json: sliding_window must be a whole number.*; got \[\[1\]\]",
        ),
        (
            "generation_config.json",
            {"output_hidden_states": [1, "x"]},
            r"config\.json: output_hidden_states must be",
        ),
        ("config.json", {"n_layer": -1}, r"config\.json: n_layer must be above 0; got -1"),
        ("config.json", {"n_layer": 0}, r"config\.json: n_layer must be above 0; got 0"),
        ("config.json", {"n_inner": 0}, r"config\.json: n_inner is 0, a size that no weight has"),
        ("config.json", {"n_layer": 2}, r"config\.json does not describe .*: .*it lacks 12 weights of"),
        (
            "config.json",
            {"add_cross_attention": True},
            r"config\.json does not describe .*: add_cross_attention is True \(it lacks 8 weights of",
        ),
        ("tokenizer_config.json", {"eos_token": None}, r"has neither a pad_token nor an eos_token; set one in"),
    ],
)
def test_values_that_only_fail_while_text_is_written_are_refused_at_once(folder, tmp_path, file, change, message):
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        ModelCleaner.from_pretrained(tmp_path / "model")


def test_numbers_out_of_range_are_refused():
    model = Good(build_tokenizer())
    for name in ("batch_size", "max_new_tokens"):
        with pytest.raises(ValueError, match=rf"{name} must be 1 or more; got 0"):
            ModelCleaner(model, model.tokenizer, **{name: 0})
