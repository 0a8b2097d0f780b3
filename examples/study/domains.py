"""Tables 4 and 5 of the paper: do words for another domain help a model that never saw labels there?

    python examples/study/domains.py --out study --page docs/results/study-domains
    python examples/study/domains.py --report --from docs/results --page docs/results/study-domains

Runs examples/cross_domain.py for segmentation (from plain scenes to night) and detection (to watercolors and comics),
with a frozen U-Net and with a tuned one (--unet), and joins the results in one report. All other options are passed
on to that script. With --report it runs nothing and reads cross-domain-*.json from the folder --from. The files of a
tuned U-Net, which end in -tuned.json, may be missing.
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
from shared.crossing import page_name
from shared.options import run
from shared.pages import found, opening, write_page
from shared.parts import UNETS
from shared.settings import StopStudyError

CROSS_DOMAIN = Path(__file__).parent.parent / "cross_domain.py"
TASKS = {"segmentation": "Table 4: segmentation", "detection": "Table 5: detection"}
DRAWN = {"night mIoU": "segmentation", "watercolor AP": "detection", "comic AP": "detection"}
NULL = "null"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the finished steps")
    parser.add_argument("--page", type=Path, help="write PAGE.md, PAGE.json and PAGE.png (default: in OUT)")
    parser.add_argument("--report", action="store_true", help="run nothing; write the page from existing results")
    parser.add_argument("--from", dest="source", type=Path, help="folder of cross-domain-*.json (default: OUT)")
    parser.add_argument("--unet", choices=("frozen", "tuned", "both"), default="both", help="which U-Net to run")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    how, options = parser.parse_known_args()
    source, page = how.source or how.out, how.page or how.out / "domains"
    unets = UNETS if how.unet == "both" else (how.unet,)
    for task, unet in () if how.report else product(TASKS, unets):
        out = how.out / "tuned" if unet == "tuned" else how.out  # a folder holds the steps of one kind of U-Net
        words = [sys.executable, str(CROSS_DOMAIN), task, "--out", str(out), "--jobs", str(how.jobs)]
        words += ["--seeds", str(how.seeds), "--page", str(source / page_name(task, unet)), *options]
        words += ["--tune", "all"] if unet == "tuned" else []
        if subprocess.run(words).returncode:
            raise StopStudyError(f"{CROSS_DOMAIN.name} {task} ended with an error. Call again to continue.")
    results = {task: read(source, task) for task in TASKS}
    write(results, [part_of(task, column, results[task]) for column, task in DRAWN.items()], page)


def read(folder: Path, task: str) -> dict[str, dict[str, Any]]:
    """The results of a task for each kind of U-Net that was run."""
    files = {unet: folder / f"{page_name(task, unet)}.json" for unet in UNETS}
    results = {unet: json.loads(file.read_text(encoding="utf-8")) for unet, file in files.items() if file.exists()}
    if not results:
        raise StopStudyError(
            f"{files['frozen']} does not exist. Run without --report to make it, or give its folder: --from."
        )
    return results


def part_of(task: str, ours: str, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One column of the results in the form that `shared.bars` draws, in per cent."""
    unets: dict[str, dict[str, Any]] = {unet: {} for unet in results}
    for unet, result in results.items():
        for row, columns in result["rows"].items():
            if ours in columns:
                cell = columns[ours]
                numbers = {key: 100 * cell[key] for key in cell if key != "seeds" and cell[key] is not None}
                unets[unet][row] = {"per cent": numbers}
    return {"title": f"{TASKS[task]}, {ours}", "reference": NULL, "paper": {}, "unets": unets}


def write(results: dict[str, dict[str, dict[str, Any]]], parts: list[dict[str, Any]], page: Path) -> None:
    text = ["# Tables 4 and 5: other domains", opening("domains"), found("python examples/study/domains.py")]
    text += [opening("modifiers"), opening("domains-verdicts")]
    for task, by_unet in results.items():
        for unet, result in by_unet.items():
            text += section(task, unet, result)
    page.parent.mkdir(parents=True, exist_ok=True)
    draw_bars(parts, "per cent", page.with_suffix(".png"), sign=1)
    text.append(
        f"![Bars: night mIoU, watercolor AP and comic AP of the rows of the tables, in per cent]({page.name}.png)"
    )
    summary = {}
    for task, unet in ((task, unet) for task, by_unet in results.items() for unet in by_unet):
        summary[task if unet == "frozen" else f"{task}, tuned"] = results[task][unet]
    command = "python examples/study/domains.py"
    command += " --unet frozen" * all(list(by_unet) == ["frozen"] for by_unet in results.values())
    write_page(page, text, {"command": command, **summary})


def section(task: str, unet: str, result: dict[str, Any]) -> list[str]:
    """One table with its command, and a comparison with the paper's."""
    columns = list(dict.fromkeys(verdict["ours"] for verdict in result["verdicts"]))
    headings = [heading for column in columns for heading in (column, f"{column}, minus null")]
    lines = ["| modifier | " + " | ".join(headings) + " |", "|---" * (len(headings) + 1) + "|"]
    for row, figures in result["rows"].items():
        cells = [text for column in columns for text in (
            shown(figures.get(column)), shown(figures.get(column), "difference_"))]  # fmt: skip
        lines.append(f"| {row} | {' | '.join(cells)} |")
    verdicts = [cell["verdict"] for cell in result["verdicts"]]
    counts = ", ".join(f"{word}: {verdicts.count(word)}" for word in dict.fromkeys(verdicts))
    return [
        f"## {TASKS[task]}, U-Net {unet}",
        f"Command: `{result['command']}`; {result['machine']}; {result['cpu_minutes']:.0f} minutes of CPU time.",
        "\n".join(lines),
        f"Verdicts on {len(verdicts)} differences from null: {counts}. [The page of this "
        f"table]({page_name(task, unet)}.md) also shows the paper's figures.",
    ]


if __name__ == "__main__":
    run(main)
