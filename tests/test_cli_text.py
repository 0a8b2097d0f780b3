"""`tadp prompt` and `tadp clean`."""

import json
from pathlib import Path

import pytest
import torch
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
    null = plain(tadp_run("prompt", "null").output)
    assert "(empty prompt) 2 of 77" in null
    assert "(start and end are a token each)" in null
    assert "dog car 4 of 77" in plain(
        tadp_run("prompt", "oracle", "--classes", "dog,cat,car", "--present", "car,dog").output
    )
    said = tadp_run("prompt", "averaged-eos", "--classes", "dog, cat").output
    assert said.splitlines()[1] == "dog, cat"
    assert said.startswith("2 embeddings of width 96, without start and end, one attention channel each:")
    pieces = tadp_run("prompt", "class-embeddings", "--classes", "red car,dog").output
    assert plain(pieces).endswith("each: Name Embeddings Tokens red car 2 red, car dog 1 dog")


def test_a_modifier_rewrites_what_is_said(workplace):
    caption = tadp.Captioner.from_pretrained("tadp-tiny")("scene.png")[0]
    said = plain(tadp_run("prompt", "caption", "scene.png", "--modifier", "comic:simple").output)
    assert f"a comic style painting of {caption}" in said
    tadp.CaptionModifier("{caption} in the rain").save_pretrained("rain")
    assert f"{caption} in the rain" in plain(tadp_run("prompt", "caption", "scene.png", "--modifier", "rain").output)


def test_a_saved_modifier_brings_its_token(workplace):
    vectors = torch.ones(2, 96)
    tadp.CaptionModifier("a <toy> {caption}", token="<toy>", embedding=vectors).save_pretrained("toy")
    Path("names.txt").write_text("dog")
    result = tadp_run("prompt", "oracle", "--classes", "dog", "--present", "dog", "--modifier", "toy")
    assert "a <toy> dog 6 of 77" in plain(result.output)  # start, a, two vectors, dog, end
    assert not result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("show", "scene.png", "-o", "out.png"), ("extract", "scene.png", "-o", "out")],
    ids=["show", "extract"],
)
def test_a_token_that_is_not_there_is_spelled_out_with_a_warning(workplace, arguments):
    result = tadp_run(*arguments, "--caption", "a <lunar> dog")
    assert plain(result.stderr).count("warning: the text encoder has no token '<lunar>'") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("prompt", "null", "--modifier", "watercolor:textual_inversion"), 2, "<watercolor>, which tadp-tiny does not"),
        (("prompt", "null", "--modifier", "watercolor"), 2, "neither DOMAIN:KIND, e.g. watercolor:simple"),
        (("prompt", "zebra"), 2, "Invalid value for 'MODE': 'zebra' is not one of"),
        (("prompt", "oracle", "--classes", "dog", "--present", "dog", "--recall", "2"), 2, "recall is 0 to 1; got 2"),
        (("prompt", "class-names", "--classes", "@none.txt"), 1, "in none.txt: No such file or directory. Pass"),
        (("caption", "scene.png", "-o", "captions.json"), 1, "to resume a run, use a .db"),
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
