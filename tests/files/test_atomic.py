import contextlib
import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tadp.errors import OutputError
from tadp.files import atomic
from tadp.files.atomic import replace_file, replace_folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with earlier results: two folders and one file."""
    folder = tmp_path / "out"
    for name in ("a/one", "b/two", "c"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"old {name}")
    return folder


def fill(part: Path) -> None:
    (part / "a").mkdir()
    (part / "a" / "new").write_text("new")
    (part / "aa").write_text("new")
    (part / "c").write_text("new")


def test_a_file_appears_whole_and_alone(tmp_path):
    path = tmp_path / "deep" / "result.txt"
    with replace_file(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.txt"]


@pytest.mark.parametrize("error", [ValueError("inner"), KeyboardInterrupt()])
def test_an_interrupted_file_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(type(error)), replace_file(path) as part:  # noqa: PT012
        part.write_text("half")
        raise error
    assert tree(tmp_path) == {"result.txt": b"old"}


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(OutputError, match=r"cannot write .*result\.txt: .*No space left"), replace_file(path) as part:  # noqa: PT012
        part.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert tree(tmp_path) == {"result.txt": b"old"}


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe is a pipe or a device"), replace_file(tmp_path / "pipe") as partial:
        partial.write_text("never")
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_pipe_in_a_folder_is_not_replaced_and_the_other_entries_stay(folder):
    os.mkfifo(folder / "d")
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(OutputError, match=r"d is a pipe or a device"), replace_folder(folder) as part:  # noqa: PT012
        fill(part)
        (part / "d").write_text("new")
    assert (folder / "d").is_fifo()
    assert (folder / "c").read_text() == "old c"
    assert {path.name for path in folder.iterdir()} == before


def test_new_entries_replace_those_of_the_same_name(folder):
    with replace_folder(folder) as part:
        assert list(part.iterdir()) == []
        fill(part)
        assert (folder / "c").read_text() == "old c"
    assert tree(folder) == {"a/new": b"new", "aa": b"new", "b/two": b"old b/two", "c": b"new"}
    assert sorted(entry.name for entry in folder.iterdir()) == ["a", "aa", "b", "c"]


@pytest.mark.parametrize("fails_at", [None, 0, 1, 2])
def test_parts_of_an_older_model_are_deleted_and_put_back_after_a_failure(folder, monkeypatch, fails_at):
    before, moves = tree(folder), []
    assert {"a/one", "c"} <= before.keys()
    move = atomic._move

    def fails(name, *places):
        if len(moves) == fails_at:
            raise OSError(errno.EIO, "Input/output error")
        moves.append(name)
        move(name, *places)

    monkeypatch.setattr(atomic, "_move", fails)
    with (
        contextlib.nullcontext() if fails_at is None else pytest.raises(OutputError, match="Input/output error"),
        replace_folder(folder, parts=("a", "b", "d")) as part,
    ):
        (part / "b").write_text("new")
        (part / "c").write_text("new")
    expected = {"b": b"new", "c": b"new", **{name: data for name, data in before.items() if name[0] not in "abc"}}
    assert tree(folder) == (before if fails_at is not None else expected)


def test_a_file_may_replace_a_folder_and_a_folder_a_file(folder):
    with replace_folder(folder) as part:
        (part / "a").write_text("file")
        (part / "c").mkdir()
    assert (folder / "a").read_text() == "file"
    assert (folder / "c").is_dir()


def test_a_link_is_replaced_and_what_it_leads_to_is_kept(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data").write_text("mine")
    (folder / "d").symlink_to(tmp_path / "elsewhere")
    with replace_folder(folder) as part:
        (part / "d").mkdir()
    assert not (folder / "d").is_symlink()
    assert (tmp_path / "elsewhere" / "data").read_text() == "mine"


@pytest.mark.parametrize("error", [ValueError("inner"), KeyboardInterrupt()])
def test_an_interrupted_folder_leaves_the_old_one(folder, error):
    before = tree(folder)
    with pytest.raises(type(error)), replace_folder(folder) as part:  # noqa: PT012
        fill(part)
        raise error
    assert tree(folder) == before
    assert sorted(entry.name for entry in folder.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("fails_at", range(5))
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_failure_between_the_moves_puts_everything_back(folder, monkeypatch, fails_at, error):
    before, calls = tree(folder), []
    replace = os.replace

    def fail(source, target):
        calls.append(target)
        if len(calls) == fails_at + 1:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected), replace_folder(folder) as part:
        fill(part)
    assert tree(folder) == before
    assert sorted(entry.name for entry in folder.iterdir()) == ["a", "b", "c"]


def test_what_cannot_be_put_back_is_not_thrown_away(folder, monkeypatch):
    calls = []
    replace = os.replace

    def fail(source, target):
        calls.append(target)
        if len(calls) > 1:
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError), replace_folder(folder) as part:
        fill(part)
    assert any(content == b"old a/one" for content in tree(folder).values())


def test_a_folder_that_cannot_be_written_is_an_output_error(folder, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*out: .*denied.*Choose a folder that you may"):  # noqa: SIM117
        with replace_folder(folder):
            pass


def test_a_path_that_is_a_file_is_an_output_error(folder):
    for write in (
        replace_folder(folder / "c"),
        replace_folder(folder / "c" / "deeper"),
        replace_file(folder / "c" / "x"),
    ):
        with pytest.raises(OutputError, match=r"cannot write .* A file stands where a folder should be"), write:
            pass
    assert (folder / "c").read_text() == "old c"


def test_a_folder_that_models_could_not_be_read_from_is_refused(tmp_path):
    folder = tmp_path / "caf\udce9"
    with (
        pytest.raises(OutputError, match=r"caf.* is not UTF-8, and .* models cannot open .*Rename it"),
        replace_folder(folder),
    ):
        pytest.fail("the folder is filled")
    assert list(tmp_path.iterdir()) == []


def test_an_output_error_from_within_is_not_wrapped(folder):
    with pytest.raises(OutputError, match=r"^inner$"), replace_folder(folder):
        raise OutputError("inner")


def test_what_is_saved_can_be_read_as_widely_as_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with replace_folder(tmp_path / "model") as part:
        save_file({"a": torch.zeros(1)}, part / "a.safetensors")
    assert (tmp_path / "model" / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
