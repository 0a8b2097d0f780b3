"""The parts that make up a table of the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .rows import Row, Task
from .sizes import SIZES

UNETS = ("frozen", "tuned")
# figures in per cent, as in the paper
SCALE = dict.fromkeys(
    ("mIoU", "multi-scale mIoU", "multi-scale gain", "pixel accuracy", *(f"IoU {size}" for size in SIZES)), 100.0
)
LOWER_IS_BETTER = ("RMSE", "REL", "log10")


@dataclass(frozen=True)
class Part:
    """Rows that are compared with one of them, the reference.

    Attributes:
        title: Heading of the part.
        rows: The rows, in the paper's order.
        reference: Label of the row that the others are compared with.
        schedule: "normal" or "fast".
        paper: The paper's figures for the first metric of the table, by label.
        grid: For each label its line and column, to show the first metric as a grid, too; empty for no grid.
    """

    title: str
    rows: Sequence[Row]
    reference: str
    schedule: Literal["normal", "fast"] = "normal"
    paper: Mapping[str, float] = field(default_factory=dict)
    grid: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of one task.

    Attributes:
        name: Name of its files.
        title: Title of its page.
        task: "segmentation" or "depth".
        parts: Parts of the table, one below the other.
        metrics: Metrics to show; the first is compared and drawn. With "multi-scale mIoU", images are also tested at
            several scales.
        notes: Text below the tables.
    """

    name: str
    title: str
    task: Task
    parts: Sequence[Part]
    metrics: Sequence[str]
    notes: str = ""

    @property
    def sign(self) -> int:
        """1 if a higher figure is better."""
        return -1 if self.metrics[0] in LOWER_IS_BETTER else 1
