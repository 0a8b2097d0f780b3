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
from tadp.files.checks import check_regular, check_utf8
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
    r"|torch\.serialization\._get_layout|_codecs\.encode|(builtins|__builtin__)\.(complex|set)"
)
# Of these names, the ones that are called. A call of the others, such as a storage's class, could take any memory.
_CALLED = re.compile(
    r"collections\.(OrderedDict|Counter)|torch\.(Size|device)|torch\._utils\._rebuild_\w+|_codecs\.encode"
    r"|torch\.serialization\._get_layout|(builtins|__builtin__)\.(complex|set)|numpy\.dtype"
    r"|numpy\._?core\.multiarray\.scalar|torch\.nn\.modules\.container\.ParameterDict"
)
_NUMBER = 32  # bytes of the longest number of numpy
_DEPTH = 100  # levels of nesting; a checkpoint has fewer than ten
_NUMPY = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_PARAMETER_DICT = "torch.nn.modules.container.ParameterDict"
# Opcodes that call a function, and that torch.save never writes.
_NAMING = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}
_STRANGE = _NAMING | {"EMPTY_SET", "ADDITEMS", "FROZENSET", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER"}
_FILLING = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}  # what they fill stays on the stack
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
    check_utf8(path, CorruptFileError)
    check_regular(path)
    if not path.is_file():
        raise MissingFileError(f"no such file: {path}. Check its spelling and the working folder.")
    if path.suffix == ".safetensors":
        check_readable(path)
        return load_file(path)
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
    _check_nesting(content, path)
    _check_tensors(content, path)
    return content


def tensors_in(content: Any) -> Iterator[Tensor]:
    """Iterate over all tensors in nested dictionaries and lists, each container once."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting += reversed(_parts(value))


def _parts(container: Any) -> list[Any]:
    return list(container.values() if isinstance(container, Mapping) else container)


def _check_file(path: Path, *, zipped: bool) -> None:
    size = path.stat().st_size
    try:
        if zipped:
            _check_pickle(BytesIO(_structure(path, size)), path, size, most=1)
        else:
            with path.open("rb") as file:
                _check_pickle(file, path, size, most=_LEGACY_PICKLES)
    # MemoryError: a text that is declared to be longer than the memory
    except (zipfile.BadZipFile, ValueError, EOFError, ArithmeticError, MemoryError, RuntimeError) as error:
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
        machine = _Machine()
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
                name = f" refers to {'.'.join(strings)} with" if opcode.name in _NAMING else " uses"
                raise CorruptFileError(
                    f"{path}{name} {opcode.name}, which torch.save never writes; nothing in it was run. {_HINT}"
                )
            elif opcode.name == "BINPERSID":
                declared[strings[0] + strings[1]] = integer
            call = machine.step(opcode, argument)
            if call is not None:
                _check_call(*call, path)
    if sum(declared.values()) > size:
        raise CorruptFileError(
            f"{path} declares tensors of {sum(declared.values())} numbers in a file of {size} bytes. Nothing in it was "
            "run."
        )


class _Name(str):
    """The name of a function or class in a pickle."""


class _Machine:
    """Follows names, texts and tuples through a pickle, and reports what it would call with what."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: Any, argument: Any) -> tuple[Any, Any] | None:
        """Follow one opcode. Returns the function and its arguments if the opcode calls a function."""
        name, before = opcode.name, opcode.stack_before
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else int(argument)] = (self._stack or [None])[-1]
            return None
        listed: list[Any] = []
        if pickletools.markobject in before:
            while self._stack and (value := self._stack.pop()) is not pickletools.markobject:
                listed.append(value)
            before = before[: before.index(pickletools.markobject)]
        popped = [self._stack.pop() if self._stack else None for _ in before][::-1]  # a damaged file has too few
        if name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo.get(int(argument)))
        elif name == "MARK":
            self._stack.append(pickletools.markobject)
        elif name == "GLOBAL":
            self._stack.append(_Name(str(argument).replace(" ", ".")))
        elif "TUPLE" in name:
            self._stack.append(tuple(popped or listed[::-1]))
        elif name == "DUP":
            self._stack += [popped[0]] * 2
        elif isinstance(argument, str):
            self._stack.append(argument)
        elif name == "EMPTY_LIST":
            self._stack.append([])
        elif name in _FILLING:
            if isinstance(popped[0], list):
                popped[0].append(None)  # no longer empty
            self._stack.append(popped[0])
        else:
            self._stack += [None] * len(opcode.stack_after)
        return (popped[0], popped[1]) if name in ("REDUCE", "NEWOBJ") else None


def _check_call(function: Any, arguments: Any, path: Path) -> None:
    if not isinstance(function, _Name) or not _CALLED.fullmatch(function):
        raise CorruptFileError(
            f"{path} calls {function or 'what another call returned'}, which torch.save never writes; nothing in it "
            f"was run. {_HINT}"
        )
    if function.endswith(".set") and arguments != ([],):  # a ParameterDict keeps an empty one
        raise CorruptFileError(f"{path} holds a set, which no checkpoint needs; nothing in it was run. {_HINT}")
    if function == "_codecs.encode":
        text, coding = arguments if isinstance(arguments, tuple) and len(arguments) == 2 else (None, None)
        if not isinstance(text, str) or len(text) > _NUMBER or coding != "latin1":
            raise CorruptFileError(
                f"{path} calls _codecs.encode with more than the bytes of a number; nothing in it was run. {_HINT}"
            )


def _check_name(name: str, path: Path) -> None:
    if not _HARMLESS.fullmatch(name) and name not in (*_NUMPY, _PARAMETER_DICT):
        raise CorruptFileError(
            f"{path} holds more than tensors and plain values: it refers to {name}; nothing in it was run. {_HINT}"
        )


def _check_nesting(content: Any, path: Path) -> None:
    """Refuse containers that contain themselves or are nested deeply, which no later step could walk."""
    heights: dict[int, int] = {}  # of finished containers; 0 for those that are being walked
    waiting = [content]
    while waiting:
        value = waiting[-1]
        if not isinstance(value, Mapping | list | tuple) or heights.get(id(value)):
            waiting.pop()
        elif id(value) not in heights:
            heights[id(value)] = 0
            waiting += [part for part in _parts(value) if isinstance(part, Mapping | list | tuple)]
        else:
            below = [heights.get(id(part), 0) for part in _parts(value) if isinstance(part, Mapping | list | tuple)]
            heights[id(value)] = 1 + max(below, default=0)
            waiting.pop()
            if 0 in below or heights[id(value)] > _DEPTH:
                what = "a list or dictionary that contains itself" if 0 in below else f"more than {_DEPTH} nested lists"
                raise CorruptFileError(f"{path} holds {what}; a checkpoint has neither. {_HINT}")


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
