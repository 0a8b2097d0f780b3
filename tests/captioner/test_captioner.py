import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from builders_captioner import build_blip, build_blip2, build_llava, build_qwen2_vl
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen2VLImageProcessorPil,
)

from tadp import TADPBackbone, __version__
from tadp.assets import tiny_folder
from tadp.captioner import Captioner, quality
from tadp.captioner.quality import Caption, counted
from tadp.captions import Provenance
from tadp.datasets.scenes import CLASSES, Scenes
from tadp.errors import CorruptFileError, ImageError, MissingExtraError, MissingFileError, ModelError, UnknownModelError
from tadp.tasks import TADPForSemanticSegmentation
from tadp.text.clip_tokenizer import clip_counter

BUILDERS = {"blip": build_blip, "blip2": build_blip2, "llava": build_llava, "qwen2_vl": build_qwen2_vl}


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in BUILDERS.items()}


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Five pictures of different sizes and brightness."""
    rng = np.random.default_rng(0)
    sizes = ((32, 32), (40, 57), (64, 33), (8, 90), (128, 128))
    return [
        Image.fromarray((rng.integers(0, 256, (*size, 3)) // (k + 1)).astype(np.uint8)) for k, size in enumerate(sizes)
    ]


@pytest.fixture
def broken(folders, tmp_path) -> Path:
    """A copy of the BLIP folder that a test may break."""
    return Path(shutil.copytree(folders["blip"], tmp_path / "broken"))


def plain(folder: Path, **options) -> Callable[..., list[str]]:
    """A captioner without a second try, because models with random weights produce loops."""
    captioner = Captioner.from_pretrained(folder, retry=False, **options)
    return lambda images: [caption.text for caption in captioner.describe(images)]


@pytest.mark.parametrize("kind", BUILDERS)
def test_batches_give_the_captions_of_single_images(folders, images, kind):
    captioner = plain(folders[kind], max_new_tokens=10, batch_size=2)
    captions = captioner(images)
    assert len(captions) == 5
    assert len(set(captions)) > 1
    assert captions == [captioner(image)[0] for image in images]


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("prompt", [None, "a photo of"])
def test_captions_are_what_transformers_generates_without_prompt_and_image_tokens(folders, images, kind, prompt):
    """The expected text uses the known number of prompt tokens that each model repeats in its output."""
    captions = plain(folders[kind], max_new_tokens=8, prompt=prompt)(images[:2])
    tokenizer = AutoTokenizer.from_pretrained(folders[kind])
    model = AutoModelForImageTextToText.from_pretrained(folders[kind], dtype=torch.float32).eval()
    for image, caption in zip(images, captions, strict=False):
        inputs = (qwen2_vl_inputs if kind == "qwen2_vl" else plain_inputs)(folders[kind], image, prompt)
        prompt_tokens = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        repeated = {"blip": max(prompt_tokens - 1, 1), "blip2": max(prompt_tokens, 5)}.get(kind, prompt_tokens)
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        words = tokenizer.decode(ids[0, repeated:], skip_special_tokens=True)
        assert caption == " ".join(words.split())
        assert "<image>" not in caption
        assert "image_pad" not in caption


def plain_inputs(folder: Path, image: Image.Image, prompt: str | None) -> dict:
    text = prompt
    if "llava" in folder.name:
        text = f"<image> {prompt or 'Describe this image in one sentence.'} : "
    return AutoProcessor.from_pretrained(folder, backend="pil")(images=image, text=text, return_tensors="pt")


def qwen2_vl_inputs(folder: Path, image: Image.Image, prompt: str | None) -> dict:
    """Build the inputs without transformers' processor, which needs torchvision. Four patches give one image token."""
    pixels = Qwen2VLImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")
    count = int(pixels["image_grid_thw"].prod()) // 4
    text = prompt or "Describe this image in one sentence."
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|> {text} : ", return_tensors="pt")
    places = inputs["input_ids"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert places.sum() == count
    return {**inputs, **pixels, "mm_token_type_ids": places.int()}


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_minimum_of_tokens_lengthens_captions(folders, images, kind):
    """Special tokens do not show in the text, so the minimum is compared with a maximum below it."""
    short = plain(folders[kind], max_new_tokens=3)(images)
    long = plain(folders[kind], min_new_tokens=30, max_new_tokens=30)(images)
    assert max(len(caption.split()) for caption in short) <= 3
    assert min(len(caption.split()) for caption in long) > 3


def test_every_kind_of_image_gives_the_same_caption(folders, images, tmp_path):
    captioner = plain(folders["blip"], max_new_tokens=8)
    image = images[1]
    image.save(tmp_path / "image.png")
    pixels = np.asarray(image)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    kinds = [image, tmp_path / "image.png", str(tmp_path / "image.png"), pixels, tensor, tensor / 255]
    assert len(set(captioner(kinds))) == 1
    assert captioner(tensor) == captioner(image)


def test_a_batched_tensor_or_array_is_one_image_a_row(folders):
    captioner = plain(folders["blip"], max_new_tokens=8)
    batch = torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    assert captioner(batch) == captioner(list(batch))
    pixels = (batch * 255).byte().permute(0, 2, 3, 1).numpy()
    assert captioner(pixels) == captioner(list(pixels))


def test_no_images_no_captions(folders):
    assert Captioner.from_pretrained(folders["blip"])([]) == []


def test_provenance(folders):
    captioner = Captioner.from_pretrained(
        folders["blip"], min_new_tokens=2, max_new_tokens=9, num_beams=2, prompt="a", dtype=torch.bfloat16
    )
    assert captioner.name == str(folders["blip"])
    assert captioner.generation == {
        "min_new_tokens": 2,
        "max_new_tokens": 9,
        "num_beams": 2,
        "temperature": 0.0,
        "seed": 0,
        "prompt": "a",
        "retry": True,
        "dtype": "bfloat16",
    }
    provenance = captioner.provenance
    assert provenance["captioner"] == captioner.name
    assert provenance["revision"] is None
    assert provenance["dtype"] == "bfloat16"
    assert provenance["generation"] == captioner.generation
    assert provenance["tadp"] == __version__
    assert json.loads(json.dumps(provenance)) == provenance


def test_beam_search_and_progress_bar(folders, images, capsys):
    captioner = Captioner.from_pretrained(folders["blip2"], max_new_tokens=4, num_beams=2)
    assert len(captioner.describe(images[:2], progress=True)) == 2
    assert "captions" in capsys.readouterr().err


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(folders, images, kind, dtype):
    captioner = Captioner.from_pretrained(folders[kind], max_new_tokens=3, min_new_tokens=3, dtype=dtype)
    assert len(captioner(images[:2])) == 2


def test_weights_saved_in_half_precision_run_in_float32(folders, images, tmp_path):
    folder = Path(shutil.copytree(folders["blip"], tmp_path / "half"))
    AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    captioner = Captioner.from_pretrained(folder, max_new_tokens=3, min_new_tokens=3)
    assert {weight.dtype for weight in captioner._model.parameters()} == {torch.float32}
    assert len(captioner(images[:1])) == 1


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("generation_config.json", {"constraints": ["x"]}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}}),
    ],
)
def test_what_transformers_refuses_while_it_writes_is_an_error_of_the_folder(folders, images, tmp_path, file, entries):
    folder = Path(shutil.copytree(folders["llava"], tmp_path / "llava"))
    (folder / "own.py").write_text("raise SystemExit('executed')")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | entries))
    with pytest.raises(ModelError, match=rf"the captioner .*llava' cannot run with its .*{file}"):
        Captioner.from_pretrained(folder, max_new_tokens=3)(images[:1])


