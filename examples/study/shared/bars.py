"""Bars with intervals: a panel each for the frozen U-Net, the tuned one, and the paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tadp.files import replace_file

COLORS = {"frozen": "#8aa9c8", "tuned": "#2c6fad", "paper": "#b9b2a3"}


def draw_bars(parts: Sequence[Mapping[str, Any]], metric: str, path: Path, *, sign: int) -> None:
    """Draw what a table holds.

    Args:
        parts: As `table.write` collects them.
        metric: Which figure.
        path: A .png.
        sign: 1 if a higher figure is better.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [(part, name) for part in parts for name in [*part["unets"], *(["paper"] if part["paper"] else [])]]
    if not panels:
        return
    across = max(len(part["unets"]) + bool(part["paper"]) for part in parts)
    tallest = [max((len(rows) for rows in part["unets"].values()), default=1) for part in parts]
    figure, axes = pyplot.subplots(
        len(parts),
        across,
        figsize=(1.6 + 3.1 * across, 0.9 * len(parts) + 0.3 * sum(tallest)),
        squeeze=False,
        height_ratios=[rows + 1.5 for rows in tallest],
        layout="constrained",
    )
    for line, part in zip(axes, parts, strict=True):
        labels = list(dict.fromkeys([label for rows in part["unets"].values() for label in rows] or part["paper"]))
        names = [*part["unets"], *(["paper"] if part["paper"] else [])]
        for number, axis in enumerate(line):
            if number >= len(names):
                axis.set_visible(False)
                continue
            _panel(axis, part, names[number], labels, metric, show_labels=number == 0)
        line[0].set_title(f"{part['title']}\n{names[0]}", fontsize=9, loc="left")
    arrow = "higher is better" if sign > 0 else "lower is better"
    figure.supxlabel(f"{metric}, {arrow}; lines are 95 % intervals", fontsize=8)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)


def _panel(axis: Any, part: Mapping[str, Any], name: str, labels: list[str], metric: str, *, show_labels: bool) -> None:
    values = part["paper"] if name == "paper" else {
        label: rows[metric]["mean"] for label, rows in part["unets"][name].items() if metric in rows
    }  # fmt: skip
    halves = {} if name == "paper" else {
        label: rows[metric].get("half_width") or 0 for label, rows in part["unets"][name].items() if metric in rows
    }  # fmt: skip
    shown = [label for label in labels if label in values]
    places = [labels.index(label) for label in shown]
    axis.barh(
        places,
        [values[label] for label in shown],
        xerr=[halves.get(label, 0) for label in shown] if halves else None,
        color=[COLORS[name] if label != part["reference"] else "#d98f4e" for label in shown],
        error_kw={"linewidth": 1, "ecolor": "#333333"},
        height=0.7,
    )
    for place, label in zip(places, shown, strict=True):
        axis.text(0.02, place, f"{values[label]:.3g}", transform=axis.get_yaxis_transform(), va="center", fontsize=7)
    edges = [values[label] + side * halves.get(label, 0) for label in shown for side in (-1, 1)]
    span = max(edges) - min(edges) or 1
    axis.set_xlim(max(0, min(edges) - 0.35 * span), max(edges) + 0.1 * span)
    axis.set_yticks(range(len(labels)), labels if show_labels else [""] * len(labels), fontsize=8)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_title(name, fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
