"""Accounting for a file's tensors (each is used, compared or dropped, or the file is refused), and the report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tadp.errors import Argument, ModelError

_SHOWN = 4  # most names that an error lists per kind of problem
_SAME = 1e-3  # relative L2 difference: rounding to half precision is below, another model is above


@dataclass(frozen=True)
class Part:
    """A group of a file's tensors, and what happened to them.

    Attributes:
        name: Name of the group.
        tensors: Number of tensors.
        fate: "converted", or "dropped" with the reason.
    """

    name: str
    tensors: int
    fate: str


@dataclass(frozen=True)
class Report:
    """What became of every tensor of a converted file.

    Attributes:
        kind: Description of the kind of file.
        task: Task of the model: "segmentation", "depth" or "detection".
        parts: The groups of tensors. Every tensor of the file is in one of them.
        options: The backbone's options that were written to the converted model's configuration, because the file
            itself does not contain them.
        notes: Assumptions about settings that the file does not record.
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
    """The tensors of a file by name, with a record of which are not accounted for yet.

    Args:
        state: Tensors of the file.
        path: Path of the file, for error messages.
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
        """Return the tensors of the file for one module, under the module's own names, and count them as used.

        Args:
            name: Name of this group of tensors, for the report.
            names: The name in the file for each name in the module.
            module: The module's `state_dict`. Tensors that the file lacks or has in another shape are left out, and
                `close` raises an error for them.
            optional: Prefixes of names in the module whose tensors the file may lack.
        """
        tensors = self._fitting(names, module, tuple(optional))
        for here, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                self._problem("not finite", names[here])
        self.parts.append(Part(name, len(tensors), "converted"))
        return tensors

    def compare(
        self, name: str, names: Mapping[str, str], module: Mapping[str, Tensor], *, base: str, ignore: bool = False
    ) -> None:
        """Check that a frozen module in the file equals the base's; with `ignore`, only report whether it does."""
        tensors = self._fitting(names, module, ("",)) if any(there in self.state for there in names.values()) else {}
        if not tensors:
            return
        self._missing(names, tensors, module)
        different = [here for here, tensor in tensors.items() if not _same(tensor, module[here])]
        if different and not ignore:
            for here in different:
                self._problem(f"unlike those in {base}", names[here])
        fate = f"dropped: frozen, the same as in {base}"
        if different:
            fate = f"dropped: {len(different)} differ from {base}, whose weights are used"
        self.parts.append(Part(name, len(tensors), fate))

    def drop_copy(self, name: str, prefix: str, original: str) -> None:
        """Drop a second copy of another group, after checking that it is a copy."""
        copies = self._of(lambda key: key.startswith(prefix))
        for key in copies:
            twin = self.state.get(original + key.removeprefix(prefix))
            if twin is None or not _equal(self.state[key], twin):
                self._problem(f"different from its copy in {original}*", key)
        if copies:
            self.parts.append(Part(name, len(copies), f"dropped: an identical copy of {original}*"))

    def drop(self, name: str, chosen: Callable[[str], bool], why: str) -> None:
        """Drop tensors that are known not to be needed."""
        dropped = self._of(chosen)
        if dropped:
            self.parts.append(Part(name, len(dropped), f"dropped: {why}"))

    def has(self, prefix: str) -> bool:
        """Whether the file has a name with this prefix."""
        return any(key.startswith(prefix) for key in self.state)

    def problem(self, what: str, key: str) -> None:
        """Record a reason to refuse the file."""
        self._problem(what, key)

    def close(self, *, allow_unused: Sequence[str] = ()) -> None:
        """Check that every tensor of the file was used, and that no problem was recorded.

        Args:
            allow_unused: Glob patterns of names of tensors that may remain unused.

        Raises:
            ModelError: If a tensor is unknown or missing, or another problem was recorded. The message has the names.
        """
        for pattern in allow_unused:
            self.drop(f"allowed: {pattern}", lambda key, pattern=pattern: fnmatchcase(key, pattern), "as requested")
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
            hints += [" If the model does not need them, pass ", Argument("allow_unused", ["pattern*"]), "."]
        if any(what.startswith("unlike those in") for what in self._problems):
            hints += [" Pass the model it was trained on as ", Argument("base_model", ...), ", or "]
            hints += [Argument("ignore_frozen", True), " to use the base's weights."]
        if any(what.startswith("of another shape") for what in self._problems):
            hints += [" If it has another size than the base, pass ", Argument("base_model", ...), "."]
        return hints

    def _fitting(
        self, names: Mapping[str, str], module: Mapping[str, Tensor], optional: tuple[str, ...]
    ) -> dict[str, Tensor]:
        fitting = {}
        for here, there in names.items():
            if there not in self._left:
                if not here.startswith(optional):
                    self._problem("missing", there)
                continue
            del self._left[there]
            tensor = _as_matrix(self.state[there], module[here].ndim)
            if module[here].is_floating_point() and not tensor.is_floating_point():
                self._problem("not floating point", f"{there} ({tensor.dtype})")
            elif tensor.shape == module[here].shape:
                fitting[here] = tensor
            else:
                shapes = f"{tuple(tensor.shape)} for {tuple(module[here].shape)}"
                self._problem("of another shape", f"{there} ({shapes})")
        return fitting

    def _missing(self, names: Mapping[str, str], fitting: Mapping[str, Tensor], module: Mapping[str, Tensor]) -> None:
        for here, there in names.items():
            if here not in fitting and there not in self.state and module[here].is_floating_point():
                self._problem("missing", there)

    def _of(self, chosen: Callable[[str], bool]) -> list[str]:
        keys = [key for key in self._left if chosen(key)]
        for key in keys:
            del self._left[key]
        return keys

    def _problem(self, what: str, key: str) -> None:
        self._problems.setdefault(what, []).append(key)


def _as_matrix(tensor: Tensor, ndim: int) -> Tensor:
    """Reshape a 1x1 convolution into a matrix where one is expected."""
    return tensor[:, :, 0, 0] if tensor.ndim == 4 and ndim == 2 and tensor.shape[2:] == (1, 1) else tensor


def _same(tensor: Tensor, base: Tensor) -> bool:
    if not base.is_floating_point():
        return torch.equal(tensor, base)
    return bool((tensor.float() - base.float()).norm() <= _SAME * base.float().norm() + 1e-6)


def _equal(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and (left.data_ptr() == right.data_ptr() or torch.equal(left, right))
