"""Build what a config describes, when somebody else wrote the config.

Before anything is built, the config's types are compared with the arguments that read them, and its sizes with the
headers of its weight files. While a network is built, its tensors are counted, and a network that outgrows
its weight files is abandoned. Whatever a library raises becomes one `ModelError` that names file, key and value.
"""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch.overrides import TorchFunctionMode

from tadp.errors import MissingExtraError, ModelError, TADPError
from tadp.files.checks import check_regular, is_finite_number
from tadp.files.schema import HINT, check_types, shown

Built = TypeVar("Built")
Attempt = Callable[[Mapping[str, Any]], Any]
Entry = tuple[tuple[str, ...], Any]  # the names that lead to a value in nested objects, and the value
# What a number is follows from the end of its name. Each layer has tensors of its own, and a width is a dimension.
_COUNTS = re.compile(r"(?<!window_)(layers?|blocks?|depths?|layers_per_block)$")
_WIDTHS = re.compile(
    r"(channels?|dims?|hidden_size|intermediate_size|d_model|d_ff|d_kv|heads?|groups|width|experts|embeds?|embd|inner"
    r"|query_tokens|image_size|sample_size|rank)$"
)
_STEPS = re.compile(r"(padding|strides?|kernel|kernel_size|patch_size)$")
_SIDES = re.compile(r"_px$")
_POSITIVE = re.compile(
    r"(scale_factor|scaling_factor|_eps|epsilon|hidden_layers|rope_theta|max_position_embeddings|n_positions"
    r"|(^|\.)(n(um)?_layers?|(hidden|intermediate|vocab|image)_size))$"
)
_COUNTED = re.compile(
    r"(layers|n_layer|blocks|depths?|heads?|channels?|dims?|groups|width|(hidden|image|vocab|patch)_size)$"
)
_LEAST_COUNT, _LEAST_WIDTH, _LARGEST_STEP = 64, 4096, 64  # a small network within these is built in seconds
_LARGEST_SIDE = 2**16  # of an image or a window, in pixels; that of a JPEG is a little less
_LARGEST = 2**53  # above this, floats skip whole numbers
_DEPTH = 16  # levels of nesting; a config of transformers has three or four
_SECONDS = 1.5  # of computing, for finding the entry that is at fault
_ARCHITECTURES = "architectures"  # names the class of the network, as many messages do
_SHOWN_MESSAGE = 140  # characters of a library's message
# Names in a config that choose a kernel. Others than these may be downloaded from the hub, and are code.
_IMPLEMENTATIONS = (None, "eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm")
_QUANTIZED = (None, "bitsandbytes", "gptq", "quanto", "torchao")
_ELSEWHERE = ("configuration_files", "transformers_weights")  # transformers would read other files, unchecked
_FACTORIES = {
    torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.linspace,
    torch.eye,
}  # fmt: skip


class Sizes(NamedTuple):
    """The size of a network, as the headers of its weight files give it.

    Attributes:
        tensors: The number of tensors.
        elements: The number of values in all tensors.
        largest: The largest dimension of any tensor.
    """

    tensors: int
    elements: int
    largest: int

    @classmethod
    def of(cls, files: Iterable[Path]) -> "Sizes":
        """The size of the network in safetensors files. Without files, a size that no known model exceeds."""
        shapes = [shape for path in files for shape in _shapes(path)]
        if not shapes:
            return cls(2**14, 2**38, 2**20)
        return cls(len(shapes), sum(map(math.prod, shapes)), max(max(shape, default=1) for shape in shapes))


def build(
    make: Callable[[Mapping[str, Any]], Built],
    config: Mapping[str, Any],
    path: Path,
    *,
    what: str,
    reader: Callable[..., Any] | None = None,
) -> Built:
    """Build a network without storage from a config.

    Args:
        make: The function that builds it.
        config: The content of the config file.
        path: The config file; the weight files are in the same folder.
        what: Name of what the config describes, for error messages: "a UNet2DConditionModel".
        reader: The function whose annotated arguments are the config's entries; None checks no types.

    Raises:
        ModelError: If an entry has a wrong type, asks for more than the weight files hold, or cannot be used.
        MissingExtraError: If the network needs a package that is not installed.
    """
    sizes = Sizes.of(path.parent.glob("*.safetensors"))
    check_entries(config, path, sizes)
    if reader is not None:
        check_types(config, reader, path)
        for names, number in numbers_in(config, path):
            if number < 0 and isinstance(number, int):
                raise ModelError(f"{path}: {'.'.join(names)} must be 0 or more; got {shown(number)}. {HINT}")

    def attempt(values: Mapping[str, Any]) -> Built:
        with limited(sizes), torch.device("meta"):
            return make(values)

    with explained(path, config, what=what, attempt=attempt):
        return attempt(config)


