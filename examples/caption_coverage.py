"""How well do captions name the objects in their images? Precision and recall of class mentions, for each class.

    python examples/caption_coverage.py --captions captions/voc_val_captions.json \
        --present captions/pascal_class_names.json

Both files have the form of the paper's code, {"2007_000033": {"captions": ["…"]}}. The second contains the names of the
classes in each image. Prints a page in Markdown, and writes it with the figures (JSON) and a plot. `--nouns` needs
`pip install 'tadp[nouns]'`, and `--tokenizer` takes a folder or hub id of a CLIP tokenizer.
"""

import argparse
import json
from pathlib import Path

from mentioning.counting import BEST, NAMES, alignments, count_tokens, figures, find_nouns
from mentioning.page import markdown
from mentioning.plot import draw

from tadp.language.class_names import VOC_CLASSES
from tadp.language.matching import mentions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True, help="JSON file of captions")
    parser.add_argument("--present", type=Path, required=True, help="JSON file with the classes in each image")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/results/caption-coverage"),
        help="path of the page and the figures, without suffix",
    )
    parser.add_argument("--plot", type=Path, default=Path("docs/images/caption-coverage.png"), help="path of the plot")
    parser.add_argument("--nouns", action="store_true", help="also evaluate only the nouns of the captions")
    parser.add_argument("--tokenizer", help="also count CLIP tokens, with the tokenizer in this folder or hub id")
    options = parser.parse_args()

    captions, present = read(options.captions, options.present)
    nouns = find_nouns(captions) if options.nouns else None
    results = alignments(captions, present, nouns)
    tokens = None if options.tokenizer is None else count_tokens(captions, options.tokenizer)
    page = markdown(options, captions, results, tokens=tokens, nouns=nouns)
    print(page)
    for path in (options.out, options.plot):
        path.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(page, encoding="utf-8")
    options.out.with_suffix(".json").write_text(json.dumps(figures(results, tokens), indent=1, allow_nan=False) + "\n")
    draw(results[NAMES], results[BEST], options.plot)


def read(caption_file: Path, present_file: Path) -> tuple[list[str], list[set[str]]]:
    """Read the captions, and the classes in their images."""
    captions, names = (json.loads(path.read_text(encoding="utf-8")) for path in (caption_file, present_file))
    if missing := [name for name in captions if name not in names]:
        raise SystemExit(f"{present_file} lacks {len(missing)} of the {len(captions)} images, {missing[0]} first.")
    present = [{mention.name for mention in mentions(names[name]["captions"][0], VOC_CLASSES)} for name in captions]
    return [entry["captions"][0] for entry in captions.values()], present


if __name__ == "__main__":
    main()
