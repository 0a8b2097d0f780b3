"""One file from which a run goes on as if nothing had happened: what trains, the optimiser, and which run it is."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tadp.errors import CorruptFileError, ModifierError
from tadp.files.atomic import replace_file
from tadp.files.hub import check_readable

CHECKPOINT_NAME = "checkpoint.safetensors"
_TRAINED, _OPTIMIZER = "trained.", "optimizer."


class Checkpoints:
    """The checkpoint of one run, replaced in one move each time, so that a kill or a full disk leaves the one before.

    Args:
        folder: Where it is; None keeps none.
        identity: What makes the run this run. A checkpoint of another is refused.
        resume: Go on from what is there; otherwise begin anew.
    """

    def __init__(self, folder: Path | None, *, identity: Mapping[str, Any], resume: bool = True):
        self._path = None if folder is None else folder / CHECKPOINT_NAME
        self._identity = json.loads(json.dumps(dict(identity)))  # as it is when it was read again
        self._resume = resume
        self.saved_step: int | None = None

    def load(self, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
        """Take up the checkpoint, if there is one.

        Returns:
            How many steps were done.

        Raises:
            CorruptFileError: If it is damaged.
            ModifierError: If it is of another run.
        """
        path = self._path
        if path is None:
            return 0
        for part in path.parent.glob(f".{path.name}.*.part"):  # of a run that was killed
            part.unlink(missing_ok=True)
        if not self._resume or not path.exists():
            return 0
        tensors, state = _read(path)
        self._compare(state["identity"], path)
        kept = {key.removeprefix(_TRAINED): one for key, one in tensors.items() if key.startswith(_TRAINED)}
        if {key: one.shape for key, one in kept.items()} != {key: one.shape for key, one in trained.items()}:
            raise CorruptFileError(f"{path} holds other tensors than this run trains. Delete it to begin anew.")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(kept[name])
        _restore(optimizer, tensors, state["optimizer"])
        self.saved_step = state["step"]
        return state["step"]

    def save(self, step: int, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Keep the state after so many steps.

        Raises:
            OutputError: If it cannot be written; the checkpoint before is untouched.
        """
        if self._path is None:
            return
        tensors = {f"{_TRAINED}{name}": one.detach().cpu().contiguous() for name, one in trained.items()}
        numbers: dict[str, Any] = {}
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in _flat(values):
                name = f"{_OPTIMIZER}{index}.{key}"
                if isinstance(value, Tensor):
                    tensors[name] = value.detach().cpu().contiguous().clone()
                else:
                    numbers[name] = value
        state = {"step": step, "identity": self._identity, "optimizer": numbers}
        with replace_file(self._path) as part:
            save_file(tensors, part, metadata={"state": json.dumps(state)})
        self.saved_step = step

    @property
    def kept(self) -> str:
        """What is kept of the run, for a message."""
        if self._path is None:
            return "No output was given, so no checkpoint is kept."
        if self.saved_step is None:
            return "There is no checkpoint yet."
        return f"The checkpoint of step {self.saved_step} is kept in {self._path}."

    def _compare(self, old: Mapping[str, Any], path: Path) -> None:
        changed = list(_differences(old, self._identity))
        if changed:
            raise ModifierError(
                f"{path} is of another run: {'; '.join(changed)}. Give the same settings, another output, or "
                "resume=False to begin anew and replace it."
            )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    check_readable(path)
    with safe_open(path, "pt") as file:
        try:
            state = json.loads((file.metadata() or {})["state"])
            if not {"step", "identity", "optimizer"} <= state.keys():
                raise KeyError("state")
        except (ValueError, LookupError, AttributeError) as error:
            raise CorruptFileError(f"{path} is no checkpoint of tadp.personalize. Move it away.") from error
        return {key: file.get_tensor(key) for key in file.keys()}, state  # noqa: SIM118  safe_open is not a dict


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What an optimiser knows of a parameter; bitsandbytes has part of it one level down, and reads it without."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield key, value


def _restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**numbers, **tensors}.items():
        if name.startswith(_OPTIMIZER):
            index, _, key = name.removeprefix(_OPTIMIZER).partition(".")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """What differs, by its own name: of dictionaries and lists within, only the values in which they do."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for before, now in zip(old, new, strict=True):
            if before != now:  # the first says enough
                yield from _differences(before, now, name)
                return
    elif old != new:
        yield f"{name} was {_short(old)} and is {_short(new)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
