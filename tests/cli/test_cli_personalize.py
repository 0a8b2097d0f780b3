"""`tadp personalize token` and `dreambooth`, as a user runs them."""

import json
from dataclasses import fields
from typing import Any

import pytest
import typer
from builders_personalize import build_model, pictures
from PIL import Image
from running import plain
from typer.testing import CliRunner

import tadp
from tadp.cli import app
from tadp.personalize import RunOptions
from tadp.personalize.run_options import DREAMBOOTH_DEFAULTS, TOKEN_DEFAULTS

QUICK = ("--steps", "2", "--batch-size", "1", "--checkpoint-every", "1", "--sample-every", "0")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("cli") / "sd")


@pytest.fixture
def folder(tmp_path):
    """A folder with three images."""
    path = tmp_path / "images"
    path.mkdir()
    for number, pixels in enumerate(pictures()):
        Image.fromarray(pixels).save(path / f"{number}.png")
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["personalize", *(str(argument) for argument in arguments)])


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
    assert "or --no-resume to start again" in other.output
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
    assert [concept["texts"] for concept in record["concepts"]] == [["an image in sks style"], ["a photo"]]
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
        (("--side-px", "7"), 2, "greater than or equal to 8"),
        (("--lr", "0"), 2, "lr must be above 0; got 0.0"),
        (("-m", "nowhere"), 1, "unknown model 'nowhere'"),
    ],
)
def test_wrong_usage_is_one_line(folder, source, tmp_path, more, code, message):
    done = learn(folder, source, tmp_path / "out", *more)
    assert done.exit_code == code
    assert message in plain(done.output)
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


def test_what_is_left_out_of_a_folder_is_counted(folder, source, tmp_path):
    for name in ("a.heic", "b.txt", "c.txt"):
        (folder / name).touch()
    done = learn(folder, source, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "left out: 3 files that are not images (.txt 2, .heic 1)" in done.output


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


@pytest.mark.parametrize(("name", "defaults"), [("token", TOKEN_DEFAULTS), ("dreambooth", DREAMBOOTH_DEFAULTS)])
def test_a_command_has_the_options_of_a_run(name, defaults):
    group: Any = typer.main.get_command(app)
    options = {option.name: option for option in group.commands["personalize"].commands[name].params}
    for field in fields(RunOptions):
        if field.name == "progress":  # it is always shown
            assert field.name not in options
            continue
        option = options[field.name]
        flag = "--" + field.name.replace("_", "-").replace("prompts", "prompt")
        assert flag in option.opts
        assert option.help
        assert "None" not in option.help
        if field.name == "dtype":
            assert option.default == "float32"
        else:
            assert option.default == defaults.get(field.name, field.default)
    assert options["micro_batch"].show_default == "all images of a step"
    assert options["flip"].secondary_opts == ["--no-flip"]
    assert not options["adam_8bit"].secondary_opts
    assert "Repeatable" in options["sample_prompts"].help


def test_every_option_of_a_run_arrives(folder, source, tmp_path, monkeypatch):
    """All values that are passed as options reach the library."""
    seen = {}
    monkeypatch.setattr(
        "tadp.personalize.learn_token",
        lambda *_, options, **__: seen.update(vars(options)) or tadp.CaptionModifier(),
    )
    values = {
        "steps": 3, "batch_size": 2, "micro_batch": 1, "lr": 0.5, "weight_decay": 0.25, "seed": 9, "side_px": 32,
        "checkpoint_every": 7, "sample_every": 6, "dtype": "bfloat16", "device": "cpu",
    }  # fmt: skip
    options = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", value)]
    flags = ("--no-flip", "--no-random-crop", "--skip-unreadable", "--no-resume", "--gradient-checkpointing")
    prompts = ("--adam-8bit", "--sample-prompt", "a <x>", "--sample-prompt", "the <x>")
    done = run("token", folder, "--token", "<x>", "--initializer", "photo", "-o", tmp_path, *options, *flags, *prompts)
    assert done.exit_code == 0, done.output
    on = {"skip_unreadable", "gradient_checkpointing", "adam_8bit"}
    off = {"flip", "random_crop", "resume"}
    expected = (
        values
        | dict.fromkeys(on | {"progress"}, True)
        | dict.fromkeys(off, False)
        | {"sample_prompts": ["a <x>", "the <x>"]}
    )
    assert {name: str(value).removeprefix("torch.") for name, value in seen.items()} == {
        name: str(value) for name, value in expected.items()
    }
