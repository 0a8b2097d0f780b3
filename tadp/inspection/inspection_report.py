"""What an inspection found, as a report, and as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

_SHOWN = 3  # places of a finding, and sizes of images


@dataclass(frozen=True)
class Finding:
    """Something to look at before training.

    Attributes:
        kind: The kind of finding, such as "unreadable file".
        text: The finding in one sentence.
        advice: What to do about it.
        places: The files, images or classes that it is about, each with its own sentence where that says more.
    """

    kind: str
    text: str
    advice: str
    places: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = [f"… and {len(self.places) - _SHOWN} more"] if len(self.places) > _SHOWN else []
        lines = [self.text, *(f"    {place}" for place in (*self.places[:_SHOWN], *more)), f"  → {self.advice}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs.

    Attributes:
        name: The name of the class.
        images: Number of images in which it occurs; None if that is not known, as for masks in a quick inspection.
        boxes: Number of its boxes; None if the data set has no boxes.
        pixels: Its share of the pixels that have a class, from 0 to 1; None if the data set has no masks, or they were
            not read.
    """

    name: str
    images: int | None
    boxes: int | None = None
    pixels: float | None = None


@dataclass(frozen=True)
class DepthRange:
    """The known depth in a data set, in metres: the lowest and highest, and the median of the images' medians."""

    lowest_m: float
    median_m: float
    highest_m: float


@dataclass(frozen=True)
class Inspection:
    """What an inspection of a data set found. Printing it prints the report.

    Attributes:
        folder: The folder.
        layout: The name of the reader, such as "CocoDataset".
        tasks: The tasks that the labels can train.
        images: Number of images.
        sizes: Number of images of each size, "height x width", the most frequent first.
        splits: Number of images in each part of the split.
        has_own_split: Whether the data set comes with the split.
        is_drawn: Whether val is drawn at random; if it is not, and the data set has no split, lists or folders were
            passed.
        classes: How often each class occurs; empty for depth.
        unlabelled: The share of mask pixels without class, from 0 to 1; None if the data set has no masks, or they were
            not read.
        depth_m: The range of depth; None if the data set has no depth, or it was not read.
        findings: What to look at.
        quick: Whether only the headers of images and masks were read.
        cache: The file that keeps what was measured; None if nothing is kept.
    """

    folder: str
    layout: str
    tasks: tuple[Literal["segmentation", "depth", "detection"], ...]
    images: int
    sizes: Mapping[str, int]
    splits: Mapping[str, int]
    has_own_split: bool
    is_drawn: bool
    classes: tuple[ClassCount, ...]
    unlabelled: float | None
    depth_m: DepthRange | None
    findings: tuple[Finding, ...]
    quick: bool
    cache: str | None

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        origin = "its own" if self.has_own_split else "by the lists or folders that were passed"
        origin = "drawn at random, as it has none of its own" if self.is_drawn else origin
        lines = [
            f"{self.folder}: {self.layout}, {self.images} images, labels for {' and '.join(self.tasks)}",
            f"sizes: {self._sizes()}",
            f"split: {f'{parts} ({origin})' if parts else 'none'}",
        ]
        if self.depth_m is not None:
            depth = self.depth_m
            lines.append(f"depth: {depth.lowest_m:.3g} to {depth.highest_m:.3g} m, median {depth.median_m:.3g} m")
        lines += self._table()
        if self.quick:
            lines.append("quick: pixels were not read, so masks, depth, damaged files and copies were not checked")
        if self.cache is not None:
            lines.append(f"measurements are kept in {self.cache}")
        count = len(self.findings)
        lines += ["", f"{count} finding{'s' * (count != 1)}{':' * (count > 0)}"]
        return "\n".join([*lines, *(f"\n{number}. {finding}" for number, finding in enumerate(self.findings, 1))])

    def to_json(self) -> str:
        """The inspection as JSON, with the attributes as keys."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def _sizes(self) -> str:
        shown = [f"{size} ({count})" for size, count in list(self.sizes.items())[:_SHOWN]]
        more = [f"{len(self.sizes) - _SHOWN} more"] if len(self.sizes) > _SHOWN else []
        return f"{', '.join([*shown, *more]) or 'unknown'} (height x width)"

    def _table(self) -> list[str]:
        """The classes as a table, without columns that have no figures."""
        if not self.classes:
            return []
        columns: list[tuple[str, list[Any]]] = [
            ("images", [row.images for row in self.classes]),
            ("boxes", [row.boxes for row in self.classes]),
            ("pixels", [None if row.pixels is None else f"{row.pixels:.2%}" for row in self.classes]),
        ]
        columns = [(title, cells) for title, cells in columns if any(cell is not None for cell in cells)]
        width = max(len("class"), *(len(row.name) for row in self.classes))
        lines = ["".join([f"{'class':{width}}", *(f"{title:>10}" for title, _ in columns)])]
        for number, row in enumerate(self.classes):
            cells = ["-" if cells[number] is None else cells[number] for _, cells in columns]
            lines.append("".join([f"{row.name:{width}}", *(f"{cell:>10}" for cell in cells)]))
        if self.unlabelled:
            lines.append(f"{self.unlabelled:.2%} of the pixels have no class")
        return ["", *lines]