def test_files_of_an_older_captioner_do_not_stay(folders, tmp_path):
    for name in ("notes.txt", "chat_template.jinja", "preprocessor_config.json", "model-00001-of-00002.safetensors"):
        (tmp_path / name).write_text("older")
    Captioner.from_pretrained(folders["blip"]).save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "notes.txt" in names
    assert names.isdisjoint({"chat_template.jinja", "preprocessor_config.json", "model-00001-of-00002.safetensors"})
    Captioner.from_pretrained(tmp_path)


def test_no_gradients_and_no_module(folders):
    captioner = Captioner.from_pretrained(folders["blip"])
    assert not isinstance(captioner, torch.nn.Module)
    assert not captioner._model.training


def test_a_damaged_image_is_named(folders, images, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"image 1 of 2: .*broken.png"):
        Captioner.from_pretrained(folders["blip"])([images[0], tmp_path / "broken.png"])


def test_something_else_is_no_image(folders, no_type_checker):
    with pytest.raises(TypeError, match="got int"):
        Captioner.from_pretrained(folders["blip"])(3)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"min_new_tokens": -1}, "min_new_tokens must be 0 or more and at most max_new_tokens .77.; got -1"),
        ({"min_new_tokens": 20, "max_new_tokens": 10}, "at most max_new_tokens .10.; got 20"),
        ({"max_new_tokens": 0}, "max_new_tokens must be 1 or more; got 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more; got 0"),
        ({"num_beams": 0}, "num_beams must be 1 or more; got 0"),
        ({"temperature": -0.1}, "temperature must be 0 or a finite number above 0; got -0.1"),
        ({"temperature": float("nan")}, "temperature must be 0 or a finite number above 0; got nan"),
        ({"temperature": 0.7, "num_beams": 3}, "cannot be combined; got temperature 0.7 and 3 beams. Pass num_beams=1"),
        ({"max_new_tokens": 97}, "max_new_tokens must be at most 96 for .*blip.*; got 97"),
    ],
)
def test_numbers_out_of_range(folders, numbers, message):
    with pytest.raises(ValueError, match=message):
        Captioner.from_pretrained(folders["blip"], **numbers)


