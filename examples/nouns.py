"""How often do textblob's and NLTK's taggers find the same nouns in captions?

    python examples/nouns.py captions/*_captions.json --out docs/results/nouns.md

Each file has the form of the paper's code, {"2007_000033": {"captions": ["…"]}}. Needs `pip install 'tadp[nouns]'` and
NLTK's data: `python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng`.
"""

import argparse
import json
from pathlib import Path

from tadp import prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", nargs="+", type=Path, help="JSON files of captions")
    parser.add_argument("--out", type=Path, help="path of the page in Markdown; by default it is only printed")
    options = parser.parse_args()
    page = markdown(options.captions)
    print(page)
    if options.out:
        options.out.write_text(page, encoding="utf-8")


def markdown(files: list[Path]) -> str:
    """The page: one row per file of captions."""
    names = " ".join(f"captions/{file.name}" for file in files)
    lines = [
        "# Two taggers for nouns",
        "",
        "`tadp.prompts.nouns` finds the nouns of captions with textblob's `PatternTagger`, which needs no download.",
        'The paper used NLTK\'s perceptron tagger, which the argument `tagger="nltk"` selects. This page counts how',
        "often the two taggers agree on captions that the paper's authors made with BLIP-2; shares are from 0 to 1.",
        'With NLTK, proper nouns such as "Paris" are left out; with textblob, they are kept.',
        "",
        f"Command: `python examples/nouns.py {names} --out docs/results/nouns.md`",
        "",
        "- **captions**: captions of the validation images of Pascal VOC (voc_val), and of images of Watercolor2k",
        "  (watercolor) and Comic2k (comic), from the paper's released code.",
        "- **same nouns**: the share of captions for which both taggers return the same nouns in the same order.",
        "- **NLTK's found by textblob**: the share of NLTK's nouns that textblob found in the same caption.",
        "- **textblob's found by NLTK**: the share of textblob's nouns that NLTK found in the same caption.",
        "",
        "| captions | number of captions | same nouns | NLTK's found by textblob | textblob's found by NLTK |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(row, files)]) + "\n"


def row(file: Path) -> str:
    """The row of one file of captions."""
    entries = json.loads(file.read_text(encoding="utf-8"))
    captions = [entry["captions"][0] for entry in entries.values()]
    by_textblob = prompts.nouns(captions)
    by_nltk = prompts.nouns(captions, tagger="nltk")
    pairs = [(set(ours.split()), set(paper.split())) for ours, paper in zip(by_textblob, by_nltk, strict=True)]
    same = sum(ours == paper for ours, paper in zip(by_textblob, by_nltk, strict=True)) / len(captions)
    common = sum(len(ours & paper) for ours, paper in pairs)
    recall = common / sum(len(paper) for _, paper in pairs)
    confirmed = common / sum(len(ours) for ours, _ in pairs)
    return (
        f"| {file.stem.removesuffix('_captions')} | {len(captions):,} | {same:.3f} | {recall:.3f} | {confirmed:.3f} |"
    )


if __name__ == "__main__":
    main()
