"""A table of the paper: what to run for it, and its page."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tadp.cross_domain import Estimate, ModifierTable

from .bars import draw_bars
from .options import Settings, StopStudyError, read
from .pages import write_page
from .rows import Row, Task
from .runs import carry_out, plan, result_of

UNETS = ("frozen", "tuned")
SCALE = {"mIoU": 100.0, "pixel accuracy": 100.0}  # per cent, as the paper writes them
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


def main(table: Table, description: str | None) -> None:
    """The command of a table: run what is left, write its page."""
    settings, how = read(description)
    if (settings.data == "nyu") != (table.task == "depth") and settings.data != "scenes":
        raise StopStudyError(f"{table.name} is about {table.task}; --data {settings.data} has no labels for it.")
    if not how.report:
        carry_out([one for part in table.parts for one in runs_of(table, part, how)], settings, how)
    write(table, settings, how)


def runs_of(table: Table, part: Part, how: argparse.Namespace) -> list:
    return plan(part.rows, how, task=table.task, schedule=part.schedule)


def write(table: Table, settings: Settings, how: argparse.Namespace) -> None:
    """PAGE.md, PAGE.json and PAGE.png, together, from the runs that are finished."""
    page = how.page or how.out / table.name
    found = [collect(table, part, settings, how) for part in table.parts]
    summary = {
        "command": command(table, settings, how),
        "metric": table.metrics[0],
        "better": "higher" if table.sign > 0 else "lower",
        "parts": found,
    }
    parts = [f"# {table.title}", told(summary, settings)]
    parts += [_markdown(table, part, one) for part, one in zip(table.parts, found, strict=True)]
    parts += [table.notes] * bool(table.notes) + [f"![{table.title}]({page.name}.png)"]
    draw_bars(found, table.metrics[0], page.with_suffix(".png"), sign=table.sign)
    write_page(page, parts, summary)


def collect(table: Table, part: Part, settings: Settings, how: argparse.Namespace) -> dict[str, Any]:
    """Of each U-Net and metric the rows, their seeds, mean, interval, and difference to the reference."""
    results = {run: result_of(run, how.out) for run in runs_of(table, part, how)}
    done = {run: one for run, one in results.items() if one is not None}
    found: dict[str, Any] = {"title": part.title, "reference": part.reference, "paper": dict(part.paper)}
    found["runs"], found["finished"] = len(results), len(done)
    found["minutes"] = round(sum(one["seconds"] for one in done.values()) / 60, 1)
    found["machine"] = sorted({one["machine"] for one in done.values()})
    first, schedule = settings.head_first(table.task, part.schedule), settings.schedule(part.schedule)
    found["schedule"] = f"{schedule.steps} steps" if schedule.steps else f"{schedule.epochs} epochs"
    if first is not None:
        found["schedule"] = f"{first.steps} steps of the head alone and {found['schedule']} of all that trains"
    found["batch"] = schedule.batch
    found["unets"] = {}
    for unet in UNETS:
        figures: dict[str, dict[str, dict[int, float]]] = {}
        for run, one in done.items():
            if run.is_tuned == (unet == "tuned"):
                for metric, value in one["figures"].items():
                    seeds = figures.setdefault(run.row.label, {}).setdefault(metric, {})
                    seeds[run.seed] = SCALE.get(metric, 1.0) * value
        if part.reference in figures:
            found["unets"][unet] = json.loads(ModifierTable(figures, null=part.reference).to_json())["rows"]
    return found


def _markdown(table: Table, part: Part, found: dict[str, Any]) -> str:
    main_metric, *others = table.metrics
    digits = 1 if main_metric in SCALE else 3
    heads = [f"paper: {main_metric}", f"its - {part.reference}"] if part.paper else []
    for unet in found["unets"]:
        heads += [f"{unet}: {main_metric}", f"- {part.reference}", *(["verdict"] if part.paper else [])]
        heads += [f"{unet}: {metric}" for metric in others]
    lines = [f"## {part.title}", "", "| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in part.rows:
        cells = [row.label]
        theirs = part.paper.get(row.label)
        away = None if theirs is None or part.reference not in part.paper else theirs - part.paper[part.reference]
        if part.paper:
            cells += ["-" if theirs is None else f"{theirs:g}", "-" if not away else f"{away:+.3g}"]
        for rows in found["unets"].values():
            one = rows.get(row.label, {}).get(main_metric)
            cells += [shown(one, digits=digits), shown(one, "difference_", digits=digits)]
            cells += [verdict(one, away)] if part.paper else []
            cells += [
                shown(rows.get(row.label, {}).get(metric), digits=1 if metric in SCALE else 3) for metric in others
            ]
        lines.append("| " + " | ".join(cells) + " |")
    for unet, rows in found["unets"].items() if part.grid else ():
        lines += ["", f"{unet}: {main_metric}", "", *_grid(part, rows, main_metric, digits)]
    return "\n".join(lines)


def _grid(part: Part, rows: Mapping[str, Any], metric: str, digits: int) -> list[str]:
    """The rows in two dimensions."""
    down, across = (list(dict.fromkeys(place[axis] for place in part.grid.values())) for axis in (0, 1))
    at = {place: label for label, place in part.grid.items()}
    lines = ["| | " + " | ".join(across) + " |", "|---" * (len(across) + 1) + "|"]
    for line in down:
        cells = [shown(rows.get(at[line, column], {}).get(metric), digits=digits) for column in across]
        lines.append("| " + " | ".join([line, *cells]) + " |")
    return lines


def shown(one: Mapping[str, Any] | None, prefix: str = "", *, digits: int = 3) -> str:
    """Mean and half width of the interval, as a cell."""
    if one is None or one.get(f"{prefix}mean") is None:
        return "-"
    mean, half = one[f"{prefix}mean"], one.get(f"{prefix}half_width")
    return (f"{mean:+.{digits}f}" if prefix else f"{mean:.{digits}f}") + (
        "" if half is None else f" ± {half:.{digits}f}"
    )


def verdict(one: Mapping[str, Any] | None, theirs: float | None) -> str:
    """Whether our interval of the difference to the reference has the paper's sign."""
    if one is None or theirs is None or one.get("difference_mean") is None:
        return "-"
    half = one.get("difference_half_width")
    ours = Estimate(one["difference_mean"], float("inf") if half is None else half, len(one["seeds"]))
    if not theirs or not ours.sign:
        return "cannot tell"
    return "agrees" if ours.sign * theirs > 0 else "disagrees"


