"""Checkpoints that survive a kill or a full disk, from which a run continues as if it had never stopped.

RUN/checkpoints/step-00000500/   the state that accelerate saves (optimiser, schedule, random numbers of each process),
                                 the trained weights in safetensors, and state.json, which identifies the run

A checkpoint is written to a temporary folder and renamed when it is complete. Only then is the previous one removed.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tadp.errors import Argument, OutputError, TADPError, TrainingError
from tadp.files.atomic import sync
from tadp.files.checks import check_regular, is_out_of_memory
from tadp.files.weight_values import check_weights
from tadp.trainer.processes import Accelerator, load

STATE, WEIGHTS = "state.json", "trained.safetensors"
# What json, torch, safetensors, accelerate and the objects that are restored raise on damaged files
_READ_ERRORS = (
    TADPError, OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError,
    UnpicklingError, SafetensorError,
)  # fmt: skip


class Checkpoints:
    """The checkpoints of one run, of which only the newest is kept.

    Args:
        folder: Folder of the checkpoints.
        accelerator: Accelerator whose state is saved. The model and the optimiser must be prepared by it, and other
            state registered with it.
        identity: Values that identify the run. A checkpoint with other values is refused.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, *, identity: dict[str, Any]):
        self.folder, self.accelerator = folder, accelerator
        self.identity = json.loads(json.dumps(identity))  # in the form in which it is read back
        accelerator.register_save_state_pre_hook(self._save_model)
        accelerator.register_load_state_pre_hook(self._load_model)

    @property
    def newest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        folders = sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []
        return folders[-1] if folders else None

    def load(self) -> int:
        """Load the newest checkpoint.

        Returns:
            The number of finished steps; 0 without a checkpoint.

        Raises:
            TrainingError: If the checkpoint belongs to another run, or cannot be read.
        """
        newest = self.newest
        if newest is None:
            return 0
        try:
            for path in newest.iterdir():
                check_regular(path)
            state = json.loads((newest / STATE).read_text(encoding="utf-8"))
            if f"step-{state['step']:08}" != newest.name:
                raise ValueError(f"{STATE} is of step {state['step']}")
            self._compare(dict(state["identity"]), newest)
            self._load_state(newest)
        except TrainingError:
            raise
        except _READ_ERRORS as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0][:200]
            raise TrainingError(
                f"the checkpoint {newest} cannot be read ({type(error).__name__}: {reason}). Delete the folder "
                f"{self.folder} to start the run again, or pass another ",
                Argument("output"),
                ".",
            ) from error
        return state["step"]

    def _load_state(self, folder: Path) -> None:
        """Load what accelerate saved. It would run code in a file, and ignores random numbers that it cannot read."""
        for path in sorted(folder.iterdir()):
            if path.suffix in (".bin", ".pkl"):
                load(path, map_location="cpu", mmap=True)  # reads no pickle that could run code, and no tensor
        self.accelerator.load_state(str(folder))
        states = load(folder / f"random_states_{self.accelerator.process_index}.pkl")
        if not torch.equal(torch.get_rng_state(), states["torch_manual_seed"]):
            raise ValueError("the random numbers do not fit")

    def save(self, step: int) -> None:
        """Save the state after a step. All processes must call it.

        Raises:
            OutputError: If it cannot be written. The previous checkpoint stays as it is.
        """
        part, final = self.folder / ".part", self.folder / f"step-{step:08}"
        try:
            if self.accelerator.is_main_process:
                shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed
                part.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(part))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                self._finish(part, final, step)
            self.accelerator.wait_for_everyone()
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and "StreamWriter" not in str(
                error
            ):  # torch.save's error for a full disk
                raise
            shutil.rmtree(part, ignore_errors=True)
            kept = f"the checkpoint {self.newest} is untouched" if self.newest else "none was saved before"
            raise OutputError(
                f"cannot write the checkpoint of step {step}: {error}. Free some space; {kept}."
            ) from error

    def _finish(self, part: Path, final: Path, step: int) -> None:
        text = json.dumps({"step": step, "identity": self.identity}, indent=2)
        (part / STATE).write_text(text + "\n", encoding="utf-8")
        for path in (*part.rglob("*"), part):  # the older ones are only deleted when this one would survive a power cut
            sync(path)
        older = [folder for folder in self.folder.glob("step-*") if folder != final]
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        sync(self.folder)
        for folder in older:
            shutil.rmtree(folder, ignore_errors=True)

    def _compare(self, old: dict[str, Any], path: Path) -> None:
        if old == self.identity:
            return
        was, now = old.get("class_names"), self.identity.get("class_names")
        if was and now and len(was) != len(now):
            raise TrainingError(
                f"the checkpoint {path} has {len(was)} classes, but this run has {len(now)}. Give another ",
                Argument("output"),
                ", or the data set that the checkpoint was trained on.",
            )
        raise TrainingError(
            f"the checkpoint {path} belongs to another run: {differences(old, self.identity)}. Give another ",
            Argument("output"),
            ", or the same options.",
        )

    def _save_model(self, models: list[nn.Module], weights: list[dict], folder: str) -> None:
        weights.clear()  # accelerate would save the whole model, including the frozen part
        if self.accelerator.is_main_process:
            plain = self.accelerator.unwrap_model(models[0])
            state = {name: tensor.contiguous() for name, tensor in trained_state(plain).items()}
            save_file(state, Path(folder) / WEIGHTS)

    def _load_model(self, models: list[nn.Module], folder: str) -> None:
        plain, kept = self.accelerator.unwrap_model(models.pop()), load_file(Path(folder) / WEIGHTS)
        trained = trained_state(plain)
        if trained.keys() != kept.keys() or any(kept[name].shape != trained[name].shape for name in kept):
            raise TrainingError(
                f"{folder}/{WEIGHTS} holds other tensors than those this run trains. Give another ",
                Argument("output"),
                ".",
            )
        check_weights(kept, Path(folder, WEIGHTS))
        set_state(plain, kept)


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a task model that training changes: parameters with a gradient, and the head's running means."""
    head: Any = model.head
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    buffers = {f"head.{name}": buffer for name, buffer in head.named_buffers()}
    return {name: tensor.detach() for name, tensor in (trained | buffers).items()}


