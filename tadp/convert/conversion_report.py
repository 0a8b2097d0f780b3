"""What became of a converted file's tensors."""

from dataclasses import dataclass, field
from typing import Any


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
