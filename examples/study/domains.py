"""Tables 4 and 5 of the paper: do words for another domain help a model that never saw its labels?

    python examples/study/domains.py --out study --page docs/results/study-domains
    python examples/study/domains.py --report --from docs/results --page docs/results/study-domains

Calls examples/cross_domain.py for segmentation (plain scenes to night) and detection (to watercolors and
comics), which has the options, and brings both results into one report. With --report it runs nothing and reads
cross-domain-*.json from --from. Options that this script does not know go to the other.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from shared.bars import draw_bars
from shared.cells import shown
from shared.options import run
from shared.pages import write_page
from shared.settings import StopStudyError

CROSS_DOMAIN = Path(__file__).parent.parent / "cross_domain.py"
TASKS = {"segmentation": "Table 4: segmentation", "detection": "Table 5: detection"}
DRAWN = {"night mIoU": "segmentation", "watercolor AP": "detection", "comic AP": "detection"}
NULL = "null"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the steps")
    parser.add_argument("--page", type=Path, help="write PAGE.md, PAGE.json and PAGE.png; in OUT by default")
    parser.add_argument("--report", action="store_true", help="run nothing; read what was found")
    parser.add_argument("--from", dest="found", type=Path, help="folder of cross-domain-*.json; OUT by default")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    how, others = parser.parse_known_args()
    found, page = how.found or how.out, how.page or how.out / "domains"
    for task in () if how.report else TASKS:
        words = [sys.executable, str(CROSS_DOMAIN), task, "--out", str(how.out), "--jobs", str(how.jobs)]
        words += ["--seeds", str(how.seeds), "--page", str(found / f"cross-domain-{task}"), *others]
        if subprocess.run(words).returncode:
            raise StopStudyError(f"{CROSS_DOMAIN.name} {task} ended with an error; call again to go on.")
    results = {task: read(found / f"cross-domain-{task}.json") for task in TASKS}
    parts = [part_of(task, column, results[task]) for column, task in DRAWN.items()]
    write(results, parts, page)


def read(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise StopStudyError(f"no {file}; leave out --report to make it, or say where it is with --from.")
    return json.loads(file.read_text(encoding="utf-8"))


def part_of(task: str, ours: str, result: dict[str, Any]) -> dict[str, Any]:
    """A column as `shared.bars` draws it; figures in per cent."""
    rows = {}
    for row, columns in result["rows"].items():
        if ours in columns:
            one = columns[ours]
            rows[row] = {"per cent": {key: 100 * one[key] for key in one if key != "seeds" and one[key] is not None}}
    return {"title": f"{TASKS[task]}, {ours}", "reference": NULL, "paper": {}, "unets": {"frozen": rows}}


def write(results: dict[str, dict[str, Any]], parts: list[dict[str, Any]], page: Path) -> None:
    text = ["# Tables 4 and 5: other domains"]
    for task, result in results.items():
        columns = list(dict.fromkeys(verdict["ours"] for verdict in result["verdicts"]))
        heads = [head for column in columns for head in (column, f"{column} - null")]
        lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        for row, figures in result["rows"].items():
            cells = [text for column in columns for text in (
                shown(figures.get(column)), shown(figures.get(column), "difference_"))]  # fmt: skip
            lines.append(f"| {row} | {' | '.join(cells)} |")
        counted = [one["verdict"] for one in result["verdicts"]]
        told = ", ".join(f"{word} {counted.count(word)}" for word in dict.fromkeys(counted))
        text += [
            f"## {TASKS[task]}",
            f"Command: `{result['command']}`; {result['machine']}; {result['cpu_minutes']:.0f} minutes of CPU.",
            "\n".join(lines),
            f"Against the paper's {len(counted)} differences to null: {told}. [The page of this "
            f"table](cross-domain-{task}.md) has the paper's figures beside.",
        ]
    page.parent.mkdir(parents=True, exist_ok=True)
    draw_bars(parts, "per cent", page.with_suffix(".png"), sign=1)
    text.append(f"![Night mIoU, watercolor AP and comic AP of six modifiers, per cent]({page.name}.png)")
    write_page(page, text, {"command": "python examples/study/domains.py", **results})


if __name__ == "__main__":
    run(main)