def test_a_prompt_that_is_no_text_is_refused_before_the_model_is_read(folders, no_type_checker):
    with pytest.raises(TypeError, match="prompt must be one string for all images; got list"):
        Captioner.from_pretrained(folders["blip"], prompt=["a", "b"])  # type: ignore


@pytest.mark.parametrize("name", ["no/such-captioner", "tadp-tyni", "/no/such/folder", "./nowhere/at/all"])
def test_an_unknown_name_says_what_is_known(name, tmp_path):
    with pytest.raises(UnknownModelError, match=r"'tadp-tiny' ships with tadp"):
        Captioner.from_pretrained(name, local_files_only=True, cache_dir=tmp_path)


def test_a_repository_in_the_cache_loads_offline(folders, images, tmp_path):
    repository, commit = tmp_path / "models--somebody--blip", "0123456789" * 4
    shutil.copytree(folders["blip"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    captioner = Captioner.from_pretrained("somebody/blip", local_files_only=True, cache_dir=tmp_path, max_new_tokens=5)
    assert captioner.name == "somebody/blip"
    assert captioner(images[0]) == Captioner.from_pretrained(folders["blip"], max_new_tokens=5)(images[0])
    assert captioner.revision == captioner.provenance["revision"] == Provenance.of(captioner).revision == commit


def test_blip2_is_the_papers_captioner(folders, images, tmp_path, monkeypatch):
    """A small model of BLIP-2's architecture in the hub's cache stands in for the real one."""
    repository = tmp_path / "models--Salesforce--blip2-opt-2.7b"
    shutil.copytree(folders["blip2"], repository / "snapshots" / ("0123456789" * 4))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456789" * 4)
    offline = {"local_files_only": True, "cache_dir": tmp_path, "max_new_tokens": 5}
    captioner = Captioner.from_pretrained("blip2", **offline)
    assert captioner.name == "Salesforce/blip2-opt-2.7b"
    assert captioner.generation["dtype"] == "float32"
    assert captioner(images[0]) == Captioner.from_pretrained(folders["blip2"], max_new_tokens=5)(images[0])
    on_gpu = Captioner.from_pretrained("blip2", device="meta", **offline)
    assert on_gpu.generation["dtype"] == "float16"
    shutil.copytree(folders["blip"], tmp_path / "here" / "blip2")
    monkeypatch.chdir(tmp_path / "here")  # a folder of that name comes first
    assert Captioner.from_pretrained("blip2", max_new_tokens=5).name == "blip2"


def test_a_file_is_not_a_folder(folders):
    with pytest.raises(UnknownModelError, match="is a file, but a model is a folder"):
        Captioner.from_pretrained(folders["blip"] / "config.json")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json"])
def test_a_missing_file_is_named(broken, file):
    (broken / file).unlink()
    with pytest.raises(MissingFileError, match=file) as caught:
        Captioner.from_pretrained(broken)
    assert str(broken) in str(caught.value)


def test_a_missing_shard_is_named(broken):
    (broken / "model.safetensors").rename(broken / "model-00001-of-00002.safetensors")
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(MissingFileError, match=r"no model-00002-of-00002.safetensors"):
        Captioner.from_pretrained(broken)


@pytest.mark.parametrize("keep", [0, 5, 2000, -1])
def test_cut_weights_are_corrupt(broken, keep):
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[:keep])
    with pytest.raises(CorruptFileError, match=r"model.safetensors is not a complete safetensors file"):
        Captioner.from_pretrained(broken)


def test_a_broken_config_is_corrupt(broken):
    (broken / "config.json").write_text('{"model_type": "bl')
    with pytest.raises(CorruptFileError, match=r"config.json is not JSON"):
        Captioner.from_pretrained(broken)


def test_pickles_are_not_read(broken):
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(CorruptFileError, match=r"only pytorch_model.bin: tadp reads safetensors"):
        Captioner.from_pretrained(broken)


def test_a_model_of_another_kind_is_named(tmp_path):
    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8
    )
    CLIPVisionModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a model of type 'clip_vision_model'"):
        Captioner.from_pretrained(tmp_path)


