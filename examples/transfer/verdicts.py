"""Our differences next to the paper's, and whether their signs agree."""

from collections.abc import Sequence
from typing import Any

from tadp.cross_domain import Estimate, ModifierTable
from transfer.claims import PAPER
from transfer.plan import KINDS


def verdicts(table: ModifierTable, task: str) -> list[dict[str, Any]]:
    """For each figure of the paper: its difference to the paper's null, our column, and whether the signs agree."""
    cells = []
    for name, (scenes_column, paper) in PAPER[task].items():
        column = next((column for column in (name, scenes_column) if column in table.columns), None)
        for row in paper:
            if row == table.null:
                continue
            ours = table.difference(row, column) if column and row in table.figures else None
            difference = round(paper[row] - paper[table.null], 4)
            cells.append(
                {
                    "paper": name,
                    "ours": column,
                    "row": row,
                    "difference": difference,
                    "verdict": verdict(ours, difference),
                }
            )
    return cells


def verdict(ours: Estimate | None, paper: float) -> str:
    """Whether the interval of our difference has the sign of the paper's."""
    if ours is None:
        return "not measured"
    if paper == 0 or ours.sign == 0:
        return "cannot tell"
    return "agrees" if ours.sign * paper > 0 else "disagrees"


def comparison(table: ModifierTable, judged: Sequence[dict[str, Any]], task: str) -> str:
    """The paper's figures, the differences from the null row in the paper and in ours, and the verdicts."""
    by_cell = {(cell["paper"], cell["row"]): cell for cell in judged}
    lines = [
        "| data set of the paper | modifier | paper | paper: minus null | ours: minus null | verdict |",
        "|---" * 6 + "|",
    ]
    for name, (_, paper) in PAPER[task].items():
        for row in KINDS:
            cell = by_cell.get((name, row))
            cells = [name, row, f"{paper[row]:.1f}", "-", "-", "-"]
            if cell is not None:
                is_measured = cell["ours"] is not None and row in table.figures
                ours = table.difference(row, cell["ours"]) if is_measured else None
                shown = "-" if ours is None else f"{100 * ours.mean:+.1f} ± {100 * ours.half_width:.1f}"
                cells[3:] = [f"{cell['difference']:+.1f}", shown, cell["verdict"]]
            lines.append(f"| {' | '.join(cells)} |")
    words = [cell["verdict"] for cell in judged]
    counts = ", ".join(f"{word}: {words.count(word)}" for word in dict.fromkeys(words))
    return "\n".join(lines) + f"\n\nVerdicts on {len(judged)} differences: {counts}."
