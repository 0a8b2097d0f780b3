"""What `tadp evaluate` takes from the record of a run, which may be somebody else's."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from exported import CLASSES, coco_folder

from tadp.cli.own_data import RunOfModel, own_data, run_of
from tadp.cli.task_options import Task
from tadp.datasets.readers.data_options import DataOptions
from tadp.errors import ModelError, OptionError, UnknownOptionError


@pytest.fixture
def record(tmp_path) -> dict:
    """The record of a run on the folder `data`, with captions in its own folder `run`."""
    for name in ("run", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "captions.db").touch()
    (tmp_path / "elsewhere.db").touch()
    reader = {"labels": {"pairs": [[99, 0]]}, "images": str(tmp_path / "data" / "images"), "ids": ["a", "b"]}
    data = {"data": str(tmp_path / "data"), "train": "0", "images": 3, "held_out": ["a"], "reader": reader}
    test = {"predict": {"short_side_px": 40, "flip": True}, "metric": {}}
    return {"task": "segmentation", "choices": {}, "data": data, "measured": "val", "test": test,
            "captions": "captions.db"}  # fmt: skip


def recorded(
    record: dict, folder: Path, *, passed: dict | None = None, has_captions: bool = False
) -> RunOfModel | None:
    (folder / "run" / "run.json").write_text(json.dumps(record))
    return run_of(
        str(folder / "run"),
        str(folder / "data"),
        task=Task.segmentation,
        passed=passed or {},
        has_captions=has_captions,
    )


def test_the_options_and_captions_of_a_run_are_read(record, tmp_path):
    run = recorded(record, tmp_path)
    assert run is not None
    assert run.captions == (tmp_path / "run" / "captions.db").resolve()
    assert run.predict == {"short_side_px": 40, "flip": True}
    assert run.origin["reader"]["labels"] == {99: 0}


@pytest.mark.parametrize("path", ["../elsewhere.db", "{folder}/elsewhere.db", "link.db"])
def test_captions_outside_the_folder_of_the_run_are_read_only_if_they_are_passed(record, tmp_path, path):
    (tmp_path / "run" / "link.db").symlink_to(tmp_path / "elsewhere.db")
    record["captions"] = path.format(folder=tmp_path)
    with pytest.raises(ModelError, match=r"run\.json: captions is '.*, which is outside .*run and so is not read"):
        recorded(record, tmp_path)
    run = recorded(record, tmp_path, has_captions=True)
    assert run is not None
    assert run.captions is None


@pytest.mark.parametrize("name", ["images", "ids"])
def test_a_list_or_folder_outside_the_data_is_read_only_if_it_is_passed(record, tmp_path, name):
    record["data"]["reader"][name] = "/etc/passwd"
    with pytest.raises(ModelError, match=rf"data\.reader\.{name} is '/etc/passwd', which is outside"):
        recorded(record, tmp_path)
    run = recorded(record, tmp_path, passed={name: Path("/etc/passwd")})
    assert run is not None
    assert name not in run.origin["reader"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("test.predict.image", "/etc/passwd", r"test\.predict has the option 'image'; known: window_px, stride_px, sc"),
        ("test.predict.caption", "a dog", r"test\.predict has the option 'caption'; known"),
        ("test.predict.short_side_px", "40", r"test\.predict\.short_side_px must be a whole number or null; got '40'"),
        ("test.predict", [1], r"test\.predict must be an object; got \[1\]"),
        ("test.metric.crop", "eigen", r"test\.metric has the option 'crop'; known: no options"),
        ("test.metric", None, r"test\.metric must be an object; got None"),
        ("captions", 7, r"captions must be a text or null; got 7"),
        ("captions", "a\0b", r"captions must be a path; got 'a\\x00b'"),
        ("data.images", "3", r"data\.images must be a whole number; got '3'"),
        ("data.held_out", [["a"]], r"data\.held_out must be a list of texts; got"),
        ("data.data", 3, r"data\.data must be a text or null; got 3"),
        ("data.reader", [], r"data\.reader must be an object; got"),
        ("data.reader.labels", {"a": 1}, r"data\.reader\.labels must be pairs; got"),
        ("data.reader.images", 3, r"data\.reader\.images must be a path; got 3"),
        ("data.reader.ids", [[1]], r"data\.reader\.ids must be a path; got"),
        ("data.reader.scale", "2", r"data\.reader\.scale must be a number or null; got '2'"),
        ("data.reader.on_error", "skip", r"data\.reader has the option 'on_error'; known: images, masks, class_names"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_an_error_with_file_and_key(record, tmp_path, key, value, message):
    *parents, last = key.split(".")
    entries = record
    for parent in parents:
        entries = entries[parent]
    entries[last] = value
    with pytest.raises(ModelError, match=rf"run\.json: {message}|run\.json lacks 'test'"):
        recorded(record, tmp_path)


def test_options_of_the_run_that_the_reader_of_the_folder_lacks_are_named_and_not_used(
    tmp_path, capsys, no_type_checker
):
    folder = coco_folder(tmp_path / "coco", 4)
    stored = {"palette": {"#000000": "background"}, "mask_suffix": "_mask", "unpaired": "skip"}
    run = RunOfModel({"data": "elsewhere", "reader": stored}, None, {}, {})
    model = SimpleNamespace(class_names=tuple(CLASSES[1:]))

    def measured(**passed: object) -> object:
        options = DataOptions(class_names=CLASSES[1:], **passed)
        return own_data(Task.detection, model, str(folder), run=run, split="all", captions=None, options=options)

    assert len(measured()) == 4
    printed = capsys.readouterr().err
    assert "as CocoDataset does not take them: the run's options palette, mask_suffix\n" in printed
    assert "with these options of the run: unpaired\n" in printed
    with pytest.raises(UnknownOptionError, match=r"resize_labels is not an option of CocoDataset"):
        measured(resize_labels=True)
    stored["unpaired"] = "sometimes"
    with pytest.raises(OptionError, match="unpaired must be one of raise, skip, empty; got 'sometimes'"):
        measured()
