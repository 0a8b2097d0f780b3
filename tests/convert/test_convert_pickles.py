"""The checks before a pickle is read, and the files that are refused; nothing in a file is run."""

import os
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tadp.convert import convert_file
from tadp.convert.pickles import read_pickle, tensors_in
from tadp.errors import CorruptFileError, MissingFileError


class Evil:
    """Creates a folder if its pickle is run."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Setting:
    """A harmless object that is more than a plain value."""


def rewrite(path: Path, target: Path, *, compression: int = zipfile.ZIP_STORED, **replaced: bytes) -> Path:
    """Copy a zip and replace the content of some files, given without folder and with "_" in place of "."."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for member in old.infolist():
            name = member.filename.partition("/")[2].replace(".", "_")
            new.writestr(member.filename, replaced.get(name, old.read(member)))
    return target


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_and_plain_values_are_read(zipped, tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    content = {
        "state_dict": OrderedDict(weight=shared, again=shared, half=torch.ones(2).half(), rows=shared[1]),
        "parameter": torch.nn.Parameter(torch.ones(1)),
        "count": torch.tensor(3),
        "size": shared.shape,
        "plain": [1, 2.5, "text", None, True, (1, 2), Counter("aa"), torch.float16],
    }
    torch.save(content, tmp_path / "file.pt", _use_new_zipfile_serialization=zipped)
    restored = read_pickle(tmp_path / "file.pt")
    assert restored.keys() == content.keys()
    assert restored["plain"] == content["plain"]
    for key, tensor in content["state_dict"].items():
        assert torch.equal(restored["state_dict"][key], tensor)
    assert restored["state_dict"]["weight"].data_ptr() == restored["state_dict"]["again"].data_ptr()


@pytest.mark.parametrize("value", [np.float64(0.53), np.float32(0.5), np.int64(-3), np.bool_(True)])
@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_of_numpy_are_read_as_numbers(value, zipped, tmp_path):
    """mmcv saves such numbers: {"meta": {"hook_msgs": {"best_score": …}}}."""
    torch.save({"best_score": value}, tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    score = read_pickle(tmp_path / "file.pth")["best_score"]
    assert score == value.item()
    assert type(score) is type(value.item())


def test_arrays_of_numpy_are_more_than_plain_values(tmp_path):
    torch.save({"array": np.zeros(3)}, tmp_path / "file.pth")
    with pytest.raises(
        CorruptFileError, match=r"refers to numpy\._?core\.multiarray\._reconstruct; nothing in it was run"
    ):
        read_pickle(tmp_path / "file.pth")


def test_hostile_pickles_do_not_run(tmp_path):
    trace = tmp_path / "trace"
    evil = Evil(trace)
    torch.save({"model": {"weight": evil}}, tmp_path / "zip.pth")
    torch.save({"model": evil}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    for protocol in range(5):
        (tmp_path / f"plain{protocol}.pth").write_bytes(pickle.dumps(evil, protocol=protocol))
    (tmp_path / "inst.pth").write_bytes(b"(S'" + str(trace).encode() + b"'\nios\nmkdir\n.")
    torch.save({"model": torch.ones(1)}, tmp_path / "good.pth")
    strange = pickle.dumps({"model": evil}, protocol=4)
    rewrite(tmp_path / "good.pth", tmp_path / "swapped.pth", data_pkl=strange)
    # Calls of getattr could do harm with a module as the argument, so the name itself is refused.
    call = b"cbuiltins\ngetattr\n(cbuiltins\n__import__\nS'x'\ntR."
    rewrite(tmp_path / "good.pth", tmp_path / "getattr.pth", data_pkl=call)
    for name in sorted(path.name for path in tmp_path.glob("*.pth") if path.name != "good.pth"):
        for read in (read_pickle, lambda path: convert_file(path, tmp_path / "made", base_model="tadp-tiny")):
            with pytest.raises(CorruptFileError, match=r"refers to .*(mkdir|getattr).*nothing in it was run"):
                read(tmp_path / name)
    assert not trace.exists()
    assert not (tmp_path / "made").exists()
    with pytest.raises(FileNotFoundError):  # pickle's own reader does run it
        pickle.loads(pickle.dumps(Evil(tmp_path / "no" / "where")))


def test_objects_are_refused_by_name(tmp_path):
    torch.save({"model": {}, "setting": Setting()}, tmp_path / "file.pth")
    with pytest.raises(
        CorruptFileError, match=r"refers to .*Setting; nothing in it was run\. If you trust the file, save"
    ):
        read_pickle(tmp_path / "file.pth")


def test_truncated_files_are_damaged(tmp_path):
    for zipped in (True, False):
        torch.save({"w": torch.zeros(1000)}, tmp_path / "whole.pt", _use_new_zipfile_serialization=zipped)
        whole = (tmp_path / "whole.pt").read_bytes()
        for size in (0, 1, 30, len(whole) // 2, len(whole) - 1):
            (tmp_path / "cut.pt").write_bytes(whole[:size])
            with pytest.raises(CorruptFileError, match=r"cut\.pt is damaged"):
                read_pickle(tmp_path / "cut.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(CorruptFileError, match=r"not a complete safetensors file"):
        read_pickle(tmp_path / "cut.safetensors")
    with pytest.raises(MissingFileError, match=r"no such file: .*gone\.pt"):
        read_pickle(tmp_path / "gone.pt")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(CorruptFileError, match=r"text.jpg is not a file of torch.save; nothing in it was run"):
        read_pickle(tmp_path / "text.jpg")


def test_a_zip_that_grows_is_refused_unread(tmp_path):
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "good.pt")
    rewrite(tmp_path / "good.pt", tmp_path / "bomb.pt", compression=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pt").stat().st_size < 10_000
    with pytest.raises(CorruptFileError, match=r"is compressed, \d+ bytes for \d+; torch\.save compresses nothing"):
        read_pickle(tmp_path / "bomb.pt")


def test_members_that_overlap_are_refused(tmp_path):
    """Many names refer to the same bytes."""
    with zipfile.ZipFile(tmp_path / "overlap.pt", "w") as archive:
        archive.writestr("file/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("file/data/0", b"\0" * 1000)
        last = archive.infolist()[-1]
        archive.filelist.extend([last] * 50)
    with pytest.raises(CorruptFileError, match=r"declares \d+ bytes of content in a file of \d+"):
        read_pickle(tmp_path / "overlap.pt")


def test_tensors_larger_than_their_file_are_refused(tmp_path):
    torch.save({"w": torch.zeros(1).expand(10**9)}, tmp_path / "view.pt")
    with pytest.raises(CorruptFileError, match=r"declares a tensor \(1000000000,\), but holds only 4 bytes for it"):
        read_pickle(tmp_path / "view.pt")
    torch.save({"w": torch.zeros(70_000)}, tmp_path / "good.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "good.pt").read_bytes()
    for declared in (2**31 - 1, 10**6):
        forged = content.replace(struct.pack("<i", 70_000), struct.pack("<i", declared))
        assert forged != content
        (tmp_path / "forged.pt").write_bytes(forged)
        with pytest.raises(CorruptFileError, match=rf"declares tensors of {declared} numbers in a file of \d+ bytes"):
            read_pickle(tmp_path / "forged.pt")


def test_other_zips_and_tensors_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(CorruptFileError, match=r"is a zip, but not a file of torch\.save: it has 0 data\.pkl"):
        read_pickle(tmp_path / "other.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02N.")
        archive.writestr("m/constants.pkl", b"\x80\x02).")
    with pytest.raises(CorruptFileError, match=r"is a TorchScript program"):
        read_pickle(tmp_path / "script.pt")
    torch.save({"w": torch.eye(2).to_sparse()}, tmp_path / "sparse.pt")
    with pytest.raises(CorruptFileError, match=r"refers to torch\._utils\._rebuild_sparse_tensor"):
        read_pickle(tmp_path / "sparse.pt")


def test_safetensors_need_no_look(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "file.safetensors")
    assert torch.equal(read_pickle(tmp_path / "file.safetensors")["w"], torch.ones(2))


def frozen(*opcodes: bytes) -> bytes:
    """A pickle of these opcodes."""
    return b"\x80\x02" + b"".join(opcodes) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


NUMBER = b"J" + struct.pack("<i", 2**30)
BOMBS = {
    "bytearray": frozen(b"c__builtin__\nbytearray\n", NUMBER, b"\x85R"),
    "set": frozen(b"c__builtin__\nset\n", b"](K\x01e", b"\x85R"),
    "set of a tuple": frozen(b"c__builtin__\nset\n", b")", b"\x85R"),
    "set of a list that was filled before": frozen(b"c__builtin__\nset\n", b"]q\x05(K\x01e0h\x05", b"\x85R"),
    "empty set": frozen(b"\x8f"),
    "storage": frozen(b"ctorch.storage\nUntypedStorage\n", NUMBER, b"\x85R"),
    "typed storage": frozen(b"ctorch\nFloatStorage\n", NUMBER, b"\x85R"),
    "tensor": frozen(b"ctorch\nTensor\n", NUMBER, b"\x85R"),
    "new tensor": frozen(b"ctorch\nTensor\n", NUMBER, b"\x85\x81"),
    "other codec": frozen(b"c_codecs\nencode\n", text("a"), text("zlib"), b"\x86R"),
    "long text": frozen(b"c_codecs\nencode\n", text("a" * 1000), text("latin1"), b"\x86R"),
    "encode from the memo": frozen(b"c_codecs\nencode\nq\x00h\x00", text("a"), text("idna"), b"\x86R"),
    "what a call returned": frozen(b"ctorch\ndevice\n", text("cpu"), b"\x85R", text("a"), b"\x85R"),
}


@pytest.mark.parametrize("sort", BOMBS)
def test_pickles_make_no_memory(sort, tmp_path):
    torch.save([1], tmp_path / "good.pt")
    path = rewrite(tmp_path / "good.pt", tmp_path / "bomb.pt", data_pkl=BOMBS[sort])
    with pytest.raises(CorruptFileError, match=r"bomb\.pt .*nothing in it was run"):
        read_pickle(path)


def test_numbers_of_numpy_are_still_read(tmp_path):
    torch.save({"epoch": np.float64(2.5), "steps": np.int64(-3)}, tmp_path / "file.pt")
    assert read_pickle(tmp_path / "file.pt") == {"epoch": 2.5, "steps": -3}


def test_content_that_contains_itself_or_is_deep_is_refused(tmp_path):
    loop: list = []
    loop.append({"again": loop})
    torch.save(loop, tmp_path / "loop.pt")
    with pytest.raises(CorruptFileError, match="holds a list or dictionary that contains itself"):
        read_pickle(tmp_path / "loop.pt")
    deep: list = []
    for _ in range(300):
        deep = [deep]
    torch.save(deep, tmp_path / "deep.pt")
    with pytest.raises(CorruptFileError, match="holds more than 100 nested lists"):
        read_pickle(tmp_path / "deep.pt")


def test_content_that_doubles_is_walked_once(tmp_path):
    doubled: list = [torch.ones(1)]
    for _ in range(60):
        doubled = [doubled, doubled]
    torch.save(doubled, tmp_path / "doubled.pt")
    assert len(list(tensors_in(read_pickle(tmp_path / "doubled.pt")))) == 1
