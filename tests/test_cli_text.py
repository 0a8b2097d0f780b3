"""`tadp prompt` and `tadp clean`."""

import json
from pathlib import Path

import pytest
from PIL import Image
from test_cli import plain, tadp_run

import tadp
from tadp.datasets.scenes import Scenes


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Image.fromarray(Scenes(1, seed=3)[0].image).save("scene.png")
    captions = {"1": {"captions": ["a watercolor painting of a dog"], "class_label": 3}, "2": {"captions": ["a cat"]}}
    Path("captions.json").write_text(json.dumps(captions))
    return tmp_path


def test_each_mode_says_its_words_and_counts_their_tokens(workplace):
    Path("names.txt").write_text("dog\ndining_table\n\n")
    assert "dog dining table" in tadp_run("prompt", "class-names", "--classes", "@names.txt").output
    assert "(empty prompt) 2 of 77" in plain(tadp_run("prompt", "null").output)
    assert "dog car 4 of 77" in plain(
        tadp_run("prompt", "oracle", "--classes", "dog,cat,car", "--present", "car,dog").output
    )
    said = tadp_run("prompt", "averaged-eos", "--classes", "dog, cat").output
    assert said.splitlines() == ["2 embeddings of width 96, one attention channel each:", "dog, cat"]
    pieces = tadp_run("prompt", "class-embeddings", "--classes", "red car,dog").output
    assert pieces.splitlines() == ["3 embeddings of width 96, one attention channel each:", "red, car, dog"]


def test_a_modifier_rewrites_what_is_said(workplace):
    caption = tadp.Captioner.from_pretrained("tadp-tiny")("scene.png")[0]
    said = plain(tadp_run("prompt", "caption", "scene.png", "--modifier", "comic:simple").output)
    assert f"a comic style painting of {caption}" in said
    tadp.CaptionModifier("{caption} in the rain").save_pretrained("rain")
    assert f"{caption} in the rain" in plain(tadp_run("prompt", "caption", "scene.png", "--modifier", "rain").output)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("prompt", "class-names"), 2, "--classes"),
        (("prompt", "oracle", "--classes", "dog"), 2, "--present"),
        (("prompt", "caption"), 2, "need images"),
        (("prompt", "averaged-eos", "--classes", "dog", "--modifier", "comic:simple"), 2, "not said in words"),
        (("prompt", "shout", "--classes", "dog"), 2, "shout"),
        (("prompt", "class-names", "--classes", "@nothing.txt"), 1, "nothing.txt"),
        (("prompt", "null", "--modifier", "moon:simple"), 2, "domains are watercolor, comic, night"),
        (("clean", "nothing.json", "-o", "out.json"), 1, "no such file: nothing.json"),
        (("clean", "captions.json", "-o", "captions.json"), 1, "is there already"),
        (("clean", "captions.json", "-o", "out.txt"), 2, "suffixes"),
        (("clean", "captions.json", "-o", "out.json", "--endpoint", "http://127.0.0.1:9"), 2, "--language-model"),
        (("clean", "broken.json", "-o", "out.json"), 1, "broken.json"),
    ],
)
def test_wrong_use_is_named(workplace, arguments, code, words):
    Path("broken.json").write_text('{"1": {"captions": ["a"]},\n "2": }')
    result = tadp_run(*arguments, code=code)
    assert words in plain(result.stderr)
    assert not Path("out.json").exists()


def test_clean_keeps_every_image_and_field(workplace):
    result = tadp_run("clean", "captions.json", "-o", "out.json")
    cleaned = json.loads(Path("out.json").read_text())
    assert cleaned == {"1": {"captions": ["a dog"], "class_label": 3}, "2": {"captions": ["a cat"]}}
    assert "2 captions, domain 'watercolor': 1 changed, 0 failed" in result.output


def test_an_endpoint_that_is_down_is_one_line_and_loses_nothing(workplace, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    before = Path("captions.json").read_text()
    result = tadp_run(
        "clean",
        "captions.json",
        "-o",
        "out.json",
        "--endpoint",
        "http://127.0.0.1:9/v1",
        "--language-model",
        "x",
        code=1,
    )
    assert "127.0.0.1:9" in result.stderr
    assert "secret-key" not in result.output + result.stderr
    assert Path("captions.json").read_text() == before