def set_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy values into the tensors that `trained_state` returns."""
    with torch.no_grad():
        for name, tensor in trained_state(model).items():
            tensor.copy_(state[name])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The values that differ, such as "steps was 2 and is 4; lr was 0.1 and is 0.2"."""
    return "; ".join(
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    )


class WeightAverage:
    """An exponential moving average of the tensors that training changes.

    Args:
        model: The task model.
        decay: Weight of the earlier average in each step, below 1. In the first steps it is lower, (1 + n) / (10 + n)
            in step n, so that the average does not stay near the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.tensors = _copies(trained_state(model))

    def update(self, model: nn.Module) -> None:
        """Add the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in trained_state(model).items():
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1 - decay)
            else:
                self.tensors[name].copy_(tensor)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights for a while."""
        current = _copies(trained_state(model))
        set_state(model, self.tensors)
        try:
            yield
        finally:
            set_state(model, current)

    def state_dict(self) -> dict[str, Any]:
        """The average, for a checkpoint."""
        return {"steps": self.steps, "tensors": self.tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the average of a checkpoint."""
        self.steps = state["steps"]
        for name, tensor in self.tensors.items():
            tensor.copy_(state["tensors"][name])


@dataclass(frozen=True)
class Watch:
    """The score by which a run stops early.

    Attributes:
        figure: Name of the figure that is compared.
        higher_is_better: Whether a higher figure is better.
        patience: Number of evaluations in a row without a better figure after which the run stops.
    """

    figure: str
    higher_is_better: bool
    patience: int


class BestWeights:
    """The weights of the evaluation with the best score so far.

    Args:
        watch: The score.

    Attributes:
        step: The step of these weights; None before the first evaluation.
        tensors: The weights; empty before the first evaluation.
    """

    def __init__(self, watch: Watch):
        self.watch = watch
        self.value, self.misses = math.nan, 0
        self.step: int | None = None
        self.tensors: dict[str, Tensor] = {}

    @property
    def is_over(self) -> bool:
        """Whether the run has to stop."""
        return self.misses >= self.watch.patience

    def update(self, step: int, figures: Mapping[str, float], model: nn.Module) -> None:
        """Compare the figures of an evaluation, and keep the weights if they are the best."""
        value = figures[self.watch.figure]
        is_better = value > self.value if self.watch.higher_is_better else value < self.value
        if self.step is not None and not (is_better or (math.isnan(self.value) and not math.isnan(value))):
            self.misses += 1
            return
        self.value, self.step, self.misses = value, step, 0
        self.tensors = _copies(trained_state(model))

    def state_dict(self) -> dict[str, Any]:
        """The best weights, for a checkpoint."""
        return {"value": self.value, "misses": self.misses, "step": self.step, "tensors": self.tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the best weights of a checkpoint."""
        self.value, self.misses, self.step = state["value"], state["misses"], state["step"]
        self.tensors = state["tensors"]


def _copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: tensor.clone() for name, tensor in state.items()}
