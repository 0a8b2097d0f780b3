"""Checkpoints that a kill or a full disk does not harm, from which a run goes on as if nothing had happened.

OUT/checkpoints/step-00000500/   what accelerate saves: optimiser, schedule, random numbers of each process; what trains
                                 of the model, in safetensors; and state.json, which says of what run it is

A checkpoint is written beside, renamed when all of it is there, and only then is the one before it removed.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tadp.errors import OutputError
from training.options import StopTraining

STATE, WEIGHTS = "state.json", "trained.safetensors"


class Checkpoints:
    """The checkpoints of one run; the newest alone is kept.

    Args:
        folder: Where they are.
        accelerator: Whose state is kept; what it is to keep must have been prepared or registered.
        identity: What makes the run this run. One that differs is not gone on with.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, *, identity: dict[str, Any]):
        self.folder, self.accelerator = folder, accelerator
        self.identity = json.loads(json.dumps(identity))  # as it is when it was read again
        accelerator.register_save_state_pre_hook(self._save_model)
        accelerator.register_load_state_pre_hook(self._load_model)

    @property
    def newest(self) -> Path | None:
        """The newest whole checkpoint, if there is one."""
        found = sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []
        return found[-1] if found else None

    def load(self) -> int:
        """Take up the newest checkpoint.

        Returns:
            How many steps were done; 0 without a checkpoint.

        Raises:
            StopTraining: If it is of another run.
        """
        newest = self.newest
        if newest is None:
            return 0
        state = json.loads((newest / STATE).read_text(encoding="utf-8"))
        self._compare(state["identity"], newest)
        self.accelerator.load_state(str(newest))
        return state["step"]

    def save(self, step: int) -> None:
        """Keep the state after a step; in all processes together.

        Raises:
            OutputError: If it cannot be written; the checkpoint before is untouched.
        """
        part, final = self.folder / ".part", self.folder / f"step-{step:08}"
        try:
            if self.accelerator.is_main_process:
                shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
                part.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(part))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                self._finish(part, final, step)
            self.accelerator.wait_for_everyone()
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and "StreamWriter" not in str(error):  # torch.save's of a full disk
                raise
            shutil.rmtree(part, ignore_errors=True)
            kept = f"the checkpoint {self.newest} is untouched" if self.newest else "there is no earlier one"
            raise OutputError(
                f"cannot write the checkpoint of step {step}: {error}. Free some space; {kept}."
            ) from error

    def _finish(self, part: Path, final: Path, step: int) -> None:
        text = json.dumps({"step": step, "identity": self.identity}, indent=2)
        (part / STATE).write_text(text + "\n", encoding="utf-8")
        older = [one for one in self.folder.glob("step-*") if one != final]
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        for one in older:
            shutil.rmtree(one, ignore_errors=True)

    def _compare(self, old: dict[str, Any], path: Path) -> None:
        if old == self.identity:
            return
        was, now = old.get("class_names"), self.identity.get("class_names")
        if was and now and len(was) != len(now):
            raise StopTraining(
                f"the checkpoint {path} is of {len(was)} classes, this run has {len(now)}. Give another --out, or "
                "the data set it was trained on."
            )
        changed = [
            f"{name} was {old.get(name)!r} and is {self.identity.get(name)!r}"
            for name in {**old, **self.identity}
            if old.get(name) != self.identity.get(name)
        ]
        raise StopTraining(
            f"the checkpoint {path} is of another run: {'; '.join(changed)}. Give another --out, or the same options."
        )

    def _save_model(self, models: list[nn.Module], weights: list[dict], folder: str) -> None:
        weights.clear()  # accelerate would keep all of it, the frozen base too
        if self.accelerator.is_main_process:
            state = {name: one.contiguous() for name, one in self._state(models[0]).items()}
            save_file(state, Path(folder) / WEIGHTS)

    def _load_model(self, models: list[nn.Module], folder: str) -> None:
        state, kept = self._state(models.pop()), load_file(Path(folder) / WEIGHTS)
        if state.keys() != kept.keys():
            raise StopTraining(f"{folder}/{WEIGHTS} holds other tensors than this run trains. Give another --out.")
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(kept[name])

    def _state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """What changes in training: parameters with a gradient, and the head's running means."""
        plain = self.accelerator.unwrap_model(model)
        trained = {name: one for name, one in plain.named_parameters() if one.requires_grad}
        buffers = {f"head.{name}": one for name, one in plain.head.named_buffers()}
        return {name: one.detach() for name, one in (trained | buffers).items()}
