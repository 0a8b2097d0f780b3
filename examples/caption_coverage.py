"""How well captions name what is in their pictures: precision and recall of class mentions, a class at a time.

    python examples/caption_coverage.py --captions captions/voc_val_captions.json \
        --present captions/pascal_class_names.json

Both files are in the form of the paper's code, {"2007_000033": {"captions": ["…"]}}; the second has the names of the
classes that are there. Prints Markdown, and writes it with the figures (JSON) and a plot. `--nouns` needs
`pip install 'tadp[nouns]'`; `--tokenizer` takes a folder or hub id of a CLIP tokenizer.
"""

import argparse
import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

from tadp.datasets.class_names import VOC_CLASSES, VOC_DECOYS, VOC_SYNONYMS
from tadp.looping import is_looping
from tadp.metrics import Agreement, CaptionAlignment, caption_alignment
from tadp.words import mentions

NAMES, WORDS, BEST, NOUNS = "names", "names and synonyms", "the same, less look-alikes", "the same, nouns alone"
ORACLE = (1.0, 0.5)  # precision and recall of the oracle that BLIP-2 performs like (TADP Sec. 4.2)
MEASURES = ("precision", "recall", "macro_precision", "macro_recall")
INK, PALE, MARK = "#1f4e79", "#9db8d2", "#b5533c"


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


def alignments(captions: list[str], present: list[set[str]], nouns: list[str] | None) -> dict[str, CaptionAlignment]:
    """What is found by the names alone, then with the tables."""
    full: dict[str, Any] = {"synonyms": VOC_SYNONYMS, "decoys": VOC_DECOYS}
    ways = [(NAMES, captions, {}), (WORDS, captions, {"synonyms": VOC_SYNONYMS}), (BEST, captions, full)]
    if nouns is not None:
        ways.append((NOUNS, nouns, full))
    return {way: caption_alignment(texts, present, classes=VOC_CLASSES, **tables) for way, texts, tables in ways}


def find_nouns(captions: list[str]) -> list[str]:
    from tadp import prompts

    return prompts.nouns(captions)


def noun_share(nouns: list[str]) -> float:
    """Share of the captions' nouns that name a class."""
    found = [
        nouns[number][one.start : one.stop]
        for number in range(len(nouns))
        for one in mentions(nouns[number], (*VOC_CLASSES, *VOC_DECOYS), synonyms=VOC_SYNONYMS)
        if one.name in VOC_CLASSES
    ]
    return sum(len(text.split()) for text in found) / sum(len(text.split()) for text in nouns)


def count_tokens(captions: list[str], name: str) -> dict[str, float]:
    """CLIP tokens, start and end included."""
    from transformers import CLIPTokenizer

    counts = [len(ids) for ids in CLIPTokenizer.from_pretrained(name)(captions, verbose=False)["input_ids"]]
    return {"mean": statistics.mean(counts), "max": max(counts), "over_77": sum(count > 77 for count in counts)}


def figures(found: dict[str, CaptionAlignment], tokens: dict[str, float] | None) -> dict[str, Any]:
    rows = {
        way: {
            **{what: known(getattr(one, what)) for what in MEASURES},
            "classes": {name: vars(counts) for name, counts in one.classes.items()},
        }
        for way, one in found.items()
    }
    return {"images": len(found[NAMES].present), "alignment": rows, "tokens": tokens}


def markdown(
    options: argparse.Namespace,
    captions: list[str],
    found: dict[str, CaptionAlignment],
    *,
    tokens: dict[str, float] | None,
    nouns: list[str] | None,
) -> str:
    """The page: overall, a class at a time, and what else there is to know of the captions."""
    flags = " --nouns" * options.nouns + " --tokenizer DIR" * (options.tokenizer is not None)
    files = f"--captions captions/{options.captions.name} --present captions/{options.present.name}"
    names, best = found[NAMES], found[BEST]
    lines = [
        "# How well real captions name what is in their pictures",
        "",
        f"Command: `python examples/caption_coverage.py {files}{flags}`; {len(captions):,} images, "
        f"{best.overall.present:,} pairs of an image and a class in it.",
        "",
        f"![Precision and recall of each class]({Path(os.path.relpath(options.plot, options.out.parent)).as_posix()})",
        "",
        "| counted as a mention | precision | recall | macro precision | macro recall |",
        "|---|---|---|---|---|",
    ]
    for way, one in found.items():
        lines.append(f"| {way} | {' | '.join(share(getattr(one, what)) for what in MEASURES)} |")
    lines += [
        "",
        "Plurals always count. Precision and recall are over all mentions and all classes in all images; macro is the "
        "mean over classes. Names are those of the class list (airplane, sofa, television …); synonyms and look-alikes "
        "(a coffee table, a train station) are in `tadp.datasets.class_names`.",
        "",
        *reading(names, best),
        "",
        "| class | images | precision, names | recall, names | precision, synonyms | recall, synonyms |",
        "|---|---|---|---|---|---|",
    ]
    for name in by_recall(best):
        left, right = names.classes[name], best.classes[name]
        numbers = (left.precision, left.recall, right.precision, right.recall)
        lines.append(f"| {name} | {right.present} | {' | '.join(map(share, numbers))} |")
    lines += ["", *captions_themselves(captions, best)]
    if nouns is not None:
        lines += ["", f"Of the captions' nouns, {share(noun_share(nouns))} name one of the classes."]
    if tokens is not None:
        lines += [
            "",
            f"CLIP tokens a caption, start and end included: {tokens['mean']:.1f} on average, {tokens['max']} at most; "
            f"{tokens['over_77']} captions are over the text encoder's 77.",
        ]
    return "\n".join(lines) + "\n"