def test_weights_of_another_shape_are_refused(broken):
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["hidden_size"] = 48
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"do not fit its config\.json: text_config\.hidden_size is 48"):
        Captioner.from_pretrained(broken)


def test_missing_weights_are_refused(broken):
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json .*lacks .* weights of a BlipForConditionalGeneration"):
        Captioner.from_pretrained(broken)


def test_a_package_that_transformers_lacks_is_named(folders, monkeypatch):
    def fails(*_, **__):
        raise ImportError("Package `num2words` is required. Install it with `pip install num2words`.")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", fails)
    with pytest.raises(MissingExtraError, match=r"needs a package that is not installed: .*pip install num2words"):
        Captioner.from_pretrained(folders["blip"])


# Sampling


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_seed_and_an_image_give_one_caption_in_any_batch(folders, images, kind):
    options = {"max_new_tokens": 8, "temperature": 1.5}
    captions = plain(folders[kind], seed=3, batch_size=5, **options)(images)
    assert plain(folders[kind], seed=3, batch_size=2, **options)(images[::-1]) == captions[::-1]
    assert plain(folders[kind], seed=4, batch_size=5, **options)(images) != captions
    assert plain(folders[kind], max_new_tokens=8)(images) != captions


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_low_temperature_is_greedy(folders, images, kind):
    greedy = plain(folders[kind], max_new_tokens=8)(images)
    assert plain(folders[kind], max_new_tokens=8, temperature=1e-4, seed=9)(images) == greedy


# A second try


@pytest.fixture
def scripted(folders, monkeypatch):
    """A function that builds a captioner with given texts for the first and second try, and records its calls."""

    def build(first: list[str], second: list[str] = (), **options) -> tuple[Captioner, list[dict]]:
        captioner = Captioner.from_pretrained(folders["blip"], **options)
        tokenizer, calls = captioner._processor.tokenizer, []
        queues = {False: list(first), True: list(second)}

        def generate(pixel_values, **arguments):
            calls.append({"images": len(pixel_values), **arguments})
            queue = queues["no_repeat_ngram_size" in arguments]
            texts = [queue.pop(0) for _ in pixel_values]
            return tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]

        monkeypatch.setattr(captioner._model, "generate", generate)
        return captioner, calls

    return build


