"""Rows of the paper's tables, and their runs."""

from dataclasses import dataclass
from typing import Literal

from .texts import Text

Task = Literal["segmentation", "depth"]


@dataclass(frozen=True)
class Row:
    """A way to compute features.

    Attributes:
        label: Name of the row in a table. Two tables may name the same row differently.
        text: Text for the U-Net; ignored by a plain encoder.
        scale_latents: Whether latents are scaled (LS in the paper).
        adapter: Whether the text goes through VPD's gated adapter (TA in the paper).
        unet: "trained", "untrained" (random weights) or "plain" (a convolutional encoder in its place).
    """

    label: str
    text: Text
    scale_latents: bool = True
    adapter: bool = False
    unet: Literal["trained", "untrained", "plain"] = "trained"

    @property
    def name(self) -> str:
        """The ingredients of the row, as a part of file names."""
        parts = [self.text.name] if self.unet != "plain" else []
        parts += [] if self.scale_latents else ["unscaled"]
        parts += ["adapter"] if self.adapter else []
        return "-".join([*parts, *([self.unet] if self.unet != "trained" else [])])


@dataclass(frozen=True)
class Run:
    """One training of a row.

    Attributes:
        task: "segmentation" or "depth".
        row: The row to train.
        schedule: "normal" or "fast".
        is_tuned: Whether the U-Net trains, too.
        seed: Seed of the head's initial weights and of the order of images.
        is_multi_scale: Whether the trained model is also tested at several scales.
    """

    task: Task
    row: Row
    schedule: Literal["normal", "fast"]
    is_tuned: bool
    seed: int
    is_multi_scale: bool = False

    @property
    def name(self) -> str:
        """The path of its file below OUT/runs, without the suffix."""
        folder = f"{self.task}-{self.schedule}{'-multi-scale' if self.is_multi_scale else ''}"
        return f"{folder}/{self.row.name}-{'tuned' if self.is_tuned else 'frozen'}-{self.seed}"

    @property
    def sort(self) -> tuple[str, str, str, bool]:
        """A key that is equal for runs that take the same time."""
        kind = "tuned" if self.is_tuned else "adapter" if self.row.adapter else "kept"
        return self.task, self.schedule, "plain" if self.row.unet == "plain" else kind, self.is_multi_scale
