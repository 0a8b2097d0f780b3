"""Entries of model cards: what is refused, and what a card makes of them. test_hub.py reads whole cards."""

import os
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tadp.errors import CorruptFileError, ImageError
from tadp.files.hub import Source
from tadp.files.model_card import model_card, saved_record, split_picture, write_card


def card(record=None, source=None):
    return model_card(record or {}, title="T", intro="I.", facts={"fact": "a | b\nc"}, code="pass", source=source)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], "it must be an object"),
        ({"metrics": {"mIoU": "high"}}, "metrics must be numbers by name"),
        ({"licence": "mit"}, "got 'licence'"),
        ({"data": 3}, "data of a model card must be a string"),
    ],
)
def test_a_damaged_record_names_the_file(record, message):
    with pytest.raises(CorruptFileError, match=rf"config\.json: 'record' is not that of a model card: .*{message}"):
        saved_record({"record": record}, Path("model/config.json"))


def test_a_missing_record_is_empty():
    assert saved_record({}, Path("config.json")) == saved_record({"record": None}, Path("config.json")) == {}


@pytest.mark.skipif(os.name != "posix", reason="needs a pipe")
def test_a_picture_is_a_path_or_an_image(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="picture of a model card must be a path or an image of Pillow; got int"):
        split_picture({"picture": 3})
    (tmp_path / "notes.png").write_text("no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "drawing.png", format="EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript is started"))
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("notes.png", "missing.png", "drawing.png", "pipe.png"):
        with pytest.raises(ImageError, match=rf"the picture of a model card, .*{name}, cannot be read"):
            split_picture({"picture": tmp_path / name})
    entries = {"picture": Image.new("RGB", (4, 3)), "data": "d"}
    assert split_picture(entries) == ({"data": "d"}, entries["picture"])
    assert "picture" in entries


def test_a_folder_on_this_machine_is_named_without_its_path(tmp_path):
    for _ in range(2):  # the second time, it exists
        text = str(card(source=Source(str(tmp_path / "private" / "base"))))
        assert "| base model | the folder base |" in text
        assert "private" not in text
        (tmp_path / "private" / "base").mkdir(parents=True, exist_ok=True)
    text = str(card({"base_model": "a/b", "revision": "0a1b"}, Source(str(tmp_path / "private" / "base"))))
    assert "| base model | a/b |\n| revision | 0a1b |" in text


def test_a_licence_of_ones_own_is_a_name_that_the_hub_takes(tmp_path):
    write_card(card({"license": "Our Licence: v1"}), tmp_path, repo_id="a/b")
    text = (tmp_path / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["license"], head["license_name"]) == ("other", "our-licence-v1")
    assert "| fact | a \\| b c |" in text
    assert "license_name" not in str(card({"license": "cc-by-4.0"}))
