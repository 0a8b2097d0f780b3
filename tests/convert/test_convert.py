"""Learned tokens in files of other programs."""

import os
import pickle

import pytest
import torch
from builders import WIDTH, build_backbone
from safetensors.torch import save_file

from tadp import CaptionModifier
from tadp.convert import read_token
from tadp.errors import CorruptFileError, MissingFileError, ModifierError


def vectors(count: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0))


def a1111(count: int, **more: object) -> dict[str, object]:
    """The content of a file that AUTOMATIC1111 saves."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vectors(count).requires_grad_()},
        "name": "toy-style",
        "step": 3000,
        "sd_checkpoint": "abc",
        "sd_checkpoint_name": "v1-5",
    } | more


@pytest.mark.parametrize(
    ("name", "content", "token", "count"),
    [
        ("learned_embeds.bin", {"<toy>": vectors(1)[0]}, "<toy>", 1),  # diffusers, and the released code's
        ("learned_embeds.bin", {"<toy>": vectors(3)}, "<toy>", 3),
        ("toy.pt", a1111(2), "toy-style", 2),
        ("embeddings.pt", a1111(2, string_to_param=torch.nn.ParameterDict({"*": vectors(2)})), "toy-style", 2),
        ("learned_embeds.bin", {"<toy>": vectors(2).half()}, "<toy>", 2),
    ],
)
def test_tokens_are_read_and_can_be_installed(tmp_path, name, content, token, count):
    torch.save(content, tmp_path / name)
    name_read, read = read_token(tmp_path / name)
    assert name_read == token
    torch.testing.assert_close(read.float(), vectors(count), rtol=1e-3, atol=1e-3)
    assert not read.requires_grad
    assert read_token(tmp_path / name, token="<car>").token == "<car>"
    backbone = build_backbone()
    with CaptionModifier("<car> {caption}", token="<car>", embedding=read).install(backbone):
        assert backbone.encode_text("<car>").words[0][0].text == "<car>"


def test_files_of_before_torch_1_6_are_read(tmp_path):
    torch.save(a1111(2), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read_token(tmp_path / "old.pt").vectors, vectors(2))


def test_a_file_that_does_not_name_its_token_needs_one(tmp_path):
    unnamed = a1111(2)
    del unnamed["name"]
    torch.save(unnamed, tmp_path / "old.pt")
    torch.save(vectors(2), tmp_path / "bare.bin")
    for name in ("old.pt", "bare.bin"):
        with pytest.raises(ModifierError, match=rf"{name} does not name its token; pass token='<name>'"):
            read_token(tmp_path / name)
        assert torch.equal(read_token(tmp_path / name, token="<toy>").vectors, vectors(2))


def test_safetensors_are_read_too(tmp_path):
    save_file({"<toy>": vectors(2)}, tmp_path / "toy.safetensors")
    token, read = read_token(tmp_path / "toy.safetensors")
    assert token == "<toy>"
    assert torch.equal(read, vectors(2))


class Evil:
    """Creates a folder if its pickle is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_run(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"<toy>": Evil(trace)}, tmp_path / "evil.bin")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(trace), protocol=2))
    for name in ("evil.bin", "plain.pt"):
        with pytest.raises(
            CorruptFileError,
            match=rf"{name} holds more than tensors .*: it refers to (posix|nt)\.mkdir; nothing in it was run",
        ):
            read_token(tmp_path / name)
    assert not trace.exists()


def test_files_that_are_no_token_are_refused(tmp_path):
    with pytest.raises(MissingFileError, match=r"no such file: .*toy\.bin; pass"):
        read_token(tmp_path / "toy.bin")
    for content in (b"", b"\x00\x01\x02", b"PK\x03\x04broken"):
        (tmp_path / "broken.bin").write_bytes(content)
        with pytest.raises(CorruptFileError, match=r"broken\.bin is damaged"):
            read_token(tmp_path / "broken.bin")
    for content, message in (
        ({"clip_h": vectors(1), "clip_g": vectors(1)}, r"contains 2: clip_g, clip_h"),
        ({"<toy>": "no"}, r"holds 0 tensors"),
        (["<toy>"], r"holds a list, not a learned token"),
        ({"<toy>": torch.zeros(1, 2, 3)}, r"shape \(1, 2, 3\)"),
        ({"<toy>": torch.zeros(2, dtype=torch.int64)}, r"got torch\.int64"),
    ):
        torch.save(content, tmp_path / "odd.bin")
        with pytest.raises(ModifierError, match=message):
            read_token(tmp_path / "odd.bin")