def limited(sizes: Sizes) -> AbstractContextManager[object]:
    """Return a context in which making many more or larger tensors than the weight files hold raises an error."""
    # Some folders hold only a part of the network, such as a VAE's encoder, and some tensors are in no file.
    return _Budget(tensors=4 * sizes.tensors + 1000, elements=4 * sizes.elements + 2**24)


@contextmanager
def explained(path: Path, config: Mapping[str, Any], *, what: str, attempt: Attempt | None = None) -> Iterator[None]:
    """Turn any error of using a config into a `ModelError` that names the file and, if it can be found, key and value.

    Errors of this kind that already name the file's folder pass unchanged.

    Args:
        path: The config file.
        config: Its content.
        what: Name of what the config describes, for error messages.
        attempt: A function that does what the code inside does, with another config. It is called with changed configs:
            in each, one entry is missing or has another value. If it succeeds, that entry is the one at fault. None
            makes no attempts.

    Raises:
        ModelError: If the code inside raises an error.
        MissingExtraError: If the code inside lacks a package.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(f"{what} in {path.parent} needs a package that is not installed: {error}") from error
    except Exception as error:
        if isinstance(error, ModelError) and (type(error) is not ModelError or str(path.parent) in str(error)):
            raise
        if isinstance(error, _TooLargeError):
            empty = [entry for entry in (*_entries(config), *objects_in(config)) if _is_empty_part(entry)]
            entry = empty[0] if empty else max(_entries(config), key=_magnitude, default=None)
        else:
            entry = _culprit(config, error, attempt)
        kind = "" if isinstance(error, TADPError | _TooLargeError) else f"{type(error).__name__}: "
        why = kind + (str(error).strip() or "no message").splitlines()[0][:_SHOWN_MESSAGE].rstrip(".")
        if entry is not None:
            why = f"{_name(entry)} is {shown(entry[1])} ({why})"
        raise ModelError(f"{path} does not describe {what}: {why}. {HINT}") from error


def with_saved(
    make: Callable[[dict[str, Any]], Built],
    saved: Mapping[str, Any],
    given: Mapping[str, Any],
    path: Path,
    *,
    reader: Callable[..., Any],
) -> Built:
    """Make a backbone from saved options, of which a caller may replace some. Errors in saved options name the file.

    Args:
        make: The function that makes the backbone from all options.
        saved: The options in the file.
        given: The caller's options.
        path: The file, for error messages.
        reader: The function whose annotated arguments are the options.

    Raises:
        ModelError: If the saved options by themselves cannot be used either. Otherwise the caller's error is raised.
    """
    check_types(saved, reader, path, below="options")
    try:
        return make({**saved, **given})
    except (TypeError, ValueError) as error:
        if not isinstance(error, ModelError):
            with explained(path, saved, what="a backbone", attempt=lambda values: make(dict(values))):
                make(dict(saved))
        raise


def check_entries(config: Mapping[str, Any], path: Path, sizes: Sizes) -> None:
    """Refuse a config that asks for more than its weight files hold, or for code, before anything is built.

    Raises:
        ModelError: If a number of layers exceeds the number of tensors, a width exceeds the largest dimension, a number
            is not finite, or the config is nested too deeply or names a kernel that would be downloaded.
    """
    layers, width = max(sizes.tensors, _LEAST_COUNT), max(sizes.largest, _LEAST_WIDTH)
    limits = (
        (_COUNTS, layers, "tensors that the weights can have"),
        (_WIDTHS, width, "that any dimension of the weights can have"),
        (_STEPS, _LARGEST_STEP, "that are allowed"),
        (_SIDES, _LARGEST_SIDE, "pixels that are allowed"),
    )
    for entry in _entries(config):
        key, value = _name(entry), entry[1]
        _check_code(key, value, path)
        for number in _numbers(value, key, path):
            if abs(number) > _LARGEST:
                raise ModelError(f"{path}: {key} must be a number of usual size; got {shown(value)}. {HINT}")
            if (number <= 0 and _POSITIVE.search(key)) or (number < 0 and _COUNTED.search(key)):
                least = "above 0" if _POSITIVE.search(key) else "0 or more"
                raise ModelError(f"{path}: {key} must be {least}; got {shown(value)}. {HINT}")
            for pattern, most, what in limits:
                if number > most and pattern.search(key):
                    raise ModelError(f"{path}: {key} is {shown(value)}, more than the {most} {what}. {HINT}")


def numbers_in(config: Mapping[str, Any], path: Path) -> Iterator[tuple[tuple[str, ...], int | float]]:
    """All numbers in a config, each with the names that lead to it.

    Raises:
        ModelError: If a number is not finite, or the config is nested too deeply.
    """
    for names, value in _entries(config):
        for number in _numbers(value, ".".join(names), path):
            yield names, number


def misfit(config: Mapping[str, Any], module: torch.nn.Module, files: Iterable[Path]) -> str:
    """Return words about the entry of a config that gives a network sizes which its weights lack, or "".

    Args:
        config: The config.
        module: The network that it describes.
        files: The weight files, which do not fit the network.
    """
    sizes = {size for path in files for shape in _shapes(path) for size in shape}
    lacking = {size for tensor in module.state_dict().values() for size in tensor.shape} - sizes
    for entry in _entries(config):
        is_size = not re.search(r"(_id|_index)$", entry[0][-1])
        if is_size and any(type(number) is int and number in lacking for number in _listed(entry[1])):
            return f"{_name(entry)} is {shown(entry[1])}, a size that no weight has. "
    unset = [entry for entry in _entries(config) if entry[1] is None and _COUNTED.search(entry[0][-1])]
    return f"{_name(unset[0])} is None, and the default does not fit the weights. " if len(unset) == 1 else ""


class _TooLargeError(Exception):
    """A network outgrew its weight files while it was built."""


class _Budget(TorchFunctionMode):
    """Counts the tensors that this thread makes, and stops when there are too many."""

    def __init__(self, *, tensors: int, elements: int):
        super().__init__()
        self._tensors, self._elements = tensors, elements

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FACTORIES:
            size = func(*args, **{**(kwargs or {}), "device": "meta"})  # first without memory
            self._tensors -= 1
            self._elements -= size.numel()
            if self._tensors < 0 or self._elements < 0:
                raise _TooLargeError(
                    f"the network would have many more {'tensors' if self._tensors < 0 else 'values'} than its weights"
                )
        return func(*args, **(kwargs or {}))


def _check_code(key: str, value: Any, path: Path) -> None:
    parts = key.removesuffix("_internal").split(".")
    if any(part.endswith(("attn_implementation", "experts_implementation")) for part in parts):
        allowed = _IMPLEMENTATIONS
    elif parts[-2:] == ["quantization_config", "quant_method"]:
        allowed = _QUANTIZED
    elif parts[-1] in _ELSEWHERE:
        raise ModelError(
            f"{path}: {key} names other files, {shown(value)}, which tadp does not read. Remove the entry."
        )
    else:
        return
    if not isinstance(value, str | None) or value not in allowed:
        raise ModelError(
            f"{path}: {key} is {shown(value)}, which may load code from the hub; tadp allows "
            f"{', '.join(filter(None, allowed))}. Remove the entry."
        )


def _shapes(path: Path) -> list[list[int]]:
    """The shapes of a file's tensors; none if it is damaged, which is reported when its weights are read."""
    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            return [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118  safe_open is not a dict
    except (SafetensorError, OSError):
        return []


def _entries(config: Mapping[str, Any], below: tuple[str, ...] = ()) -> Iterator[Entry]:
    """The entries of a config, including those of nested objects."""
    for key, value in config.items():
        if isinstance(value, Mapping) and len(below) < _DEPTH:
            yield from _entries(value, (*below, key))
        else:
            yield (*below, key), value


def objects_in(config: Mapping[str, Any], below: tuple[str, ...] = ()) -> Iterator[Entry]:
    """The nested objects of a config."""
    for key, value in config.items():
        if isinstance(value, Mapping) and len(below) < _DEPTH:
            yield (*below, key), value
            yield from objects_in(value, (*below, key))


def _name(entry: Entry) -> str:
    first, *rest = entry[0]
    return f"{first}: {'.'.join(rest)}" if first.endswith(".json") else ".".join(entry[0])


def _numbers(value: Any, key: str, path: Path, depth: int = 0) -> Iterator[int | float]:
    if depth > _DEPTH or (isinstance(value, Mapping) and not depth):
        raise ModelError(f"{path}: {key[:40]} is nested too deeply; a config has at most {_DEPTH} levels. {HINT}")
    if isinstance(value, list | tuple):
        for element in value:
            yield from _numbers(element, key, path, depth + 1)
    elif _is_number(value):
        if not is_finite_number(value):
            raise ModelError(f"{path}: {key} must be a finite number; got {shown(value)}. {HINT}")
        yield value


def _is_empty_part(entry: Entry) -> bool:
    """Whether an entry is the empty config of a part, which then gets the default, large sizes."""
    return entry[0][-1].endswith("_config") and (entry[1] is None or entry[1] == {})


def _magnitude(entry: Entry) -> float:
    """How suspicious an entry is in a network that became too large."""
    numbers = [number for number in _listed(entry[1]) if _is_number(number)]
    return max(numbers, default=0) * (100 if _COUNTS.search(_name(entry)) else 1)


def _culprit(config: Mapping[str, Any], error: Exception, attempt: Attempt | None) -> Entry | None:
    """The entry that caused an error: one whose removal ends the error, or that the message names; None if unknown."""
    message = str(error)
    suspects = [entry for entry in (*_entries(config), *objects_in(config)) if entry[0][-1] != _ARCHITECTURES]
    suspects.sort(key=lambda entry: _innocence(entry, message))
    changes = [(entry, _changed(config, entry[0])) for entry in suspects]
    # A default may not fit the other entries; 1 mostly does.
    changes += [
        (entry, _changed(config, entry[0], 1)) for entry in suspects if entry[1] is None or _is_number(entry[1])
    ]
    deadline = time.thread_time() + _SECONDS
    for entry, changed in changes:
        if attempt is None:
            break
        try:
            attempt(changed)
        except Exception:
            if time.thread_time() > deadline:
                break
        else:
            return entry
    named = [entry for entry in suspects if _innocence(entry, message)[0] < 2]
    empty = [
        entry
        for entry in suspects
        if entry[1] in ([], 0) and not isinstance(entry[1], bool | float) and not entry[0][-1].endswith("_id")
    ]
    return named[0] if named else empty[0] if len(empty) == 1 else None


def _innocence(entry: Entry, message: str) -> tuple[int, int]:
    """How unlikely it is that an entry caused an error: first 0 if the message names it, 1 if it has its value."""
    name, value = entry[0][-1], entry[1]
    if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message):
        mentioned = 0
    else:
        shown_values = [str(part) for part in _listed(value) if part and not isinstance(part, bool | Mapping)]
        mentioned = 1 if any(len(text) > 1 and text in message for text in shown_values) else 2
    if isinstance(value, Mapping):
        return mentioned, 4
    if _is_number(value) and value <= 0 and isinstance(value, int):
        return mentioned, 0
    is_odd = isinstance(value, str) or (_is_number(value) and value < 0)
    return mentioned, 1 if is_odd else 2 if value is None or value == 0 else 3


def _changed(config: Mapping[str, Any], names: tuple[str, ...], value: Any = None) -> dict[str, Any]:
    """A config with another value of one entry, or without it if the value is None."""
    first, *rest = names
    if rest:
        return {**config, first: _changed(config[first], tuple(rest), value)}
    kept = {key: value for key, value in config.items() if key != first}
    return kept if value is None else kept | {first: value}


def _listed(value: Any) -> list[Any] | tuple[Any, ...]:
    return value if isinstance(value, list | tuple) else [value]


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