def command(table: Table, settings: Settings, how: argparse.Namespace) -> str:
    """How to make the page again, without this machine's folders."""
    words = [f"python examples/study/{table.name}.py"]
    words += [f"--data {settings.data} --root DIR"] if settings.data != "scenes" else []
    words += [f"--model {Path(settings.model).name if Path(settings.model).is_absolute() else settings.model}"] * (
        settings.model != "tadp-tiny"
    )
    words += [f"--seeds {how.seeds}"] * (how.seeds != 3) + ["--quick"] * how.quick
    return " ".join(words)


def told(summary: Mapping[str, Any], settings: Settings) -> str:
    parts = summary["parts"]
    seeds = max((len(one["seeds"]) for part in parts for rows in part["unets"].values() for row in rows.values()
                 for one in row.values()), default=0)  # fmt: skip
    what = "rendered scenes" if settings.data == "scenes" else f"images of {settings.data}"
    schedules = " (or ".join(dict.fromkeys(part["schedule"] for part in parts))
    schedules += ")" * schedules.count("(or") + f", {parts[0]['batch']} images a step"
    missing = sum(part["runs"] - part["finished"] for part in parts)
    machines = ", ".join(dict.fromkeys(machine for part in parts for machine in part["machine"]))
    minutes = sum(part["minutes"] for part in parts)
    return (
        f"Command: `{summary['command']}`; {settings.train or 'all'} {what} to train on, {settings.test or 'all'} held "
        f"out, {schedules}, {seeds} seeds; {machines}; {minutes:.0f} minutes in all. "
        + (f"**{missing} runs are not finished.** " if missing else "")
        + "Means with 95 % intervals (Student's t); differences are taken seed by seed."
    )
