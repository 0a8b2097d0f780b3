"""`tadp personalize token` and `dreambooth`, as a user runs them."""

import json

import pytest
from builders_personalize import build_model, pictures
from PIL import Image
from typer.testing import CliRunner

import tadp
from tadp.cli import app

QUICK = ("--steps", "2", "--batch-size", "1", "--checkpoint-every", "1", "--sample-every", "0")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("cli") / "sd")


@pytest.fixture
def folder(tmp_path):
    """Three images."""
    path = tmp_path / "images"
    path.mkdir()
    for number, pixels in enumerate(pictures()):
        Image.fromarray(pixels).save(path / f"{number}.png")
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["personalize", *(str(one) for one in arguments)])


def learn(folder, source, output, *more):
    return run(
        "token", folder, "--token", "<wash>", "--initializer", "photo", "-m", source, "-o", output, *QUICK, *more
    )


def test_token_writes_a_modifier_and_goes_on(folder, source, tmp_path):
    output = tmp_path / "out"
    done = learn(folder, source, output, "--text", "a {token} photo", "--sample-every", "2")
    assert done.exit_code == 0, done.output
    assert "'a <wash> style painting of a dog'" in done.output
    assert tadp.CaptionModifier.from_pretrained(output).tokens == ("<wash>",)
    assert len(list((output / "samples").iterdir())) == 2
    record = json.loads((output / "training.json").read_text())
    assert (record["steps"], record["concepts"][0]["texts"]) == (2, ["a <wash> photo"])
    assert learn(folder, source, output, "--text", "a {token} photo").exit_code == 0
    other = learn(folder, source, output, "--seed", "1")
    assert other.exit_code == 1
    assert "seed was 0 and is 1" in other.output
    assert "or --no-resume to begin anew" in other.output
    assert learn(folder, source, output, "--seed", "1", "--no-resume").exit_code == 0


def test_captions_come_from_a_file(folder, source, tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({str(number): {"captions": [f"a dog {number}"]} for number in range(3)}))
    done = learn(folder, source, tmp_path / "out", "--captions", captions)
    assert done.exit_code == 0, done.output
    texts = json.loads((tmp_path / "out" / "training.json").read_text())["concepts"][0]["texts"]
    assert texts == [[f"a <wash> style painting of a dog {number}"] for number in range(3)]


def test_dreambooth_writes_a_unet_and_a_lora(folder, source, tmp_path):
    output = tmp_path / "out"
    done = run(
        "dreambooth", folder, "-m", source, "-o", output, *QUICK, "--lora-rank", 2, "--draw-prior", 2, "--prior-prompt",
        "a photo", "--instance-prompt", "an image in sks style", "--no-flip",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert tadp.CaptionModifier.from_pretrained(output)("a dog") == ["a sks style painting of a dog"]
    assert (output / "pytorch_lora_weights.safetensors").exists()
    record = json.loads((output / "training.json").read_text())
    assert [one["texts"] for one in record["concepts"]] == [["an image in sks style"], ["a photo"]]
    assert not record["concepts"][0]["flip"]
    assert record["lr"] == 1e-4
    prior = ("--prior", folder, "--prior-prompt", "a photo")
    again = run("dreambooth", folder, "-m", source, "-o", tmp_path / "again", *QUICK, *prior)
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--token", "dog"), 1, "the token 'dog' is already in the vocabulary"),
        (("--token", "two words"), 1, "one word without white space"),
        (("--initializer", "raincoat"), 1, "'raincoat' is 2: 'rain', 'coat</w>'"),
        (("--steps", "0"), 2, "greater than or equal to 1"),
        (("--lr", "0"), 2, "lr is over 0; got 0.0"),
        (("-m", "nowhere"), 1, "unknown model 'nowhere'"),
    ],
)
def test_wrong_usage_is_one_line(folder, source, tmp_path, more, code, message):
    done = learn(folder, source, tmp_path / "out", *more)
    assert done.exit_code == code
    assert message in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_an_unreadable_image_is_named_and_may_be_left_out(folder, source, tmp_path):
    (folder / "1.png").write_bytes(b"no picture")
    done = learn(folder, source, tmp_path / "out")
    assert done.exit_code == 1
    assert "1 of 3 images cannot be used" in done.output
    assert "1.png" in done.output
    done = learn(folder, source, tmp_path / "out", "--skip-unreadable")
    assert done.exit_code == 0, done.output
    assert "1.png" in done.output


def test_an_assumed_schedule_is_said(folder, model, tmp_path):
    done = learn(folder, model, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "Stable Diffusion 1.x's noise is assumed" in done.output


def test_an_empty_folder_and_two_priors_are_refused(folder, source, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no image" in learn(tmp_path / "empty", source, tmp_path / "out").output
    done = run("dreambooth", folder, "-m", source, "-o", tmp_path / "out", "--prior", folder, "--draw-prior", "2")
    assert done.exit_code == 2
    assert "not both" in done.output