LOOP = "a dog and a dog and a dog and a dog"


def test_a_loop_is_asked_about_once_again(scripted, images):
    captioner, calls = scripted(["a cat", LOOP, "a car"], ["a dog on grass"])
    with pytest.warns(
        UserWarning,
        match=r"first returned an unusable caption for image 1 \(counted from 0\) .* from a second try is used",
    ) as caught:
        assert captioner(images[:3]) == ["a cat", "a dog on grass", "a car"]
    assert len(caught) == 1
    assert [call["images"] for call in calls] == [3, 1]
    assert calls[1]["no_repeat_ngram_size"] == 3
    assert calls[1]["min_new_tokens"] == 5


def test_records_say_how_each_caption_went(scripted, images):
    captioner, _ = scripted(["a cat", LOOP, "", ". ,"], ["a dog on grass", "", "a car"], batch_size=4)
    assert captioner.describe(images[:4]) == [
        Caption("a cat", tokens=4, fits=True),
        Caption("a dog on grass", retried=True, tokens=6, fits=True),
        Caption("", problem="empty", retried=True, tokens=2, fits=True),
        Caption("a car", retried=True, tokens=4, fits=True),
    ]


def test_what_stays_bad_is_kept_and_named(scripted, images):
    captioner, _ = scripted(["", LOOP, "a cat"], ["", "a cat " * 4])
    with pytest.warns(UserWarning, match="the captioner") as caught:
        assert captioner(images[:3]) == ["", LOOP, "a cat"]
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == 2
    assert "returned an empty caption for image 0 (counted from 0), also on a second try. Pass another" in texts[0]
    assert "endlessly in the caption for image 1 (counted from 0), also on a second try. Pass another" in texts[1]


@pytest.mark.parametrize("as_file", [False, True])
def test_an_only_image_has_no_number(scripted, images, tmp_path, as_file):
    captioner, _ = scripted([""], ["a dog on grass"])
    Image.fromarray(np.asarray(images[0])).save(tmp_path / "rex.png")
    with pytest.warns(
        UserWarning, match="unusable caption for rex.png" if as_file else "unusable caption for the image"
    ):
        captioner(tmp_path / "rex.png" if as_file else images[0])


def test_a_captioner_says_what_it_is(scripted):
    captioner, _ = scripted([], min_new_tokens=2, max_new_tokens=9)
    assert repr(captioner) == f"<Captioner {captioner.name}, 2 to 9 tokens>"


def test_a_loop_is_better_than_nothing_but_no_other_loop_than_the_first(scripted, images):
    captioner, _ = scripted(["", LOOP], [LOOP, "a cat " * 4])
    kept = Caption(LOOP, problem="looping", retried=True, tokens=13, fits=True)
    assert captioner.describe(images[:2]) == [kept] * 2


def test_no_second_try_where_none_is_wanted(scripted, images):
    captioner, calls = scripted([LOOP, ""], retry=False)
    with pytest.warns(UserWarning, match=r"for image [01] \(counted from 0\), and retry is off"):
        assert captioner(images[:2]) == [LOOP, ""]
    assert len(calls) == 1


def test_the_second_try_is_bound_by_the_limits(scripted, images):
    for options, fewest in (({"max_new_tokens": 3}, 3), ({"min_new_tokens": 20}, 20)):
        captioner, calls = scripted([""], ["a cat"], **options)
        captioner.describe(images[0])
        assert calls[1]["min_new_tokens"] == fewest


