"""What precision and recall the oracle of Eq. 5 has over a data set, beside those it was asked for.

    python examples/oracle_figures.py --scenes 2000

The data set is the rendered scenes; no picture is drawn. Prints a Markdown page and writes it: a row for each pair of
figures of the paper's Table S2, the mean and the worst over seeds.
"""

import argparse
from pathlib import Path

import numpy as np

from tadp.datasets.scenes import CLASSES, sample_layout
from tadp.prompts import agreement, oracle_classes

FIGURES = (0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2000, help="images of the data set")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    parser.add_argument("--draws", type=int, default=5, help="seeds of the oracle")
    parser.add_argument("--out", type=Path, default=Path("docs/results/oracle.md"), help="the page")
    options = parser.parse_args()

    present = scenes(options.scenes, options.seed)
    page = markdown(options, present)
    print(page, end="")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")


def scenes(count: int, seed: int) -> list[list[str]]:
    """The classes in each scene."""
    layouts = (sample_layout(np.random.default_rng((seed, number))) for number in range(count))
    return [sorted({item.name for item in layout.objects}) for layout in layouts]


def markdown(options: argparse.Namespace, present: list[list[str]]) -> str:
    pairs = sum(map(len, present))
    lines = [
        "# Precision and recall of the oracle",
        "",
        f"Command: `python examples/oracle_figures.py --scenes {options.scenes} --seed {options.seed} "
        f"--draws {options.draws}`; {len(present):,} rendered scenes, {pairs:,} pairs of a scene and a class in it, "
        f"{len(CLASSES)} classes.",
        "",
        "| asked: precision | recall | realised: precision | recall | furthest from what was asked | empty prompts |",
        "|---|---|---|---|---|---|",
    ]
    for precision in FIGURES:
        for recall in FIGURES:
            lines.append(row(present, precision, recall, options.draws))
    lines += [
        "",
        "Realised figures are means over the draws, counted by `tadp.prompts.agreement` over all scenes together; the "
        "furthest is the largest difference of either figure in any draw. Empty prompts are scenes whose classes were "
        "all dropped and that got no false one, the share over the draws. Names are whole: on few images the figures "
        "cannot be met, and one image with one class has a recall of 0 or 1.",
    ]
    return "\n".join(lines) + "\n"


def row(present: list[list[str]], precision: float, recall: float, draws: int) -> str:
    draw = [oracle_classes(present, CLASSES, precision=precision, recall=recall, seed=seed) for seed in range(draws)]
    found = [agreement(named, present) for named in draw]
    realised = [float(np.mean([getattr(one, what) for one in found])) for what in ("precision", "recall")]
    furthest = max(max(abs(one.precision - precision), abs(one.recall - recall)) for one in found)
    empty = np.mean([not names for named in draw for names in named])
    return f"| {precision:.2f} | {recall:.2f} | {realised[0]:.4f} | {realised[1]:.4f} | {furthest:.4f} | {empty:.1%} |"


if __name__ == "__main__":
    main()
