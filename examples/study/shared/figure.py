"""A figure of several small tables: one panel per table, one bar per row."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .bars import draw_columns
from .cells import shown
from .pages import found, opening, write_page
from .parts import SCALE, Table
from .settings import Settings
from .table import collect, command, describe_runs, stored


def write_figure(
    tables: Sequence[Table],
    settings: Settings,
    how: argparse.Namespace,
    *,
    name: str,
    title: str,
    measure_more: Callable[[], Mapping[str, Mapping[str, float]]],
) -> None:
    """Write PAGE.md, PAGE.json and PAGE.png, with one panel for the first part of each table."""
    page = how.page or how.out / name
    if how.rewrite:
        summary = stored(page, [(table, table.parts[0]) for table in tables], settings)
        panels = summary["parts"]
        more = {key: figures for key, figures in summary.items() if key not in ("command", "parts")}
    else:
        panels = [_panel(table, collect(table, table.parts[0], settings, how)) for table in tables]
        more = measure_more()
        summary = {"command": command(name, how), "parts": panels, **more}
    lines = ["| task, comparison | U-Net | row | figure | minus first row |", "|---|---|---|---|---|"]
    for panel in panels:
        for unet, rows in panel["unets"].items():
            for label, metrics in rows.items():
                cell, digits = metrics[panel["metric"]], 1 if panel["metric"] in SCALE else 3
                figure = f"{panel['metric']} {shown(cell, digits=digits)}"
                difference = shown(cell, "difference_", digits=digits)
                lines.append(f"| {panel['task']}, {panel['title']} | {unet} | {label} | {figure} | {difference} |")
    measures = [f"{key[0].upper()}{key[1:]}: " + ", ".join(f"{row} {value:.3f}" for row, value in figures.items()) + "."
                for key, figures in more.items()]  # fmt: skip
    parts = [
        f"# {title}",
        opening(name, settings),
        found(summary["command"]),
        describe_runs(summary, settings),
        "\n".join(lines),
        *measures,
        f"![{title}]({page.name}.png)",
    ]
    draw_columns(panels, page.with_suffix(".png"))
    write_page(page, parts, summary)


def _panel(table: Table, part: Mapping[str, Any]) -> dict[str, Any]:
    better = "higher" if table.sign > 0 else "lower"
    return {**part, "task": table.task, "metric": table.metrics[0], "better": better}
