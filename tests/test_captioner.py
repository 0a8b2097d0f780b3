import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builders_captioner import build_blip, build_blip2, build_llava
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPVisionConfig, CLIPVisionModel

from tadp.assets import tiny_folder
from tadp.captioner import Captioner
from tadp.datasets.scenes import CLASSES, Scenes
from tadp.errors import CorruptFileError, ImageError, MissingFileError, ModelError, UnknownModelError

BUILDERS = {"blip": build_blip, "blip2": build_blip2, "llava": build_llava}


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
    """A copy of the BLIP to break."""
    return Path(shutil.copytree(folders["blip"], tmp_path / "broken"))


@pytest.mark.parametrize("kind", BUILDERS)
def test_batches_give_the_captions_of_single_images(folders, images, kind):
    captioner = Captioner.from_pretrained(folders[kind], max_new_tokens=10, batch_size=2)
    captions = captioner(images)
    assert len(captions) == 5
    assert len(set(captions)) > 1
    assert captions == [captioner(image)[0] for image in images]


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("prompt", [None, "a photo of"])
def test_captions_are_what_transformers_generates_without_prompt_and_image_tokens(folders, images, kind, prompt):
    """An oracle that knows, for each model, how many tokens its output repeats."""
    captions = Captioner.from_pretrained(folders[kind], max_new_tokens=8, prompt=prompt)(images[:2])
    processor = AutoProcessor.from_pretrained(folders[kind], backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folders[kind], dtype=torch.float32).eval()
    text = prompt
    if kind == "llava":
        text = f"<image> {prompt or 'Describe this image in one sentence.'} : "
    for image, caption in zip(images, captions, strict=False):
        inputs = processor(images=image, text=text, return_tensors="pt")
        prompt_tokens = 0 if text is None else inputs["input_ids"].shape[1]
        repeated = {"blip": max(prompt_tokens - 1, 1), "blip2": max(prompt_tokens, 5), "llava": prompt_tokens}[kind]
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        words = processor.tokenizer.decode(ids[0, repeated:], skip_special_tokens=True)
        assert caption == " ".join(words.split())
        assert "<image>" not in caption


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_minimum_of_tokens_lengthens_captions(folders, images, kind):
    """The tokenizer is word by word, but special tokens do not show; so count against a maximum below the minimum."""
    short = Captioner.from_pretrained(folders[kind], max_new_tokens=3)(images)
    long = Captioner.from_pretrained(folders[kind], min_new_tokens=30, max_new_tokens=30)(images)
    assert max(len(caption.split()) for caption in short) <= 3
    assert min(len(caption.split()) for caption in long) > 3


def test_every_kind_of_image_gives_the_same_caption(folders, images, tmp_path):
    captioner = Captioner.from_pretrained(folders["blip"], max_new_tokens=8)
    image = images[1]
    image.save(tmp_path / "image.png")
    pixels = np.asarray(image)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    kinds = [image, tmp_path / "image.png", str(tmp_path / "image.png"), pixels, tensor, tensor / 255]
    assert len(set(captioner(kinds))) == 1
    assert captioner(tensor) == captioner(image)


def test_a_batched_tensor_or_array_is_one_image_a_row(folders):
    captioner = Captioner.from_pretrained(folders["blip"], max_new_tokens=8)
    batch = torch.rand(3, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    assert captioner(batch) == captioner(list(batch))
    pixels = (batch * 255).byte().permute(0, 2, 3, 1).numpy()
    assert captioner(pixels) == captioner(list(pixels))


def test_no_images_no_captions(folders):
    assert Captioner.from_pretrained(folders["blip"])([]) == []


def test_provenance(folders):
    captioner = Captioner.from_pretrained(folders["blip"], min_new_tokens=2, max_new_tokens=9, num_beams=2, prompt="a")
    assert captioner.name == str(folders["blip"])
    assert captioner.generation == {"min_new_tokens": 2, "max_new_tokens": 9, "num_beams": 2, "prompt": "a"}
    assert json.dumps(captioner.generation)


def test_beam_search_and_progress_bar(folders, images, capsys):
    captions = Captioner.from_pretrained(folders["blip2"], max_new_tokens=4, num_beams=2)(images[:2], progress=True)
    assert len(captions) == 2
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


def test_no_gradients_and_no_module(folders):
    captioner = Captioner.from_pretrained(folders["blip"])
    assert not isinstance(captioner, torch.nn.Module)
    assert not captioner._model.training


def test_an_empty_caption_is_kept_with_a_warning_that_names_the_image(folders, images, monkeypatch):
    captioner = Captioner.from_pretrained(folders["blip"], max_new_tokens=4)
    generate = captioner._model.generate

    def silent_about_the_second(**inputs):
        ids = generate(**inputs)
        ids[1, 1:] = 3
        return ids

    monkeypatch.setattr(captioner._model, "generate", silent_about_the_second)
    with pytest.warns(UserWarning, match=r"nothing to say about image 1 \(counted from 0\)"):
        assert captioner(images[:2])[1] == ""


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
        ({"max_new_tokens": 97}, "max_new_tokens must be at most 96 for .*blip.*; got 97"),
    ],
)
def test_numbers_out_of_range(folders, numbers, message):
    with pytest.raises(ValueError, match=message):
        Captioner.from_pretrained(folders["blip"], **numbers)


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


def test_a_file_is_not_a_folder(folders):
    with pytest.raises(UnknownModelError, match="is a file; a model is a folder"):
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
    with pytest.raises(CorruptFileError, match=r"model.safetensors is no whole safetensors file"):
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
    with pytest.raises(ModelError, match="could not be loaded"):
        Captioner.from_pretrained(broken)


def test_missing_weights_are_refused(broken):
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lacks .* weights of a BlipForConditionalGeneration"):
        Captioner.from_pretrained(broken)


# The embedded checkpoint


@pytest.fixture(scope="module")
def tiny_captioner() -> Captioner:
    return Captioner.from_pretrained("tadp-tiny")


def test_it_names_the_objects_of_scenes_it_has_not_seen(tiny_captioner):
    scenes = list(Scenes(40, seed=1, style=None))
    captions = tiny_captioner([scene.image for scene in scenes])
    said = [set(caption.replace(",", "").split()) & set(CLASSES) for caption in captions]
    there = [set(scene.names) for scene in scenes]
    right = sum(len(a & b) for a, b in zip(said, there, strict=True))
    assert right / sum(map(len, said)) >= 0.85  # precision
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
