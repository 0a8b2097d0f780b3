"""An account of a file's tensors: each is taken, compared or dropped, or the file is refused; and its report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tadp.errors import Argument, ModelError

_SHOWN = 4  # names an error lists of each kind
_SAME = 1e-3  # relative L2: half precision rounds by less, another model differs by more


@dataclass(frozen=True)
class Part:
    """Some of a file's tensors, and where they went.

    Attributes:
        name: What they are.
        tensors: How many.
        fate: "converted", "same as the base", or "dropped" and why.
    """

    name: str
    tensors: int
    fate: str


@dataclass(frozen=True)
class Report:
    """What became of a file.

    Attributes:
        kind: Whose file it is.
        task: "segmentation", "depth" or "detection".
        parts: Every tensor of the file is in one of them.
        options: What was written into the config, of what the released code decides elsewhere.
        notes: What the file does not tell and was assumed.
    """

    kind: str
    task: str
    parts: tuple[Part, ...]
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        width = max(len(part.name) for part in self.parts)
        lines = [f"{self.kind} ({self.task})"]
        lines += [f"  {part.name:<{width}}  {part.tensors:>5}  {part.fate}" for part in self.parts]
        lines += [f"  {name} = {value}" for name, value in self.options.items()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


class Ledger:
    """The tensors of a file by name, of which those that are not yet accounted for are known.

    Args:
        state: The file's tensors.
        path: Of the file, for messages.
    """

    def __init__(self, state: Mapping[str, Tensor], path: Path):
        self.state = dict(state)
        self.parts: list[Part] = []
        self._left = dict.fromkeys(self.state)
        self._path = path
        self._problems: dict[str, list[str]] = {}

    def take(
        self, name: str, names: Mapping[str, str], module: Mapping[str, Tensor], *, optional: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """The tensors for a module, under its own names.

        Args:
            name: What they are, for the report.
            names: The module's names, and the file's.
            module: Its `state_dict`, whose shapes they must have.
            optional: Beginnings of the module's names that the file may lack.
        """
        taken = self._fitting(names, module, tuple(optional))
        for here, tensor in taken.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                self._problem("not finite", names[here])
        self.parts.append(Part(name, len(taken), "converted"))
        return taken

    def compare(
        self, name: str, names: Mapping[str, str], module: Mapping[str, Tensor], *, base: str, ignore: bool = False
    ) -> None:
        """Make sure that a frozen module in the file is the base's; with `ignore`, say only whether it is."""
        found = self._fitting(names, module, ("",)) if any(there in self.state for there in names.values()) else {}
        if not found:
            return
        self._missing(names, found, module)
        other = [here for here, tensor in found.items() if not _same(tensor, module[here])]
        if other and not ignore:
            for here in other:
                self._problem(f"other weights than in {base}", names[here])
        fate = f"dropped: frozen, the same as in {base}"
        if other:
            fate = f"dropped: {len(other)} differ from {base}, whose are used"
        self.parts.append(Part(name, len(found), fate))

    def drop_copy(self, name: str, prefix: str, original: str) -> None:
        """Leave out a second copy of what stands elsewhere, if it is one."""
        copies = self._of(lambda key: key.startswith(prefix))
        for key in copies:
            twin = self.state.get(original + key.removeprefix(prefix))
            if twin is None or not _equal(self.state[key], twin):
                self._problem(f"different from its copy in {original}*", key)
        if copies:
            self.parts.append(Part(name, len(copies), f"dropped: a second copy of {original}*, the same"))

    def drop(self, name: str, chosen: Callable[[str], bool], why: str) -> None:
        """Leave out what is known not to be needed."""
        dropped = self._of(chosen)
        if dropped:
            self.parts.append(Part(name, len(dropped), f"dropped: {why}"))

    def has(self, prefix: str) -> bool:
        """Whether the file has such a name."""
        return any(key.startswith(prefix) for key in self.state)

    def problem(self, what: str, key: str) -> None:
        """Remember a reason to refuse the file."""
        self._problem(what, key)

    def close(self, *, allow_unused: Sequence[str] = ()) -> None:
        """Refuse the file if anything in it is unknown, or missing from it.

        Args:
            allow_unused: Patterns of names that may be left out.

        Raises:
            ModelError: With the names.
        """
        for pattern in allow_unused:
            self.drop(f"allowed: {pattern}", lambda key, pattern=pattern: fnmatchcase(key, pattern), "as asked")
        for key in self._left:
            self._problem("unknown", key)
        if not self._problems:
            return
        lines = [
            f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}{' …' if len(keys) > _SHOWN else ''}"
            for what, keys in self._problems.items()
        ]
        raise ModelError(f"{self._path} cannot be converted. {'. '.join(lines)}.", *self._hints())

    def _hints(self) -> list[str | Argument]:
        hints: list[str | Argument] = []
        if "unknown" in self._problems:
            hints += [" What is not needed can be left out with ", Argument("allow_unused", ["pattern*"]), "."]
        if any(what.startswith("other weights") for what in self._problems):
            hints += [" Pass as ", Argument("base_model", ...), " the model it was trained on, or "]
            hints += [Argument("ignore_frozen", True), " to use the base's."]
        if any(what.startswith("of another shape") for what in self._problems):
            hints += [" Is it of another size than the base? Pass ", Argument("base_model", ...), "."]
        return hints

    def _fitting(
        self, names: Mapping[str, str], module: Mapping[str, Tensor], optional: tuple[str, ...]
    ) -> dict[str, Tensor]:
        found = {}
        for here, there in names.items():
            if there not in self._left:
                if not here.startswith(optional):
                    self._problem("missing", there)
                continue
            del self._left[there]
            tensor = _as_matrix(self.state[there], module[here].ndim)
            if tensor.shape == module[here].shape:
                found[here] = tensor
            else:
                shapes = f"{tuple(tensor.shape)} for {tuple(module[here].shape)}"
                self._problem("of another shape", f"{there} ({shapes})")
        return found

    def _missing(self, names: Mapping[str, str], found: Mapping[str, Tensor], module: Mapping[str, Tensor]) -> None:
        for here, there in names.items():
            if here not in found and there not in self.state and module[here].is_floating_point():
                self._problem("missing", there)

    def _of(self, chosen: Callable[[str], bool]) -> list[str]:
        keys = [key for key in self._left if chosen(key)]
        for key in keys:
            del self._left[key]
        return keys

    def _problem(self, what: str, key: str) -> None:
        self._problems.setdefault(what, []).append(key)


def _as_matrix(tensor: Tensor, ndim: int) -> Tensor:
    """A 1x1 convolution as the matrix it is."""
    return tensor[:, :, 0, 0] if tensor.ndim == 4 and ndim == 2 and tensor.shape[2:] == (1, 1) else tensor


def _same(one: Tensor, other: Tensor) -> bool:
    if not other.is_floating_point():
        return torch.equal(one, other)
    return bool((one.float() - other.float()).norm() <= _SAME * other.float().norm() + 1e-6)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and (one.data_ptr() == other.data_ptr() or torch.equal(one, other))
