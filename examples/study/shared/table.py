"""A table of the paper: what to run for it, and its page."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tadp.cross_domain import ModifierTable

from .bars import draw_bars
from .cells import markdown
from .options import read
from .pages import write_page
from .parts import SCALE, UNETS, Part, Table
from .runs import carry_out, plan, result_of
from .settings import Settings, StopStudyError


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
        "command": command(table.name, how),
        "metric": table.metrics[0],
        "better": "higher" if table.sign > 0 else "lower",
        "parts": found,
    }
    parts = [f"# {table.title}", told(summary, settings)]
    parts += [markdown(table, part, one) for part, one in zip(table.parts, found, strict=True)]
    parts += [table.notes] * bool(table.notes) + [f"![{table.title}]({page.name}.png)"]
    draw_bars(found, table.metrics[0], page.with_suffix(".png"), sign=table.sign)
    write_page(page, parts, summary)


def collect(table: Table, part: Part, settings: Settings, how: argparse.Namespace) -> dict[str, Any]:
    """Of each U-Net and metric the rows, their seeds, mean, interval, and difference to the reference."""
    results = {run: result_of(run, how.out) for run in runs_of(table, part, how)}
    done = {run: one for run, one in results.items() if one is not None}
    found: dict[str, Any] = {"title": part.title, "reference": part.reference, "paper": dict(part.paper)}
    found["runs"], found["finished"] = len(results), len(done)
    found["minutes"] = round(sum(one["cpu_seconds"] for one in done.values()) / 60, 1)
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


def command(name: str, how: argparse.Namespace) -> str:
    """How to make the page again, with all that was asked for but this machine's folders."""
    words = [f"python examples/study/{name}.py"]
    for option, value in how.asked.items():
        is_folder = option in ("model", "captioner") and Path(value).is_absolute()
        said = "DIR" if option == "root" else Path(value).name if is_folder else value
        words.append(f"--{option.replace('_', '-')}" + f" {said}" * (value is not True))
    return " ".join(words)


def source(settings: Settings) -> str:
    return "rendered scenes" if settings.data == "scenes" else f"images of {settings.data}"


def told(summary: Mapping[str, Any], settings: Settings) -> str:
    parts = summary["parts"]
    seeds = max((len(one["seeds"]) for part in parts for rows in part["unets"].values() for row in rows.values()
                 for one in row.values()), default=0)  # fmt: skip
    schedules = " (or ".join(dict.fromkeys(part["schedule"] for part in parts))
    schedules += ")" * schedules.count("(or") + f", {parts[0]['batch']} images a step"
    missing = sum(part["runs"] - part["finished"] for part in parts)
    machines = ", ".join(dict.fromkeys(machine for part in parts for machine in part["machine"]))
    minutes = sum(part["minutes"] for part in parts)
    train, test = settings.train or "all", settings.test or "all"
    return (
        f"Command: `{summary['command']}`; {train} {source(settings)} to train on, {test} held "
        f"out, {schedules}, {seeds} seeds; {machines}; {minutes:.0f} minutes of CPU. "
        + (f"**{missing} runs are not finished.** " if missing else "")
        + "Means with 95 % intervals (Student's t); differences are taken seed by seed."
    )
