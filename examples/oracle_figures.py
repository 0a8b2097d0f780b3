"""The precision and recall that the oracle of Eq. 5 reaches over a data set, compared with the requested ones.

    python examples/oracle_figures.py --scenes 2000

The data set consists of rendered scenes, of which no picture is drawn. Prints and writes a Markdown page with one row
for each precision and recall in the paper's Table S2, with the mean and the worst figure over seeds.
"""

import argparse
from pathlib import Path

import numpy as np

from tadp.datasets.scenes import CLASSES, sample_layout
from tadp.prompts import agreement, oracle_classes

FIGURES = (0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2000, help="number of scenes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=5, help="number of seeds of the oracle (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/oracle.md"), help="path of the page (default: %(default)s)"
    )
    options = parser.parse_args()

    present = scenes(options.scenes, options.seed)
    page = markdown(options, present)
    print(page, end="")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")


def scenes(count: int, seed: int) -> list[list[str]]:
    """The classes in each scene."""
    layouts = (sample_layout(np.random.default_rng((seed, number))) for number in range(count))
    return [sorted({instance.name for instance in layout.objects}) for layout in layouts]


def markdown(options: argparse.Namespace, present: list[list[str]]) -> str:
    pairs = sum(map(len, present))
    lines = [
        "# Precision and recall of the oracle",
        "",
        "An [oracle](../concepts.md#glossary) is a prompt that names exactly the classes in an image. The paper also "
        "makes oracles with mistakes on purpose. *Precision* is the share of the named classes that the images show; "
        "below 1, some names are false. *Recall* is the share of the classes in the images that are named; below 1, "
        "some names are missing. Does tadp's oracle reach the precision and recall that are requested?",
        "",
        f"Command: `python examples/oracle_figures.py --scenes {options.scenes} --seed {options.seed} "
        f"--draws {options.draws}`; {len(present):,} rendered scenes, which show {pairs:,} pairs of scene and class. "
        f"There are {len(CLASSES)} classes.",
        "",
        f"- *Realised* precision and recall are means over {options.draws} random draws of the mistakes, counted over "
        "all scenes together (`tadp.prompts.agreement`).",
        "- *Largest difference* is the largest difference between a requested and a realised figure in any draw.",
        "- *Empty prompts* is the share of scenes whose names were all left out, and which got no false name.",
        "",
        "| requested precision | requested recall | realised precision | realised recall | largest difference | empty "
        "prompts |",
        "|---|---|---|---|---|---|",
    ]
    for precision in FIGURES:
        for recall in FIGURES:
            lines.append(row(present, precision, recall, options.draws))
    lines += [
        "",
        "Over many images, the requested precision and recall are met. Over few images this is not possible, because "
        "only whole names are left out or added: with a single image of one class, recall is 0 or 1.",
    ]
    return "\n".join(lines) + "\n"


def row(present: list[list[str]], precision: float, recall: float, draws: int) -> str:
    draw = [oracle_classes(present, CLASSES, precision=precision, recall=recall, seed=seed) for seed in range(draws)]
    results = [agreement(named, present) for named in draw]
    realised = [float(np.mean([getattr(result, name) for result in results])) for name in ("precision", "recall")]
    largest = max(max(abs(result.precision - precision), abs(result.recall - recall)) for result in results)
    empty = np.mean([not names for named in draw for names in named])
    return f"| {precision:.2f} | {recall:.2f} | {realised[0]:.4f} | {realised[1]:.4f} | {largest:.4f} | {empty:.1%} |"


if __name__ == "__main__":
    main()
