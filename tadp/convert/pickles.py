"""Read pickles of tensors after a check, so that no code in them runs and no tensor is larger than the file."""

import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tadp.errors import CorruptFileError, MissingFileError
from tadp.files.checks import refuse_pointer
from tadp.files.hub import check_readable

_LARGEST_PICKLE = 2**28  # bytes without the tensors' data; an optimiser's pickle has a few million
# Pickles in files of torch before 1.6: magic number, protocol, machine, content, keys of storages; then raw numbers.
_LEGACY_PICKLES = 5
# Names of tensors and plain values, which `weights_only=True` builds. torch then checks its own list too.
_HARMLESS = re.compile(
    r"collections\.(OrderedDict|Counter)"
    r"|torch\.(\w+Storage|Size|device|Tensor|float\w+|bfloat16|double|half|u?int\w+|long|short|bool|complex\w+)"
    r"|torch\.storage\.(Typed|Untyped)Storage|torch\.nn\.parameter\.Parameter"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter|parameter_with_state)"
    r"|torch\.serialization\._get_layout|_codecs\.encode|(builtins|__builtin__)\.(set|bytearray|complex)"
)
_NUMPY = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_PARAMETER_DICT = "torch.nn.modules.container.ParameterDict"
# Opcodes that call a function, and that torch.save never writes.
_STRANGE = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}
_INTEGERS = {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"}
_HINT = "If you trust the file, save only its tensors (torch.save(model.state_dict(), …)); or get another file."


def read_pickle(path: Path) -> Any:
    """Read tensors and plain values from a file that was written by `torch.save`, or from a safetensors file.

    Before torch reads a pickle, the sizes that it declares are compared with the file's size, and the functions and
    classes that it refers to are compared with a list of harmless ones. Nothing in the pickle is run for this. NumPy's
    numbers, which mmcv saves with its tensors, are read without NumPy. Tensors in a zip file are only loaded when they
    are used.

    Args:
        path: Path of the file. With any suffix other than .safetensors, the file is read as a pickle.

    Raises:
        MissingFileError: If there is no such file.
        CorruptFileError: If the file is truncated or damaged, declares more data than it contains, or refers to
            anything but tensors and plain values. The message names what it refers to.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "toy.pt"
        >>> torch.save({"state_dict": {"weight": torch.ones(2)}, "epoch": 3}, path)
        >>> read_pickle(path)
        {'state_dict': {'weight': tensor([1., 1.])}, 'epoch': 3}
    """
    if path.is_dir():
        raise MissingFileError(f"{path} is a folder, but a file is needed. from_pretrained reads folders.")
    if not path.is_file():
        raise MissingFileError(f"no such file: {path}. Check its spelling and the working folder.")
    if path.suffix == ".safetensors":
        check_readable(path)
        return load_file(path)
    refuse_pointer(path, CorruptFileError)
    zipped = zipfile.is_zipfile(path)
    _check_file(path, zipped=zipped)
    try:
        with torch.serialization.safe_globals(_stand_ins()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, LookupError, TypeError, OSError) as error:
        # torch's own message recommends running the code in the file.
        raise CorruptFileError(
            f"{path} is damaged: it looks like a file of torch.save, but torch cannot read it. Get the file again."
        ) from error
    _check_tensors(content, path)
    return content


def tensors_in(content: Any) -> Iterator[Tensor]:
    """Iterate over all tensors in nested dictionaries and lists."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from tensors_in(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from tensors_in(value)


def _check_file(path: Path, *, zipped: bool) -> None:
    size = path.stat().st_size
    try:
        if zipped:
            _check_pickle(BytesIO(_structure(path, size)), path, size, most=1)
        else:
            with path.open("rb") as file:
                _check_pickle(file, path, size, most=_LEGACY_PICKLES)
    except (zipfile.BadZipFile, ValueError, EOFError, OverflowError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, CorruptFileError):
            raise
        raise CorruptFileError(
            f"{path} is damaged, or not a file of torch.save ({error}); nothing in it was run. Get the file again."
        ) from error


def _structure(path: Path, size: int) -> bytes:
    """Return the pickle in a zip, after checking that torch could have written it: uncompressed and not too large."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise CorruptFileError(
                    f"{path}: {member.filename} is compressed, {member.compress_size} bytes for {member.file_size}; "
                    "torch.save compresses nothing. Nothing in it was run."
                )
        declared = sum(member.file_size for member in members)
        if declared > size:
            raise CorruptFileError(
                f"{path} declares {declared} bytes of content in a file of {size}. Nothing in it was run."
            )
        if any(member.filename.endswith("constants.pkl") for member in members):
            raise CorruptFileError(f"{path} is a TorchScript program, not weights; nothing in it was run. {_HINT}")
        pickles = [member for member in members if Path(member.filename).name == "data.pkl"]
        if len(pickles) != 1:
            raise CorruptFileError(f"{path} is a zip, but not a file of torch.save: it has {len(pickles)} data.pkl.")
        if pickles[0].file_size > _LARGEST_PICKLE:
            raise CorruptFileError(
                f"{path}: its pickle has {pickles[0].file_size} bytes without the tensors' data; at most "
                f"{_LARGEST_PICKLE} are allowed."
            )
        return archive.read(pickles[0])


