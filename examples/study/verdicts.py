"""Every claim of the paper, its figure, ours, and a verdict: docs/results/paper.md from the study's JSON files.

    python examples/study/verdicts.py --results docs/results --page docs/results/paper.md

Runs nothing. What a claim is compared with is in claims.toml; results that are not there are "not run yet".
"""

import argparse
import tomllib
from itertools import groupby
from pathlib import Path
from typing import Any

from shared.judging import judge
from shared.options import run
from shared.results import Results

from tadp.cross_domain import estimate
from tadp.files.atomic import replace_file

HERE = Path(__file__).parent
TABLES = ("table1", "controls", "table3", "table_s2", "figure3", "figure4", "appendix_a", "domains")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder of the JSON files")
    parser.add_argument("--page", type=Path, default=Path("docs/results/paper.md"))
    how = parser.parse_args()
    results = Results(how.results)
    told = tomllib.loads((HERE / "claims.toml").read_text(encoding="utf-8"))
    judged = [(claim, *judge(claim, results)) for claim in told["claim"]]
    parts = [
        told["page"]["opening"].strip(),
        _count(judged),
        told["page"]["findings"].strip(),
        *(_section(name, list(rows)) for name, rows in groupby(judged, key=lambda one: one[0]["section"])),
        "## The tables and their commands",
        _tables(results),
        told["page"]["supervision"].strip(),
        _supervision(results),
        told["page"]["real_text"].strip(),
        _real_text(results),
        told["page"]["real_weights"].strip(),
        _costs(how.results / "schedule-cost.md"),
        told["page"]["closing"].strip(),
    ]
    how.page.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(how.page) as part:
        part.write_text("\n\n".join(one for one in parts if one) + "\n", encoding="utf-8")
    print(_count(judged))


def _count(judged: list[tuple[dict[str, Any], str, str]]) -> str:
    """How many claims have which verdict."""
    whole = ("agrees", "does not", "cannot tell", "cannot be tested", "not run yet")
    words = [
        verdict if verdict in whole else "see its row" if "see" in verdict else "mixed" for _, _, verdict in judged
    ]
    counts = ", ".join(f"{word} {words.count(word)}" for word in (*whole, "mixed", "see its row") if word in words)
    return f"**{len(judged)} claims: {counts}.**"


def _section(name: str, rows: list[tuple[dict[str, Any], str, str]]) -> str:
    lines = [f"## {name}", "", "| claim | the paper | ours | verdict | why we think so |", "|---|---|---|---|---|"]
    for claim, found, verdict in rows:
        cells = (claim["claim"], claim["paper"], found, f"**{verdict}**", claim["why"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _tables(results: Results) -> str:
    """Each page of the study with its command, seeds, machine and time."""
    lines = ["| page | command | runs | seeds | machine | minutes of CPU |", "|---|---|---|---|---|---|"]
    for name in TABLES:
        found = results.of(f"study-{name}.json")
        if not found:
            lines.append(f"| {name} | `python examples/study/{name}.py` | not run yet | - | - | - |")
            continue
        parts = (
            found.get("parts") or [found[task] for task in ("segmentation", "detection") if task in found] or [found]
        )
        finished, asked = (sum(part.get(key, 0) for part in parts) for key in ("finished", "runs"))
        machines = [one for part in parts for one in _listed(part.get("machine", []))]
        minutes = sum(part.get("minutes", part.get("cpu_minutes", 0)) for part in parts)
        cells = [f"[{name}](study-{name}.md)", f"`{found['command']}`", f"{finished} of {asked}" if asked else "-"]
        cells += [f"{_seeds(found) or '-'}", ", ".join(dict.fromkeys(machines)) or "-", f"{minutes:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _listed(one: str | list[str]) -> list[str]:
    return [one] if isinstance(one, str) else one


def _seeds(found: Any) -> int:
    """The most seeds of any figure in a file."""
    if not isinstance(found, dict):
        return max(map(_seeds, found), default=0) if isinstance(found, list) else 0
    own = len(found["seeds"]) if isinstance(found.get("seeds"), dict) else 0
    return max([own, *map(_seeds, found.values())])


def _supervision(results: Results) -> str:
    """The texts of `examples/tiny/evaluate.py`, with and without supervised attention."""
    with_it, without = (results.of(name).get("miou", {}) for name in ("tadp-tiny.json", "tadp-tiny-control.json"))
    if not with_it or not without:
        return "Not run yet."
    lines = ["| mIoU, frozen | supervised | not supervised |", "|---|---|---|"]
    for name in with_it:
        pair = [estimate(one[name]["features"]) for one in (with_it, without)]
        lines.append(f"| {name} | " + " | ".join(f"{one.mean:.1f} ± {one.half_width:.1f}" for one in pair) + " |")
    return "\n".join(lines)


def _real_text(results: Results) -> str:
    """Precision and recall of the authors' captions of VOC."""
    found = results.of("caption-coverage.json")
    if not found:
        return "Not run yet."
    lines = ["| counted as a mention | precision | recall |", "|---|---|---|"]
    for name, one in found["alignment"].items():
        lines.append(f"| {name} | {one['precision']:.3f} | {one['recall']:.3f} |")
    tokens = found["tokens"]
    told = f"{found['images']:,} captions, {tokens['mean']:.1f} CLIP tokens each on average, {tokens['max']} at most."
    return "\n".join([told, "", *lines])


def _costs(page: Path) -> str:
    """The rows of the schedules' cost."""
    if not page.exists():
        return "Not counted yet."
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| schedule"))
    return "\n".join(line for line in lines[start:] if line.startswith("|"))


if __name__ == "__main__":
    run(main)
