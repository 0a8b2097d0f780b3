"""A part of a table as Markdown."""

from collections.abc import Mapping
from typing import Any

from tadp.cross_domain import Estimate

from .intervals import AGREES, CANNOT_TELL, DISAGREES
from .parts import SCALE, Part, Table


def markdown(table: Table, part: Part, results: dict[str, Any]) -> str:
    """The rows, next to the paper's figures where the paper has some.

    Args:
        table: The table, for its metrics.
        part: A part of the table.
        results: Results of the part, from `collect`.
    """
    main_metric, *more_metrics = table.metrics
    digits = 1 if main_metric in SCALE else 3
    minus = f"minus ({part.reference})" if "," in part.reference else f"minus {part.reference}"
    headings = [f"paper: {main_metric}", f"paper: {minus}"] if part.paper else []
    for unet in results["unets"]:
        headings += [f"{unet}: {main_metric}", minus, *(["verdict"] if part.paper else [])]
        headings += [f"{unet}: {metric}" for metric in more_metrics]
    lines = [f"## {part.title}", "", "| row | " + " | ".join(headings) + " |", "|---" * (len(headings) + 1) + "|"]
    for row in part.rows:
        cells = [row.label]
        paper = part.paper.get(row.label)
        reference = part.paper.get(part.reference)
        paper_difference = None if paper is None or reference is None else paper - reference
        if part.paper:
            cells += ["-" if paper is None else f"{paper:g}", f"{paper_difference:+.3g}" if paper_difference else "-"]
        for rows in results["unets"].values():
            figure = rows.get(row.label, {}).get(main_metric)
            cells += [shown(figure, digits=digits), shown(figure, "difference_", digits=digits)]
            cells += [verdict(figure, paper_difference)] if part.paper else []
            cells += [
                shown(rows.get(row.label, {}).get(metric), digits=1 if metric in SCALE else 3)
                for metric in more_metrics
            ]
        lines.append("| " + " | ".join(cells) + " |")
    for unet, rows in results["unets"].items() if part.grid else ():
        lines += ["", f"The same figures as a grid, U-Net {unet}: {main_metric} in per cent.", ""]
        lines += _grid(part, rows, main_metric, digits)
    return "\n".join(lines)


def _grid(part: Part, rows: Mapping[str, Any], metric: str, digits: int) -> list[str]:
    """The rows of a part as a grid of lines and columns."""
    names, columns = (list(dict.fromkeys(place[axis] for place in part.grid.values())) for axis in (0, 1))
    labels = {place: label for label, place in part.grid.items()}
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        cells = [shown(rows.get(labels[name, column], {}).get(metric), digits=digits) for column in columns]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return lines


def shown(figure: Mapping[str, Any] | None, prefix: str = "", *, digits: int = 3) -> str:
    """The mean and the half width of the interval, as a cell; "-" without a figure."""
    if figure is None or figure.get(f"{prefix}mean") is None:
        return "-"
    mean, half_width = figure[f"{prefix}mean"], figure.get(f"{prefix}half_width")
    text = f"{mean:+.{digits}f}" if prefix else f"{mean:.{digits}f}"
    return text if half_width is None else f"{text} ± {half_width:.{digits}f}"


def verdict(figure: Mapping[str, Any] | None, paper_difference: float | None) -> str:
    """Whether the interval of our difference to the reference has the paper's sign."""
    if figure is None or paper_difference is None or figure.get("difference_mean") is None:
        return "-"
    half_width = figure.get("difference_half_width")
    ours = Estimate(figure["difference_mean"], float("inf") if half_width is None else half_width, len(figure["seeds"]))
    if not paper_difference or not ours.sign:
        return CANNOT_TELL
    return AGREES if ours.sign * paper_difference > 0 else DISAGREES