def _check_pickle(stream: BufferedReader | BytesIO, path: Path, size: int, *, most: int) -> None:
    """Refuse names that are not harmless, and storages larger than the file, without running anything."""
    declared: dict[str, int] = {}
    for _ in range(most):
        strings, integer = ["", ""], 0
        for opcode, argument, _ in pickletools.genops(stream):
            if isinstance(argument, str) and opcode.name != "GLOBAL":
                strings = [strings[-1], argument]
            elif opcode.name in _INTEGERS:
                integer = int(argument or 0)
            if opcode.name == "GLOBAL":
                _check_name(str(argument).replace(" ", "."), path)
            elif opcode.name in _STRANGE and not strings[1]:  # a pickle would have given a name before
                raise CorruptFileError(f"{path} is not a file of torch.save; nothing in it was run. Pass a checkpoint.")
            elif opcode.name in _STRANGE:
                raise CorruptFileError(
                    f"{path} refers to {'.'.join(strings)} with {opcode.name}, which torch.save never writes; nothing "
                    f"in it was run. {_HINT}"
                )
            elif opcode.name == "BINPERSID":
                declared[strings[0] + strings[1]] = integer
    if sum(declared.values()) > size:
        raise CorruptFileError(
            f"{path} declares tensors of {sum(declared.values())} numbers in a file of {size} bytes. Nothing in it was "
            "run."
        )


def _check_name(name: str, path: Path) -> None:
    if not _HARMLESS.fullmatch(name) and name not in (*_NUMPY, _PARAMETER_DICT):
        raise CorruptFileError(
            f"{path} holds more than tensors and plain values: it refers to {name}; nothing in it was run. {_HINT}"
        )


def _check_tensors(content: Any, path: Path) -> None:
    for tensor in tensors_in(content):
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise CorruptFileError(f"{path} holds a {tensor.layout} tensor on {tensor.device}; tadp reads dense ones.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CorruptFileError(
                f"{path} declares a tensor {tuple(tensor.shape)}, but holds only {tensor.untyped_storage().nbytes()} "
                "bytes for it."
            )


class _NumpyType:
    """Stands in for numpy.dtype: keeps the type code and does nothing else."""

    def __init__(self, code: str = "", *_: object):
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


def _numpy_number(kind: _NumpyType, data: bytes = b"") -> float | int | None:
    """Stands in for numpy's scalar: returns a plain number, or None if it is not a number."""
    form = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}.get(kind.code)
    return struct.unpack(form, data)[0] if form and len(data) == struct.calcsize(form) else None


def _stand_ins() -> list[Any]:
    dtype, *scalars = _NUMPY
    # The original code keeps its tensors in a ParameterDict, which is a harmless dictionary.
    return [torch.nn.ParameterDict, (_NumpyType, dtype), *((_numpy_number, name) for name in scalars)]
