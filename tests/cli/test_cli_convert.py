"""`tadp convert`, as a user runs it."""

import json
import shutil

import pytest
import torch
from builders import build_folder, images
from PIL import Image
from release_files import vpd_depth
from typer.testing import CliRunner

from tadp.cli import app
from tadp.tasks import TADPForDepthEstimation


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a base model and a checkpoint of VPD's depth model."""
    root = tmp_path_factory.mktemp("convert")
    vpd_depth(build_folder(root / "base")).save(root / "vpd.pth")
    return root


def test_a_file_is_converted_reported_and_can_predict(folder):
    done = run(
        "convert", folder / "vpd.pth", "-o", folder / "made", "--base-model", folder / "base", "--room", "bedroom"
    )
    assert done.exit_code == 0, done.output
    for words in (
        "depth model of the paper's release or of VPD (depth)",
        "U-Net",
        "converted",
        "scale_latents = False",
    ):
        assert words in done.output
    assert "note: text: the embedding of bedroom" in done.output
    assert TADPForDepthEstimation.from_pretrained(folder / "made").prompt_classes == ("bedroom",)
    photo = folder / "photo.png"
    Image.fromarray((images(1, 64, 80)[0].permute(1, 2, 0) * 255).byte().numpy()).save(photo)
    done = run("predict", "depth", photo, "--model", folder / "made", "-o", folder / "out", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert (folder / "out" / "photo.depth.png").exists()


def test_without_a_room_all_are_kept_and_predict_takes_one(folder):
    done = run("convert", folder / "vpd.pth", "-o", folder / "rooms", "--base-model", folder / "base")
    assert done.exit_code == 0, done.output
    photo = folder / "any.png"
    Image.fromarray((images(1, 64, 80)[0].permute(1, 2, 0) * 255).byte().numpy()).save(photo)
    arguments = ("predict", "depth", photo, "--model", folder / "rooms", "--device", "cpu", "-o")
    for options in (("--caption", "kitchen"), ()):
        done = run(*arguments, folder / f"out{len(options)}", *options)
        assert done.exit_code == 0, done.output
    kitchen, any_room = (json.loads((folder / f"out{n}/any.depth.json").read_text()) for n in (2, 0))
    assert (kitchen["caption"], any_room["caption"]) == ("kitchen", "any_room")
    done = run(*arguments, folder / "none", "--caption", "attic")
    assert done.exit_code == 1
    assert "'attic' is not a class of this model's text" in " ".join(done.output.split())
    done = run(*arguments, folder / "none", "--captioner", "tadp-tiny")
    assert done.exit_code == 2
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--task", "detection"), "is a depth file, not detection"),
        (("--room", "attic"), "room must be one of printer_room"),
        (("--classes", "sky, tree"), "a depth model has no classes"),
    ],
)
def test_what_does_not_fit_is_one_line_and_exit_code_1(options, message, folder, tmp_path):
    done = run("convert", folder / "vpd.pth", "-o", tmp_path / "made", "--base-model", folder / "base", *options)
    assert done.exit_code == 1
    assert done.output.startswith("error: ")
    assert message in done.output
    assert not (tmp_path / "made").exists()


def test_a_damaged_file_leaves_nothing(folder, tmp_path):
    shutil.copy(folder / "vpd.pth", tmp_path / "cut.pth")
    with (tmp_path / "cut.pth").open("r+b") as file:
        file.truncate(5000)
    done = run("convert", tmp_path / "cut.pth", "-o", tmp_path / "made", "--base-model", folder / "base")
    assert done.exit_code == 1
    assert "cut.pth is damaged" in done.output
    torch.save({"optimizer": {}, "state_dict": {"weight": torch.zeros(1)}}, tmp_path / "other.pth")
    done = run("convert", tmp_path / "other.pth", "-o", tmp_path / "made", "--base-model", folder / "base")
    assert done.exit_code == 1
    assert "it has no U-Net under LDM's names" in done.output
    assert not (tmp_path / "made").exists()
