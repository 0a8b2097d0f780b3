"""Tables 4 and 5 of the paper: do words for another domain help a model that never saw its labels?

    python examples/study/domains.py --out study --page docs/results/study-domains
    python examples/study/domains.py --report --from docs/results --page docs/results/study-domains

Calls examples/cross_domain.py for segmentation (plain scenes to night) and detection (to watercolors and
comics), which has the options, with a frozen U-Net and with a tuned one (--unet), and brings the results into one
report. With --report it runs nothing and reads cross-domain-*.json from --from; those of a tuned U-Net, which end in
-tuned.json, may be missing. Options that this script does not know go to the other.
"""

import argparse
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

from shared.bars import draw_bars
from shared.cells import shown
from shared.crossing import name_of
from shared.options import run
from shared.pages import write_page
from shared.parts import UNETS
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
    parser.add_argument("--unet", choices=("frozen", "tuned", "both"), default="both", help="what to run")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    how, others = parser.parse_known_args()
    found, page = how.found or how.out, how.page or how.out / "domains"
    unets = UNETS if how.unet == "both" else (how.unet,)
    for task, unet in () if how.report else product(TASKS, unets):
        out = how.out / "tuned" if unet == "tuned" else how.out  # a folder has steps of one kind
        words = [sys.executable, str(CROSS_DOMAIN), task, "--out", str(out), "--jobs", str(how.jobs)]
        words += ["--seeds", str(how.seeds), "--page", str(found / name_of(task, unet)), *others]
        words += ["--tune", "all"] if unet == "tuned" else []
        if subprocess.run(words).returncode:
            raise StopStudyError(f"{CROSS_DOMAIN.name} {task} ended with an error; call again to go on.")
    results = {task: read(found, task) for task in TASKS}
    write(results, [part_of(task, column, results[task]) for column, task in DRAWN.items()], page)


def read(folder: Path, task: str) -> dict[str, dict[str, Any]]:
    """What was found of a task, by U-Net: of those that were run."""
    files = {unet: folder / f"{name_of(task, unet)}.json" for unet in UNETS}
    found = {unet: json.loads(file.read_text(encoding="utf-8")) for unet, file in files.items() if file.exists()}
    if not found:
        raise StopStudyError(f"no {files['frozen']}; leave out --report to make it, or say where it is with --from.")
    return found


def part_of(task: str, ours: str, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A column as `shared.bars` draws it; figures in per cent."""
    unets: dict[str, dict[str, Any]] = {unet: {} for unet in results}
    for unet, result in results.items():
        for row, columns in result["rows"].items():
            if ours in columns:
                one = columns[ours]
                numbers = {key: 100 * one[key] for key in one if key != "seeds" and one[key] is not None}
                unets[unet][row] = {"per cent": numbers}
    return {"title": f"{TASKS[task]}, {ours}", "reference": NULL, "paper": {}, "unets": unets}


def write(results: dict[str, dict[str, dict[str, Any]]], parts: list[dict[str, Any]], page: Path) -> None:
    text = ["# Tables 4 and 5: other domains"]
    for task, of_unets in results.items():
        for unet, result in of_unets.items():
            text += section(task, unet, result)
    page.parent.mkdir(parents=True, exist_ok=True)
    draw_bars(parts, "per cent", page.with_suffix(".png"), sign=1)
    text.append(f"![Night mIoU, watercolor AP and comic AP of six modifiers, per cent]({page.name}.png)")
    kept = {}
    for task, unet in ((task, unet) for task, of_unets in results.items() for unet in of_unets):
        kept[task if unet == "frozen" else f"{task}, tuned"] = results[task][unet]
    command = "python examples/study/domains.py"
    command += " --unet frozen" * all(list(of_unets) == ["frozen"] for of_unets in results.values())
    write_page(page, text, {"command": command, **kept})


def section(task: str, unet: str, result: dict[str, Any]) -> list[str]:
    """One table with its command, and how it stands against the paper's."""
    columns = list(dict.fromkeys(verdict["ours"] for verdict in result["verdicts"]))
    heads = [head for column in columns for head in (column, f"{column} - null")]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row, figures in result["rows"].items():
        cells = [text for column in columns for text in (
            shown(figures.get(column)), shown(figures.get(column), "difference_"))]  # fmt: skip
        lines.append(f"| {row} | {' | '.join(cells)} |")
    counted = [one["verdict"] for one in result["verdicts"]]
    told = ", ".join(f"{word} {counted.count(word)}" for word in dict.fromkeys(counted))
    return [
        f"## {TASKS[task]}" + (", U-Net tuned" if unet == "tuned" else ""),
        f"Command: `{result['command']}`; {result['machine']}; {result['cpu_minutes']:.0f} minutes of CPU.",
        "\n".join(lines),
        f"Against the paper's {len(counted)} differences to null: {told}. [The page of this "
        f"table]({name_of(task, unet)}.md) has the paper's figures beside.",
    ]


if __name__ == "__main__":
    run(main)
