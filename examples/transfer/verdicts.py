"""Our differences beside the paper's, and whether their signs agree."""

from collections.abc import Sequence
from typing import Any

from tadp.cross_domain import Estimate, ModifierTable
from transfer.claims import PAPER
from transfer.plan import KINDS


def verdicts(table: ModifierTable, task: str) -> list[dict[str, Any]]:
    """For each figure of the paper: its difference to the paper's null, ours, and whether their signs agree."""
    found = []
    for name, (on_scenes, paper) in PAPER[task].items():
        mine = next((one for one in (name, on_scenes) if one in table.columns), None)
        for row in paper:
            if row == table.null:
                continue
            ours = table.difference(row, mine) if mine and row in table.figures else None
            theirs = round(paper[row] - paper[table.null], 4)
            found.append(
                {"paper": name, "ours": mine, "row": row, "difference": theirs, "verdict": verdict(ours, theirs)}
            )
    return found


def verdict(ours: Estimate | None, theirs: float) -> str:
    """Whether our interval shows the paper's sign."""
    if ours is None:
        return "not measured"
    if theirs == 0 or ours.sign == 0:
        return "cannot tell"
    return "agrees" if ours.sign * theirs > 0 else "disagrees"


def beside(table: ModifierTable, judged: Sequence[dict[str, Any]], task: str) -> str:
    """The paper's table with its differences to null, ours (a share, where the paper has per cent), and the verdict."""
    by_cell = {(one["paper"], one["row"]): one for one in judged}
    heads = [head for name in PAPER[task] for head in (f"paper: {name}", "its - null", "our - null", "verdict")]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in KINDS:
        cells: list[str] = [row]
        for name, (_, paper) in PAPER[task].items():
            one = by_cell.get((name, row))
            cells.append(f"{paper[row]:.1f}")
            if one is None:
                cells += ["-", "-", "-"]
                continue
            is_there = one["ours"] is not None and row in table.figures
            ours = table.difference(row, one["ours"]) if is_there else None
            shown = "-" if ours is None else f"{100 * ours.mean:+.1f} ± {100 * ours.half_width:.1f}"
            cells += [f"{one['difference']:+.1f}", shown, one["verdict"]]
        lines.append(f"| {' | '.join(cells)} |")
    counts = {
        word: sum(one["verdict"] == word for one in judged) for word in dict.fromkeys(o["verdict"] for o in judged)
    }
    count = ", ".join(f"{word} {number}" for word, number in counts.items())
    return "\n".join(lines) + f"\n\nIn per cent. Of {len(judged)} differences: {count}."
