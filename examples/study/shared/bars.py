"""Bars with intervals: one panel for the frozen U-Net, one for the tuned U-Net, and one for the paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tadp.files.atomic import replace_file

COLORS = {"frozen": "#8aa9c8", "tuned": "#5b93c7", "paper": "#b9b2a3"}


def draw_bars(parts: Sequence[Mapping[str, Any]], metric: str, path: Path, *, sign: int) -> None:
    """Draw the figures of a table as lying bars.

    Args:
        parts: Results of each part, from `table.collect`.
        metric: Metric to draw.
        path: Path of the .png.
        sign: 1 if higher is better, -1 if lower is better.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parts = [part for part in parts if part["unets"]]
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
    figure.supxlabel(f"{metric}, {arrow}; lines are 95 % intervals; axes do not begin at zero", fontsize=8)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)


def draw_columns(panels: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw one panel per table, with standing bars for its rows, frozen and tuned side by side.

    Args:
        panels: Results of each panel with its own metric, from `figure.write_figure`.
        path: Path of the .png.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(2.6 * len(panels), 3.0), layout="constrained", squeeze=False
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        labels = list(dict.fromkeys(label for rows in panel["unets"].values() for label in rows))
        edges = []
        for number, (unet, rows) in enumerate(panel["unets"].items()):
            cells = {label: rows[label][panel["metric"]] for label in labels if label in rows}
            places = [labels.index(label) + 0.38 * (number - (len(panel["unets"]) - 1) / 2) for label in cells]
            means = [cell["mean"] for cell in cells.values()]
            halves = [cell.get("half_width") or 0.0 for cell in cells.values()]
            edges += [mean + side * half for mean, half in zip(means, halves, strict=True) for side in (-1, 1)]
            axis.bar(places, means, 0.36, yerr=halves, color=COLORS[unet], label=unet, error_kw={"linewidth": 1})
        span = (max(edges) - min(edges) or 1) if edges else 1
        if edges:
            axis.set_ylim(max(0, min(edges) - 0.5 * span), max(edges) + 0.1 * span)
        axis.set_xticks(range(len(labels)), labels, fontsize=8)
        axis.tick_params(axis="y", labelsize=7)
        axis.set_title(f"{panel['task']}, {panel['title']}\n{panel['metric']}, {panel['better']} is better", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    bars = {name: handle for axis in axes[0] for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    if bars:
        title = "lines are 95 % intervals; axes do not begin at zero"
        figure.legend(
            bars.values(), bars, loc="outside lower center", ncols=2, fontsize=8, frameon=False, title=title,
            title_fontsize=8,
        )  # fmt: skip
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
    digits = 4 if name == "paper" else 3  # as many as the paper prints
    for place, label in zip(places, shown, strict=True):
        axis.text(
            0.02, place, f"{values[label]:.{digits}g}", transform=axis.get_yaxis_transform(), va="center", fontsize=7
        )
    edges = [values[label] + side * halves.get(label, 0) for label in shown for side in (-1, 1)]
    span = max(edges) - min(edges) or 1
    axis.set_xlim(max(0, min(edges) - 0.35 * span), max(edges) + 0.1 * span)
    axis.set_yticks(range(len(labels)), labels if show_labels else [""] * len(labels), fontsize=8)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.locator_params(axis="x", nbins=5)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_title(name, fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
