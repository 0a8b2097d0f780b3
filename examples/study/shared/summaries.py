"""Tables that the pages of verdicts add to the claims: the study's pages, supervised attention, real text and costs."""

from pathlib import Path
from typing import Any

from tadp.cross_domain import estimate

from .results import Results

TABLES = (
    "table1",
    "table2",
    "controls",
    "table3",
    "table_s2",
    "figure3",
    "figure4",
    "appendix_a",
    "copy_paste",
    "domains",
)


def study_pages(results: Results) -> str:
    """Each page of the study with its command, seeds, machine and time."""
    lines = ["| page | command | finished training runs | seeds | machine | CPU minutes |", "|---|---|---|---|---|---|"]
    for name in TABLES:
        summary = results.of(f"study-{name}.json")
        if not summary:
            lines.append(f"| {name} | `python examples/study/{name}.py` | not run yet | - | - | - |")
            continue
        tasks = [part for part in summary.values() if isinstance(part, dict) and "cpu_minutes" in part]
        parts = summary.get("parts") or tasks or [summary]
        finished, planned = (sum(part.get(key, 0) for part in parts) for key in ("finished", "runs"))
        machines = dict.fromkeys(machine for part in parts for machine in _machines(part))
        minutes = sum(part.get("minutes", part.get("cpu_minutes", 0)) for part in parts)
        cells = [
            f"[{name}](study-{name}.md)",
            f"`{summary['command']}`",
            f"{finished} of {planned}" if planned else "all" if tasks else "-",
        ]
        cells += [f"{_most_seeds(summary) or '-'}", ", ".join(machines) or "-", f"{minutes:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _machines(part: dict[str, Any]) -> list[str]:
    machine = part.get("machine", [])
    return [machine] if isinstance(machine, str) else machine


def _most_seeds(summary: Any) -> int:
    """The largest number of seeds behind any figure of a file."""
    if not isinstance(summary, dict):
        return max(map(_most_seeds, summary), default=0) if isinstance(summary, list) else 0
    own = len(summary["seeds"]) if isinstance(summary.get("seeds"), dict) else 0
    return max([own, *map(_most_seeds, summary.values())])


def supervision(results: Results) -> str:
    """The texts of `examples/tiny/evaluate.py`, with and without supervised attention."""
    models = [results.of(name).get("miou", {}) for name in ("tadp-tiny.json", "tadp-tiny-control.json")]
    if not all(models):
        return "Not run yet."
    lines = ["| text | mIoU, supervised | mIoU, not supervised |", "|---|---|---|"]
    for name in models[0]:
        estimates = [estimate(model[name]["features"]) for model in models]
        cells = [f"{figure.mean:.1f} ± {figure.half_width:.1f}" for figure in estimates]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def real_text(results: Results) -> str:
    """Precision and recall of the authors' captions of VOC."""
    coverage = results.of("caption-coverage.json")
    if not coverage:
        return "Not run yet."
    tokens = coverage["tokens"]
    lengths = f"with {tokens['mean']:.1f} CLIP tokens on average and {tokens['max']} at most"
    lines = [
        f"{coverage['images']:,} captions, {lengths}.",
        "",
        "| counted as a mention | precision | recall |",
        "|---|---|---|",
    ]
    for name, figures in coverage["alignment"].items():
        lines.append(f"| {name} | {figures['precision']:.3f} | {figures['recall']:.3f} |")
    return "\n".join(lines)


def costs(page: Path) -> str:
    """The table of the schedules' cost."""
    if not page.exists():
        return "Not counted yet."
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| schedule"))
    return "\n".join(line for line in lines[start:] if line.startswith("|"))
