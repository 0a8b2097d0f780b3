"""The page of caption coverage: overall figures, figures for each class, and facts about the captions."""

import argparse
import math
import os
import statistics
from pathlib import Path

from mentioning.counting import BEST, MEASURES, NAMES, ORACLE, noun_share
from tadp.language.repetition import is_looping
from tadp.metrics import Agreement, CaptionAlignment


def markdown(
    options: argparse.Namespace,
    captions: list[str],
    results: dict[str, CaptionAlignment],
    *,
    tokens: dict[str, float] | None,
    nouns: list[str] | None,
) -> str:
    """The text of the page."""
    flags = " --nouns" * options.nouns + " --tokenizer DIR" * (options.tokenizer is not None)
    files = f"--captions captions/{options.captions.name} --present captions/{options.present.name}"
    names, best = results[NAMES], results[BEST]
    lines = [
        "# How well real captions name the objects in their images",
        "",
        f"Command: `python examples/caption_coverage.py {files}{flags}`; {len(captions):,} images, "
        f"{best.overall.present:,} pairs of image and class.",
        "",
        f"![Precision and recall of each class]({Path(os.path.relpath(options.plot, options.out.parent)).as_posix()})",
        "",
        "| counted as a mention | precision | recall | macro precision | macro recall |",
        "|---|---|---|---|---|",
    ]
    for way, alignment in results.items():
        lines.append(f"| {way} | {' | '.join(share(getattr(alignment, measure)) for measure in MEASURES)} |")
    lines += [
        "",
        "Plurals always count. Precision and recall are over all mentions and all classes in all images; macro figures "
        "are means over classes. Names are those of the class list (airplane, sofa, television …). The synonyms and "
        "the look-alikes (a coffee table, a train station) are in `tadp.language.class_names`.",
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
            f"CLIP tokens per caption, including start and end: {tokens['mean']:.1f} on average, {tokens['max']} at "
            f"most; {tokens['over_77']} captions exceed the text encoder's 77.",
        ]
    return "\n".join(lines) + "\n"


def reading(names: CaptionAlignment, best: CaptionAlignment) -> list[str]:
    """The paper's sentence, and how these captions compare."""
    return [
        'The paper writes about ADE20K: "BLIP-2 captioning performs similarly to a precision of 1.00 and a recall of '
        "0.5\" (Sec. 4.2). It compares a model's mIoU with captions to its mIoU with an oracle of that quality. It "
        "does not count mentions, and ADE20K has 150 classes. The counts for these captions are:",
        "",
        f"- only names: precision {share(names.precision)} and recall {share(names.recall)}; {agrees(names.overall)};",
        f"- with synonyms, without look-alikes: precision {share(best.precision)} and recall {share(best.recall)}; "
        f"{agrees(best.overall)}.",
        "",
        'Which count is the right one depends on what a model makes of "man" if the class is person. This page does '
        "not measure that.",
    ]


def agrees(overall: Agreement, margin: float = 0.1) -> str:
    """Say in words whether the figures are within a margin of the paper's."""
    close = [abs(a - b) <= margin for a, b in zip((overall.precision, overall.recall), ORACLE, strict=True)]
    if all(close):
        return f"both are within {margin} of the paper's figures"
    if not any(close):
        return f"neither is within {margin} of the paper's figures"
    right, wrong = ("precision", "recall") if close[0] else ("recall", "precision")
    return f"{right} is within {margin} of the paper's figure, {wrong} is not"


def captions_themselves(captions: list[str], best: CaptionAlignment) -> list[str]:
    pairs = list(zip(map(set, best.mentioned), map(set, best.present), strict=True))
    whole = sum(present <= mentioned for mentioned, present in pairs)
    none = sum(bool(present) and not present & mentioned for mentioned, present in pairs)
    loops = [caption for caption in captions if is_looping(caption)]
    example = f', such as "{loops[0]}"' if loops else ""
    return [
        f"With synonyms, {share(whole / len(pairs))} of the captions name every class in their image, and "
        f"{share(none / len(pairs))} name none. Captions have {statistics.mean(len(c.split()) for c in captions):.1f} "
        f"words on average. Captions that repeat themselves (`tadp.language.repetition`): {len(loops)}{example}."
    ]


def share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"


def by_recall(best: CaptionAlignment) -> list[str]:
    """The classes that occur, in descending order of recall."""
    occurring = [name for name, counts in best.classes.items() if counts.present]
    return sorted(occurring, key=lambda name: -best.classes[name].recall)
