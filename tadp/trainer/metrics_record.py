"""The record of a run in JSON Lines."""

import json
from pathlib import Path

from tadp.files.atomic import replace_file
from tadp.trainer.processes import Accelerator


class Record:
    """A line of figures for each recorded step. A run that continues drops the lines of steps that it repeats.

    Args:
        path: Path of the .jsonl file.
        accelerator: The accelerator. Only its main process writes.
        keep_steps: Last step whose line is kept.
    """

    def __init__(self, path: Path, accelerator: Accelerator, *, keep_steps: int):
        self.path, self.is_writing = path, accelerator.is_main_process
        if not self.is_writing:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= keep_steps]
        with replace_file(path) as part:
            part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, step: int, **figures: float) -> None:
        """Add a line."""
        if self.is_writing:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **figures}) + "\n")
