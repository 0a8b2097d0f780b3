"""How well captions name what is in their pictures: precision and recall of class mentions, a class at a time.

    python examples/caption_coverage.py --captions captions/voc_val_captions.json \
        --present captions/pascal_class_names.json

Both files are in the form of the paper's code, {"2007_000033": {"captions": ["…"]}}; the second has the names of the
classes that are there. Prints Markdown, and writes it with the figures (JSON) and a plot. `--nouns` needs
`pip install 'tadp[nouns]'`; `--tokenizer` takes a folder or hub id of a CLIP tokenizer.
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
    parser.add_argument("--out", type=Path, default=Path("docs/results/caption-coverage"), help="less its suffix")
    parser.add_argument("--plot", type=Path, default=Path("docs/images/caption-coverage.png"))
    parser.add_argument("--nouns", action="store_true", help="also keep the nouns of the captions alone")
    parser.add_argument("--tokenizer", help="also count CLIP tokens: folder or hub id of the tokenizer")
    options = parser.parse_args()

    captions, present = read(options.captions, options.present)
    nouns = find_nouns(captions) if options.nouns else None
    found = alignments(captions, present, nouns)
    tokens = None if options.tokenizer is None else count_tokens(captions, options.tokenizer)
    page = markdown(options, captions, found, tokens=tokens, nouns=nouns)
    print(page)
    for path in (options.out, options.plot):
        path.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(page, encoding="utf-8")
    options.out.with_suffix(".json").write_text(json.dumps(figures(found, tokens), indent=1, allow_nan=False) + "\n")
    draw(found[NAMES], found[BEST], options.plot)


def read(caption_file: Path, present_file: Path) -> tuple[list[str], list[set[str]]]:
    """Captions, and the classes in their images."""
    captions, names = (json.loads(path.read_text(encoding="utf-8")) for path in (caption_file, present_file))
    if missing := [name for name in captions if name not in names]:
        raise SystemExit(f"{present_file} lacks {len(missing)} of the {len(captions)} images, {missing[0]} first.")
    there = [{one.name for one in mentions(names[name]["captions"][0], VOC_CLASSES)} for name in captions]
    return [entry["captions"][0] for entry in captions.values()], there


if __name__ == "__main__":
    main()