def reading(names: CaptionAlignment, best: CaptionAlignment) -> list[str]:
    """The paper's sentence, and what these captions say to it."""
    return [
        'The paper writes, of ADE20K: "BLIP-2 captioning performs similarly to a precision of 1.00 and a recall of '
        "0.5\" (Sec. 4.2). It compares a model's mIoU under captions with its mIoU under an oracle of that quality; it "
        "counts no mentions, and ADE20K has 150 classes. These captions, counted:",
        "",
        f"- with names alone, precision {share(names.precision)} and recall {share(names.recall)}: "
        f"{agrees(names.overall)};",
        f"- with synonyms, less look-alikes, precision {share(best.precision)} and recall {share(best.recall)}: "
        f"{agrees(best.overall)}.",
        "",
        'Which count is the right one depends on what a model makes of "man" where the class is person; this page does '
        "not measure it.",
    ]


def agrees(overall: Agreement, margin: float = 0.1) -> str:
    """Whether the figures are within a margin of the paper's, in words."""
    close = [abs(a - b) <= margin for a, b in zip((overall.precision, overall.recall), ORACLE, strict=True)]
    if all(close):
        return f"both within {margin} of the paper's figures"
    if not any(close):
        return f"neither within {margin} of the paper's figures"
    right, wrong = ("precision", "recall") if close[0] else ("recall", "precision")
    return f"{right} is within {margin} of the paper's figure, {wrong} is not"


def captions_themselves(captions: list[str], best: CaptionAlignment) -> list[str]:
    pairs = list(zip(map(set, best.mentioned), map(set, best.present), strict=True))
    whole = sum(there <= said for said, there in pairs)
    none = sum(bool(there) and not there & said for said, there in pairs)
    loops = [caption for caption in captions if is_looping(caption)]
    example = f', such as "{loops[0]}"' if loops else ""
    return [
        f"With synonyms, {share(whole / len(pairs))} of the captions name every class in their image, "
        f"{share(none / len(pairs))} none. Words a caption: {statistics.mean(len(c.split()) for c in captions):.1f}. "
        f"Captions that go round in circles (`tadp.looping`): {len(loops)}{example}."
    ]


def known(value: float) -> float | None:
    return None if math.isnan(value) else value


def share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"


def by_recall(best: CaptionAlignment) -> list[str]:
    """Classes that are there, the most recalled first."""
    there = [name for name, counts in best.classes.items() if counts.present]
    return sorted(there, key=lambda name: -best.classes[name].recall)


def draw(names: CaptionAlignment, best: CaptionAlignment, path: Path) -> None:
    """Two panels, a row a class: hollow dots for names alone, full ones with synonyms."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    classes = by_recall(best)[::-1]  # from the bottom up
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(9, 0.29 * len(classes) + 1.6), layout="constrained")
    for panel, what, oracle in zip(panels, ("recall", "precision"), ORACLE[::-1], strict=True):
        for row, name in enumerate(classes):
            left, right = getattr(names.classes[name], what), getattr(best.classes[name], what)
            panel.plot([left, right], [row, row], color=PALE, linewidth=2, zorder=2)
            panel.plot(left, row, "o", markerfacecolor="white", markeredgecolor=INK, markersize=6, zorder=3)
            panel.plot(right, row, "o", color=INK, markersize=6, zorder=4)
        panel.axvline(oracle, color=MARK, linestyle=":", linewidth=1.5, zorder=1)
        overall = f"{getattr(names, what):.2f} by names, {getattr(best, what):.2f} with synonyms"
        panel.set_title(f"{what}: {overall}", fontsize=10)
        panel.set_xlim(-0.03, 1.03)
        panel.grid(axis="x", color="#e4e4e4", zorder=0)
        panel.tick_params(length=0)
        panel.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_yticks(range(len(classes)), [f"{name}  ({best.classes[name].present})" for name in classes])
    panels[0].set_ylim(-0.6, len(classes) - 0.4)
    panels[0].text(-0.02, 1.0, "class (images)", transform=panels[0].transAxes, ha="right", va="bottom", fontsize=9)
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", markerfacecolor="white", markeredgecolor=INK),
        plt.Line2D([], [], marker="o", linestyle="", color=INK),
        plt.Line2D([], [], linestyle=":", color=MARK),
    ]
    labels = ["names alone", "with synonyms", "oracle that BLIP-2 performs like (paper, ADE20K)"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
