"""Pickles that would run something, take all memory, or never end."""

import io
import pickle
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from .cases import Kind, family
from .damage import Payload
from .fixtures import fixture


def called(module: str, name: str, *arguments: str) -> bytes:
    texts = b"".join(b"V" + argument.encode() + b"\n" for argument in arguments)
    return f"c{module}\n{name}\n(".encode() + texts + b"tR."


TOUCH = 'touch "$HOSTILE_CANARY"'
CODE = "import os; open(os.environ['HOSTILE_CANARY'], 'w')"
PICKLES: dict[str, bytes] = {
    "os.system": pickle.dumps(Payload()),
    "posix.system": called("posix", "system", TOUCH),
    "builtins.eval": called("builtins", "eval", "__import__('os').system('" + TOUCH + "')"),
    "builtins.exec": called("builtins", "exec", CODE),
    "builtins.open": called("builtins", "open", "executed", "w"),
    "builtins.getattr": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\nVx\ntR.",
    "builtins.compile": called("builtins", "compile", CODE, "x", "exec"),
    "subprocess.Popen": called("subprocess", "Popen", "true"),
    "runpy.run_path": called("runpy", "run_path", "executed"),
    "importlib.import_module": called("importlib", "import_module", "antigravity"),
    "shutil.rmtree": called("shutil", "rmtree", "executed"),
    "urllib": called("urllib.request", "urlopen", "http://127.0.0.1:1/"),
    "webbrowser": called("webbrowser", "open", "http://127.0.0.1:1/"),
    "torch.load": called("torch", "load", "executed"),
    "torch.hub.load": called("torch.hub", "load", "executed"),
    "torch.jit.load": called("torch.jit", "load", "executed"),
    "numpy.load": called("numpy", "load", "executed"),
    "numpy f2py": called("numpy.f2py", "compile", "executed"),
    "code in a class": b"ctypes\nCodeType\n(tR.",
    "an operator": called("operator", "attrgetter", "system"),
    "functools.partial": b"cfunctools\npartial\n(cos\nsystem\nV" + TOUCH.encode() + b"\ntR(tR.",
    "nested pickle": b"cpickle\nloads\n(" + b"C" + bytes([len(b"cos\ngetcwd\n(tR.")]) + b"cos\ngetcwd\n(tR." + b"tR.",
    "INST": b"(S'" + TOUCH.encode() + b"'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nV" + TOUCH.encode() + b"\no.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "extension code": b"\x80\x02\x82\x01.",
    "persistent id": b"Pexecuted\n.",
    "bytearray of 10 GB": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85R.",
    "bytearray from memo": b"\x80\x02cbuiltins\nbytearray\nq\x00h\x00J\xff\xff\xff\x7f\x85R.",
    "set of sets": b"\x80\x02" + b"cbuiltins\nset\n(]tR" + b"0cbuiltins\nset\n(]tR" * 1000 + b".",
    "_codecs.encode to zip": called("_codecs", "encode", "a" * 1000, "zip"),
    "_codecs.encode to idna": called("_codecs", "encode", "a" * 100_000, "idna"),
    "list in itself": b"\x80\x02]q\x00h\x00a.",
    "dictionary in itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "100,000 lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "doubled 60 times": b"\x80\x02]q\x00" + b"".join(
        b"](h" + bytes([k]) + b"h" + bytes([k]) + b"eq" + bytes([k + 1]) for k in range(60)) + b".",
    "number of 10,000 digits": b"\x80\x02I" + b"9" * 10_000 + b"\n.",
    "text of 4 GB declared": b"\x80\x02X\xff\xff\xff\xffabc.",
    "stack underflow": b"\x80\x020000.",
    "no end": pickle.dumps({"a": 1})[:-1],
    "memo without entry": b"\x80\x02h\x07.",
}  # fmt: skip


def zipped(data: bytes) -> bytes:
    """A file of torch.save whose pickle is `data`."""
    import torch

    good, bad = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {"weight": torch.ones(2)}}, good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, data if member.filename.endswith("data.pkl") else old.read(member))
    return bad.getvalue()


def read_pickled(reader: str, sort: str, folder: Path, rng: Random) -> Any:
    from tadp.convert import convert_file, from_single_file, read_token

    data, path = PICKLES[sort], folder / "file.bin"
    path.write_bytes(zipped(data) if rng.random() < 0.5 else data)
    if reader == "convert_file":
        return convert_file(path, folder / "out", base_model=fixture("sd"))
    return read_token(path) if reader == "read_token" else from_single_file(path, base_model=fixture("single/configs"))


def pickles(reader: str) -> Iterator[Kind]:
    for sort in PICKLES:
        yield Kind(sort, partial(read_pickled, reader, sort), r"file\.bin", seconds=5, megabytes=200)


for reader in ("convert_file", "read_token", "from_single_file"):
    family(f"pickles: {reader}")(partial(pickles, reader))
