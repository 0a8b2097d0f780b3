"""Configs of tokenizers, processors and generation that would silently change results, or take very long."""

import json

import pytest
from builders import build_folder
from builders_captioner import build_blip, build_qwen2_vl
from PIL import Image

from tadp import Captioner, TADPBackbone
from tadp.errors import ModelError
from tadp.files.reader_configs import is_slow

# Of CLIP, GPT-2, Llama 3, GPT-4o, DeepSeek, SmolLM and Bloom.
KNOWN = [
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t|'re)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    r" ?[^(\s|[.,!?…])]+",
]
SLOW = [
    r"(\w+)*x", r"(a|aa)+$", r"(a?){30}", r"(?:a{1,100}){1,100}b", r"\s*\s*\s*\s*x", r"(a)\1", "a?" * 30 + "a" * 30,
    "x" * 5000, r"((a+)b?)+c", r"(?<n>a)\k<n>", r"(?:(?:x*)y*)*",
]  # fmt: skip


@pytest.mark.parametrize("pattern", KNOWN)
def test_the_expressions_of_known_tokenizers_are_fast(pattern):
    assert not is_slow(pattern)


@pytest.mark.parametrize("pattern", SLOW)
def test_expressions_that_try_many_ways_are_slow(pattern):
    assert is_slow(pattern)


@pytest.mark.parametrize(
    ("part", "node"),
    [
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "(\\w+)*x"}, "content": ""}),
        ("normalizer", {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}),
        ("normalizer", {"type": "Prepend", "prepend": "a" * 1000}),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a|a)*b"}, "behavior": "Isolated", "invert": False}),
    ],
)
def test_a_tokenizer_cannot_take_very_long(part, node, tmp_path):
    path = build_folder(tmp_path) / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {part: {"type": "Sequence", f"{part}s".replace("_", ""): [node]}}))
    with pytest.raises(ModelError, match=r"tokenizer\.json: .*(could take very long|texts much longer)"):
        TADPBackbone.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "error"),
    [
        ("processor_config.json", {"do_normalize": 0}, "image_processor.do_normalize must be true or false"),
        ("processor_config.json", {"image_mean": True}, "image_processor.image_mean must be a number or a list"),
        ("processor_config.json", {"image_mean": [0.5, 0.5, 128]}, "image_processor.image_mean must be from 0 to 1"),
        ("processor_config.json", {"image_std": [0.5, 0, 0.5]}, "image_processor.image_std must be from above 0 to 1"),
        ("processor_config.json", {"rescale_factor": 0}, "image_processor.rescale_factor must be from above 0 to 1"),
        ("processor_config.json", {"size": {"height": 32.0, "width": 32}}, "image_processor.size.height must be a"),
        ("generation_config.json", {"num_return_sequences": "2"}, "num_return_sequences must be a whole number"),
        ("generation_config.json", {"repetition_penalty": 1e6}, "repetition_penalty must be from 0.1 to 10"),
        ("generation_config.json", {"max_time": 0.01}, "max_time must be null; got 0.01"),
        ("generation_config.json", {"eos_token_id": 10**6}, "eos_token_id is 1000000, but the model has"),
        ("generation_config.json", {"cache_implementation": "many"}, "cache_implementation is 'many'"),
    ],
)
def test_a_captioners_configs_cannot_change_captions_unnoticed(file, change, error, tmp_path):
    folder = build_blip(tmp_path)
    content = json.loads((folder / file).read_text())
    inner = content.get("image_processor", content)
    inner |= change
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=f"{file}.*{error}"):
        Captioner.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"patch_size": 1.5}, "patch_size must be a whole number or null; got 1.5"),
        ({"temporal_patch_size": [1, "x"]}, r"temporal_patch_size must be a whole number or null; got \[1, 'x'\]"),
        ({"merge_size": {}}, "merge_size must be a whole number or null; got {}"),
        ({"merge_size": 0}, "merge_size must be from 1 to"),
        ({"size": {"shortest_edge": 56, "longest_edge": -1}}, "size.longest_edge must be from 1 to"),
        ({"do_resize": None}, r"do_resize is None \(ValueError: cannot reshape"),
    ],
)
def test_an_image_processor_of_patches_is_checked_too(change, error, tmp_path):
    path = build_qwen2_vl(tmp_path) / "preprocessor_config.json"
    content = json.loads(path.read_text())
    content |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=rf"preprocessor_config\.json.*{error}"):
        Captioner.from_pretrained(tmp_path)


def test_images_of_another_size_than_the_model_takes_are_explained(tmp_path):
    folder = build_blip(tmp_path)
    path = folder / "processor_config.json"
    content = json.loads(path.read_text())
    content["image_processor"]["size"] = {"height": 48, "width": 48}
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"do not fit its model: .*processor_config\.json.* makes 48x48 pixels"):
        Captioner.from_pretrained(folder)(Image.new("RGB", (9, 9)))
