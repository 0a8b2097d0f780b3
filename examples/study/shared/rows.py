"""Rows of the paper's tables, and the runs they are made of."""

from dataclasses import dataclass
from typing import Literal

from .texts import Text

Task = Literal["segmentation", "depth"]


@dataclass(frozen=True)
class Row:
    """A way to make features.

    Attributes:
        label: In the table; two tables may call the same row differently.
        text: What the U-Net is told; None for a network that takes no text.
        scale_latents: The paper's LS.
        adapter: The paper's TA, VPD's gated adapter of the text.
        unet: "trained", "untrained" (random weights) or "plain" (a convolutional encoder in its place).
    """

    label: str
    text: Text
    scale_latents: bool = True
    adapter: bool = False
    unet: Literal["trained", "untrained", "plain"] = "trained"

    @property
    def name(self) -> str:
        """What it is made of, for files."""
        parts = [self.text.name] if self.unet != "plain" else []
        parts += [] if self.scale_latents else ["unscaled"]
        parts += ["adapter"] if self.adapter else []
        return "-".join([*parts, *([self.unet] if self.unet != "trained" else [])])


@dataclass(frozen=True)
class Run:
    """A row, trained once.

    Attributes:
        task: "segmentation" or "depth".
        row: Which.
        schedule: "normal" or "fast".
        is_tuned: Whether the U-Net trains too.
        seed: Of the head's first weights and of the order of images.
    """

    task: Task
    row: Row
    schedule: Literal["normal", "fast"]
    is_tuned: bool
    seed: int

    @property
    def name(self) -> str:
        """Its file below OUT/runs, less the ending."""
        return f"{self.task}-{self.schedule}/{self.row.name}-{'tuned' if self.is_tuned else 'frozen'}-{self.seed}"

    @property
    def sort(self) -> tuple[str, str, str]:
        """Runs of one sort take the same time."""
        if self.row.unet == "plain":
            return self.task, self.schedule, "plain"
        return self.task, self.schedule, "tuned" if self.is_tuned else "adapter" if self.row.adapter else "kept"
