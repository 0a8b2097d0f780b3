"""The page: overall, a class at a time, and what else there is to know of the captions."""

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
        "(a coffee table, a train station) are in `tadp.language.class_names`.",
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
        f"Captions that go round in circles (`tadp.language.repetition`): {len(loops)}{example}."
    ]


def share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"


def by_recall(best: CaptionAlignment) -> list[str]:
    """Classes that are there, the most recalled first."""
    there = [name for name, counts in best.classes.items() if counts.present]
    return sorted(there, key=lambda name: -best.classes[name].recall)