def test_files_are_named_and_long_lists_cut(scripted, images, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for path in paths:
        images[0].save(path)
    captioner, _ = scripted([LOOP] * 12, ["a cat"] * 12)
    with pytest.warns(
        UserWarning, match=r"image 0 \(0.png\), 1 \(1.png\), .*9 \(9.png\) and 2 more \(counted from 0\)"
    ):
        captioner(paths)


@pytest.mark.parametrize("kind", BUILDERS)
def test_on_the_second_try_no_three_tokens_come_twice(folders, images, kind, monkeypatch):
    captioner = Captioner.from_pretrained(folders[kind], min_new_tokens=20, max_new_tokens=20)
    generate, seen = captioner._model.generate, []

    def spy(**arguments):
        seen.append((arguments, generate(**arguments)))
        return seen[-1][1]

    monkeypatch.setattr(captioner._model, "generate", spy)
    monkeypatch.setattr(sys.modules["tadp.captioner.quality"], "is_looping", lambda text: True)
    captions = captioner.describe(images)
    assert [caption.problem for caption in captions] == ["looping"] * 5
    assert ["no_repeat_ngram_size" in arguments for arguments, _ in seen] == [False, True]
    for row in seen[1][1][:, -20:].tolist():
        triples = list(zip(row, row[1:], row[2:], strict=False))
        assert len(set(triples)) == len(triples)


# What the text encoder takes


def test_captions_that_do_not_fit_the_text_encoder_are_named(scripted, images, backbone):
    words = ["a cat and a red car", "red blue dog cat tree grass on of a an photo"]
    long = " ".join(words[k % 2] + f" {'red ' * (k % 3)}car {'tree ' * (k % 2)}" for k in range(40))
    captioner, _ = scripted(["a cat", long], retry=False)
    captions = captioner.describe(images[:2], text_encoder=backbone.text_encoder)
    assert captions[0].fits
    assert not captions[1].fits
    assert [caption.tokens for caption in captions] == backbone.text_encoder.count_tokens([c.text for c in captions])
    assert captions[1].tokens > 300


def test_a_warning_names_them_and_says_what_to_do(scripted, images, backbone):
    long = " ".join(f"{a} {b} and" for a in ("red", "blue", "a", "an", "of") for b in ("dog", "cat", "car", "tree"))
    long = f"{long} {' '.join(f'{a} on {b}' for a in ('grass', 'photo') for b in ('dog', 'cat', 'car', 'tree'))}"
    captioner, _ = scripted(["", long], ["a cat"])
    assert backbone.text_encoder.count_tokens([long])[0] > backbone.text_encoder.max_length
    with pytest.warns(UserWarning, match="the captioner") as caught:
        captioner(images[:2], text_encoder=backbone.text_encoder)
    assert "a longer caption for image 1 (counted from 0) than the text encoder takes, up to" in str(caught[-1].message)
    assert "truncate=True" in str(caught[-1].message)


def test_without_a_text_encoder_clips_own_tokens_are_counted(scripted, images):
    captioner, _ = scripted(["a cat on grass"])
    assert captioner.describe(images[0]) == [Caption("a cat on grass", tokens=6, fits=True)]
    long = " ".join(f"red{number}" for number in range(60))
    assert [counter.max_length for counter in (captioner.token_counter, clip_counter())] == [77, 77]
    [caption] = counted([Caption(long)], captioner.token_counter)
    assert (caption.tokens, caption.fits) == (2 + 60 + 10 + 2 * 50, False)  # each digit is a token


def test_clips_vocabulary_gives_the_ids_that_clip_was_trained_with():
    """The ids are those printed in the documentation of CLIP and of transformers."""
    tokenizer = clip_counter()._tokenizer
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("a photo of a dog").input_ids == [49406, 320, 1125, 539, 320, 1929, 49407]
    assert clip_counter().count_tokens(["", "A  CAT", "a cat"]) == [2, 4, 4]


def test_the_captioner_of_a_model_counts_as_the_model_does():
    own = Captioner.from_pretrained("tadp-tiny").token_counter
    encoder = TADPBackbone.from_pretrained("tadp-tiny").text_encoder
    texts = ["", "a dog on grass", "an extraordinary zeppelin", "x" * 200]
    assert encoder is not None
    assert own.count_tokens(texts) == encoder.count_tokens(texts)
    assert own.count_tokens(texts) != clip_counter().count_tokens(texts)


def test_an_empty_caption_counts_its_start_and_end(scripted, images, backbone):
    captioner, _ = scripted([""], [""])
    [caption] = captioner.describe(images[0], text_encoder=backbone.text_encoder)
    assert (caption.tokens, caption.fits, caption.problem) == (2, True, "empty")


# The bundled checkpoint


@pytest.fixture(scope="module")
def tiny_captioner() -> Captioner:
    return Captioner.from_pretrained("tadp-tiny")


def test_it_names_the_objects_of_scenes_it_has_not_seen(tiny_captioner):
    scenes = list(Scenes(40, seed=1, style=None))
    captions = tiny_captioner([scene.image for scene in scenes])
    named = [set(caption.replace(",", "").split()) & set(CLASSES) for caption in captions]
    there = [set(scene.names) for scene in scenes]
    right = sum(len(a & b) for a, b in zip(named, there, strict=True))
    assert right / sum(map(len, named)) >= 0.85  # precision
    assert right / sum(map(len, there)) >= 0.80  # recall


def test_longer_captions_say_more_of_the_same_objects(tiny_captioner):
    scenes = list(Scenes(10, seed=1))
    longer = Captioner.from_pretrained("tadp-tiny", min_new_tokens=20)([scene.image for scene in scenes])
    for short, long in zip(tiny_captioner([scene.image for scene in scenes]), longer, strict=True):
        assert len(long.split()) > len(short.split()) or len(short.split()) > 18
        assert long.startswith(short)


def test_it_is_small():
    sizes = [path.stat().st_size for path in (tiny_folder() / "captioner").iterdir()]
    assert sum(sizes) < 5.2e6


PICTURES = {
    "a file": lambda array, folder: folder / "photo.png",
    "a PIL image": lambda array, folder: Image.fromarray(array),
    "an array": lambda array, folder: array,
    "a tensor": lambda array, folder: torch.from_numpy(array).permute(2, 0, 1).float() / 255,
}
TINY_WARNING = "the captioner 'tadp-tiny' knows only rendered scenes"


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_the_captioner_of_tadp_tiny_warns_once_about_pictures_that_are_not_scenes(picture, images, folders, tmp_path):
    quality._warn_about_tiny.cache_clear()
    captioner, scene = (
        Captioner.from_pretrained("tadp-tiny", max_new_tokens=2),
        Scenes(1, seed=3, style="night")[0].image,
    )
    Image.fromarray(scene).save(tmp_path / "photo.png")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", TINY_WARNING)
        captioner(picture(scene, tmp_path))
        images[1].save(tmp_path / "photo.png")
        plain(folders["blip"])(images)  # another captioner
        with pytest.raises(UserWarning, match=TINY_WARNING):
            captioner([scene, picture(np.array(images[1]), tmp_path)])
    with pytest.warns(UserWarning, match=f"{TINY_WARNING}.*such as 'blip2'"):
        captioner.describe(picture(np.array(images[1]), tmp_path))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", TINY_WARNING)
        captioner(images)


def test_predicting_a_photograph_warns_about_the_captioner_of_tadp_tiny(images, tmp_path):
    backbone = TADPBackbone.from_pretrained("tadp-tiny").attach_captioner("tadp-tiny")
    model = TADPForSemanticSegmentation(backbone, class_names=["background", "dog"], window_px=64)
    images[1].save(tmp_path / "photo.png")
    quality._warn_about_tiny.cache_clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", TINY_WARNING)
        model.predict(Scenes(1, seed=3)[0].image)
    with pytest.warns(UserWarning, match=TINY_WARNING):
        model.predict(tmp_path / "photo.png")


def test_an_image_that_the_processor_refuses_is_an_error_of_the_image(tmp_path):
    captioner = Captioner.from_pretrained(build_qwen2_vl(tmp_path), max_new_tokens=4)
    with pytest.raises(ImageError, match=r"cannot take the image: .*aspect ratio.*Change the image's shape"):
        captioner(Image.new("RGB", (8, 2000)))
