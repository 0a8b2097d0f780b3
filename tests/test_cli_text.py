"""`tadp prompt` and `tadp clean`."""

import json
import os
import signal
import subprocess
import sys
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


def test_the_oracle_says_what_precision_and_recall_it_came_to(workplace):
    classes = ",".join(f"class {number}" for number in range(23))
    arguments = ("prompt", "oracle", "--classes", classes, "--present", classes)
    assert "realised: recall 0.261, asked 0.25; precision 1.000, asked 1" in plain(
        tadp_run(*arguments, "--recall", 0.25).output
    )
    one = ("prompt", "oracle", "--classes", "dog", "--present", "dog")
    said = plain(tadp_run(*one, "--precision", 0.5, "--recall", 0.5).output)
    assert "(empty prompt)" in said
    assert "realised: recall 0.000, asked 0.5; precision undefined, nothing is named, asked 0.5" in said
    assert "Names are whole" in said
    assert "Names are whole" not in plain(tadp_run(*one).output)


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


def scene_files(*names: str, seed: int = 5) -> None:
    for name, scene in zip(names, Scenes(len(names), seed=seed, size=64), strict=True):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(name)


def said_by_tadp(path: str) -> str:
    return tadp.Captioner.from_pretrained("tadp-tiny", max_new_tokens=6)(path)[0]


def caption_into(table: str, *paths: str, code: int = 0):
    return tadp_run("caption", *paths, "--max-new-tokens", 6, "-o", table, code=code)


def test_an_image_never_has_the_caption_of_another_of_its_name(workplace):
    scene_files("a/img.png", "b/img.png")
    caption_into("c.db", "a")
    result = caption_into("c.db", "b", code=1)
    assert "the table has a caption 'img' already, of a/img.png, and b/img.png is another file" in result.stderr
    assert dict(tadp.CaptionTable.open("c.db")) == {"img": said_by_tadp("a/img.png")}
    assert "would both have the id 'img'" in caption_into("d.db", "a", "b", code=1).stderr
    caption_into("d.db", ".")
    assert list(tadp.CaptionTable.open("d.db")) == ["a/img", "b/img", "scene"]


def test_a_tables_ids_stay_when_images_come_to_the_folder(workplace):
    scene_files("photos/sub/foo.png", "photos/z.png")
    caption_into("c.db", "photos")
    scene_files("photos/x/foo.png", seed=6)
    assert "2 done before" in caption_into("c.db", "photos").output
    table = tadp.CaptionTable.open("c.db")
    assert list(table) == ["sub/foo", "x/foo", "z"]
    assert all(said_by_tadp(f"photos/{name}.png") == caption for name, caption in table.items())
    assert table.record("x/foo").fields == {"source": "photos/x/foo.png"}


def test_a_table_and_its_images_may_move_together(workplace):
    scene_files("old/photos/foo.png")
    caption_into("old/c.db", "old/photos")
    Path("old").rename("new")
    assert "1 done before" in caption_into("new/c.db", "new/photos").output


def test_a_table_of_an_earlier_version_goes_on(workplace):
    from tadp.captions import Provenance

    scene_files("photos/foo.png", "photos/z.png")
    captioner = tadp.Captioner.from_pretrained("tadp-tiny", max_new_tokens=6)
    with tadp.CaptionTable.create("c.db", provenance=Provenance.of(captioner)) as table:
        table.add("foo", "a dog")
    assert "1 done before" in caption_into("c.db", "photos").output
    assert tadp.CaptionTable.open("c.db")["foo"] == "a dog"


def test_captions_in_another_precision_are_of_another_origin(workplace):
    caption_into("c.db", "scene.png")
    result = tadp_run("caption", "scene.png", "--max-new-tokens", 6, "-o", "c.db", "--dtype", "bfloat16", code=1)
    assert "dtype was 'float32' and is 'bfloat16'" in result.stderr
    assert "1 done before" in caption_into("c.db", "scene.png").output


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_killed_run_into_json_loses_nothing(workplace, how):
    scene_files(*(f"photos/{name}.png" for name in "abc"))
    script = (
        "import os, signal\nfrom tadp.captioner import Captioner\nfrom tadp.cli import app\n"
        "real, calls = Captioner.describe, []\n"
        "def describe(self, images, **options):\n    calls.append(images)\n"
        f"    if len(calls) == 3: os.kill(os.getpid(), signal.{how})\n    return real(self, images, **options)\n"
        "Captioner.describe = describe\n"
        "app(['caption', 'photos', '--batch-size', '1', '--max-new-tokens', '6', '-o', 'c.json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -getattr(signal, how), done.stderr
    refused = tadp_run("caption", "photos", "-o", "c.json", code=1)
    assert "c.json.part.db was left by a run that was killed" in refused.stderr
    assert "--overwrite drops it" in refused.stderr
    assert "2 done before" in caption_into("c.json", "photos").output
    expected = {name: {"captions": [said_by_tadp(f"photos/{name}.png")]} for name in "abc"}
    assert json.loads(Path("c.json").read_text()) == expected
    assert not Path("c.json.part.db").exists()


def test_captions_too_long_for_the_text_encoder_are_named_with_their_count(workplace):
    long = tadp.Captioner.from_pretrained("tadp-tiny", min_new_tokens=76)("scene.png")[0]
    encoder = tadp.TADPBackbone.from_pretrained("tadp-tiny").text_encoder
    assert encoder is not None
    [count] = encoder.count_tokens([long])
    assert count > 77
    result = tadp_run("caption", "scene.png", "--min-new-tokens", 76)
    assert f"scene.png: the caption has {count} tokens, the text encoder takes 77." in result.stderr
    assert "the text encoder takes" not in tadp_run("caption", "scene.png").stderr
    assert "unknown model 'none'" in tadp_run("caption", "scene.png", "--text-encoder", "none", code=1).stderr


def test_extract_finds_the_captions_of_a_table_and_no_other_images(workplace):
    scene_files("photos/sub/foo.png", "photos/foo.png")
    caption_into("c.db", "photos")
    Path("photos/foo.png").unlink()
    tadp_run("extract", "photos", "-o", "out", "--captions", "c.db")
    assert json.loads(Path("out/sub/foo.json").read_text())["caption"] == said_by_tadp("photos/sub/foo.png")
    scene_files("photos/other/foo.png")
    result = tadp_run("extract", "photos", "-o", "out2", "--captions", "c.db", code=1)
    assert "the table lacks 'other/foo'" in result.stderr


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
