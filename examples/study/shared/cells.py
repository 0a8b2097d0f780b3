"""A part of a table as Markdown."""

from collections.abc import Mapping
from typing import Any

from tadp.cross_domain import Estimate

from .parts import SCALE, Part, Table


def markdown(table: Table, part: Part, found: dict[str, Any]) -> str:
    """The rows, beside the paper's figures where it has some.

    Args:
        table: Whose metrics are shown.
        part: Of it.
        found: From `collect`.
    """
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
