"""A table of the paper: its runs and its page."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tadp.cross_domain import ModifierTable

from .bars import draw_bars
from .cells import markdown
from .measuring import MULTI_SCALE
from .options import read
from .pages import found, opening, write_page
from .parts import SCALE, UNETS, Part, Table
from .runs import carry_out, plan, result_of
from .settings import Settings, StopStudyError

READING = """\
How to read the tables:

- Figures are means over {count} with 95 % intervals (Student's t). *Minus* a row is the difference from that row,
  computed for each seed.
- *Frozen*: the U-Net is left unchanged while the head is trained.
- *Tuned*: the head is trained first, and then the head and the whole U-Net together.
- A dash (-) stands for a figure that does not exist."""
REFERENCE = "- In the picture, the row from which the differences are computed is orange."
ONE_SEED = """\
- A difference is over the seeds that both rows have. A figure without an interval is from one seed, so we cannot tell
  whether it agrees."""
VERDICTS = """\
- *Verdict*: *agrees* if the interval of our difference lies on the side of zero where the paper's difference lies,
  *disagrees* if it lies on the other side, and *cannot tell* if it contains zero."""


def main(table: Table, description: str | None) -> None:
    """The command of a table: do the remaining runs and write the page."""
    settings, how = read(description)
    if (settings.data == "nyu") != (table.task == "depth") and settings.data != "scenes":
        raise StopStudyError(f"{table.name} measures {table.task}, but --data {settings.data} has no labels for it.")
    if not (how.report or how.rewrite):
        carry_out([run for part in table.parts for run in runs_of(table, part, how)], settings, how)
    write(table, settings, how)


def runs_of(table: Table, part: Part, how: argparse.Namespace) -> list:
    is_multi_scale = MULTI_SCALE in table.metrics
    return plan(part.rows, how, task=table.task, schedule=part.schedule, is_multi_scale=is_multi_scale)


def write(table: Table, settings: Settings, how: argparse.Namespace) -> None:
    """Write PAGE.md, PAGE.json and PAGE.png from the finished runs, or from PAGE.json."""
    page = how.page or how.out / table.name
    if how.rewrite:
        summary = stored(page, [(table, part) for part in table.parts], settings)
    else:
        summary = {
            "command": command(table.name, how),
            "metric": table.metrics[0],
            "better": "higher" if table.sign > 0 else "lower",
            "parts": [collect(table, part, settings, how) for part in table.parts],
        }
    texts = [f"# {table.title}", opening(table.name, settings), found(summary["command"])]
    texts.append(describe_runs(summary, settings))
    texts += [markdown(table, part, results) for part, results in zip(table.parts, summary["parts"], strict=True)]
    texts += [table.notes] * bool(table.notes) + [f"![{table.title}]({page.name}.png)"]
    draw_bars(summary["parts"], table.metrics[0], page.with_suffix(".png"), sign=table.sign)
    write_page(page, texts, summary)


def stored(page: Path, parts: Sequence[tuple[Table, Part]], settings: Settings) -> dict[str, Any]:
    """The results in PAGE.json, with titles and descriptions as they are worded now."""
    summary = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    for results, (table, part) in zip(summary["parts"], parts, strict=True):
        results |= {"title": part.title, "schedule": describe_schedule(table, part, settings)}
    return summary


def collect(table: Table, part: Part, settings: Settings, how: argparse.Namespace) -> dict[str, Any]:
    """The rows for each kind of U-Net and metric: seeds, mean, interval, and difference to the reference."""
    planned = {run: result_of(run, how.out) for run in runs_of(table, part, how)}
    finished = {run: result for run, result in planned.items() if result is not None}
    results: dict[str, Any] = {"title": part.title, "reference": part.reference, "paper": dict(part.paper)}
    results["runs"], results["finished"] = len(planned), len(finished)
    results["minutes"] = round(sum(result["cpu_seconds"] for result in finished.values()) / 60, 1)
    results["machine"] = sorted({result["machine"] for result in finished.values()})
    results["schedule"] = describe_schedule(table, part, settings)
    results["batch"] = settings.schedule(part.schedule).batch
    results["unets"] = {}
    for unet in UNETS:
        figures: dict[str, dict[str, dict[int, float]]] = {}
        for run, result in finished.items():
            if run.is_tuned == (unet == "tuned"):
                for metric, value in result["figures"].items():
                    seeds = figures.setdefault(run.row.label, {}).setdefault(metric, {})
                    seeds[run.seed] = SCALE.get(metric, 1.0) * value
        if part.reference in figures:
            results["unets"][unet] = json.loads(ModifierTable(figures, null=part.reference).to_json())["rows"]
    return results


def describe_schedule(table: Table, part: Part, settings: Settings) -> str:
    """How long a run trains, in words."""
    first, schedule = settings.head_first(table.task, part.schedule), settings.schedule(part.schedule)
    length = f"{schedule.steps} steps" if schedule.steps else f"{schedule.epochs} epochs"
    return (
        length
        if first is None
        else f"{first.steps} steps of only the head, then {length} of the head and, if tuned, the U-Net"
    )


def command(name: str, how: argparse.Namespace) -> str:
    """The command that makes the page again, with all options except the folders of this machine."""
    words = [f"python examples/study/{name}.py"]
    for option, value in how.asked.items():
        is_folder = option in ("model", "captioner") and Path(value).is_absolute()
        argument = "DIR" if option == "root" else Path(value).name if is_folder else value
        name = f"--{'no-' if value is False else ''}{option.replace('_', '-')}"
        words.append(name if isinstance(value, bool) else f"{name} {argument}")
    return " ".join(words)


def source(settings: Settings) -> str:
    return "rendered scenes" if settings.data == "scenes" else f"images of {settings.data}"


def describe_runs(summary: Mapping[str, Any], settings: Settings) -> str:
    """The command, the data, the training, the machine and the statistics behind a page."""
    parts = summary["parts"]
    seeds = max((len(cell["seeds"]) for part in parts for rows in part["unets"].values() for row in rows.values()
                 for cell in row.values()), default=0)  # fmt: skip
    by_name = {part.get("task", part["title"]).partition(":")[0].lower(): part["schedule"] for part in parts}
    schedules = "; ".join(f"{name}: {schedule}" if len(by_name) > 1 else schedule for name, schedule in by_name.items())
    schedules += f"; {parts[0]['batch']} images per step"
    count = "1 seed" if seeds == 1 else f"{seeds} seeds"
    unets = list(dict.fromkeys(unet for part in parts for unet in part["unets"]))
    missing = sum(part["runs"] - part["finished"] for part in parts)
    machines = ", ".join(dict.fromkeys(machine for part in parts for machine in part["machine"]))
    minutes = sum(part["minutes"] for part in parts)
    train, test = settings.train or "all", settings.test or "all"
    names = 'class names and oracles include "background"; ' if settings.background else ""
    return (
        f"Command: `{summary['command']}`; {train} {source(settings)} for training, {test} held out for testing; "
        f"{schedules}; {names}{count}; {machines}; {minutes:.0f} minutes of CPU time."
        + (f" **{missing} runs are not finished.**" if missing else "")
        + f"\n\n{READING.format(count=count)}"
        + (f"\n- This page only has results for a {unets[0]} U-Net." if len(unets) == 1 else "")
        + (f"\n{ONE_SEED}" if missing and seeds > 1 else "")
        + (f"\n{VERDICTS}" if any(part["paper"] for part in parts) else "")
        + (f"\n{REFERENCE}" if all("task" not in part for part in parts) else "")  # Figure 3 has no such colour
    )
