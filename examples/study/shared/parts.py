"""What a table of the paper is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .rows import Row, Task
from .sizes import SIZES

UNETS = ("frozen", "tuned")
# per cent, as the paper writes them
SCALE = dict.fromkeys(("mIoU", "pixel accuracy", *(f"IoU {size}" for size in SIZES)), 100.0)
LOWER_IS_BETTER = ("RMSE", "REL", "log10")


@dataclass(frozen=True)
class Part:
    """Rows that are compared with one of them.

    Attributes:
        title: Above it.
        rows: In the paper's order.
        reference: The label of the row that others are compared with.
        schedule: "normal" or "fast".
        paper: The paper's figure of the table's first metric, by label.
        grid: Of each label a line and a column, to show the first metric as a grid too.
    """

    title: str
    rows: Sequence[Row]
    reference: str
    schedule: Literal["normal", "fast"] = "normal"
    paper: Mapping[str, float] = field(default_factory=dict)
    grid: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Parts of one task.

    Attributes:
        name: Of its files.
        title: Of its page.
        task: "segmentation" or "depth".
        parts: See above.
        metrics: What is shown; the first is compared and drawn.
        notes: Below the tables.
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
