"""A figure of several small tables: one panel each, by a bar a row."""

import argparse
from collections.abc import Mapping, Sequence

from .bars import draw_columns
from .cells import shown
from .pages import write_page
from .parts import SCALE, Table
from .settings import Settings
from .table import collect, command, told


def write_figure(
    tables: Sequence[Table],
    settings: Settings,
    how: argparse.Namespace,
    *,
    name: str,
    title: str,
    more: Mapping[str, Mapping[str, float]],
) -> None:
    """PAGE.md, PAGE.json and PAGE.png of panels that each have one part."""
    page = how.page or how.out / name
    panels = []
    for table in tables:
        found = collect(table, table.parts[0], settings, how)
        panels.append(
            found | {"task": table.task, "metric": table.metrics[0], "better": "higher" if table.sign > 0 else "lower"}
        )
    summary = {"command": command(name, how), "parts": panels, **more}
    lines = ["| | U-Net | row | figure | less the reference |", "|---|---|---|---|---|"]
    for one in panels:
        for unet, rows in one["unets"].items():
            for label, metrics in rows.items():
                cell, digits = metrics[one["metric"]], 1 if one["metric"] in SCALE else 3
                said = f"{one['metric']} {shown(cell, digits=digits)}"
                away = shown(cell, "difference_", digits=digits)
                lines.append(f"| {one['task']}, {one['title']} | {unet} | {label} | {said} | {away} |")
    besides = [f"{name[0].upper()}{name[1:]}: " + ", ".join(f"{key} {one:.3f}" for key, one in found.items()) + "."
               for name, found in more.items()]  # fmt: skip
    parts = [f"# {title}", told(summary, settings), "\n".join(lines), *besides, f"![{title}]({page.name}.png)"]
    draw_columns(panels, page.with_suffix(".png"))
    write_page(page, parts, summary)
