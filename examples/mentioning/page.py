"""The page of caption coverage: overall figures, figures for each class, and facts about the captions."""

import argparse
import math
import os
import statistics
from pathlib import Path

from mentioning.counting import BEST, MEASURES, NAMES, ORACLE, noun_share
from tadp.language.repetition import is_looping
from tadp.metrics import Agreement, CaptionAlignment

SOURCES = {
    "voc_val_captions.json": "The captions are those that the paper's authors made with BLIP-2 for the validation "
    "images of Pascal VOC."
}


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
        "How often do captions name the objects in their image, and how often do they name an object that is not "
        "there? "
        "*Precision* is the share of the mentioned classes that the image shows. *Recall* is the share of the classes "
        "in the images that the captions mention. For both, higher is better.",
        "",
        f"Command: `python examples/caption_coverage.py {files}{flags}`; {len(captions):,} images, which show "
        f"{best.overall.present:,} pairs of image and class. "
        + SOURCES.get(options.captions.name, "")
        + " DIR is a folder with CLIP's tokenizer." * (options.tokenizer is not None),
        "",
        f"![Precision and recall of each class]({Path(os.path.relpath(options.plot, options.out.parent)).as_posix()})",
        "",
        "The table compares several ways to count mentions. Each row changes one rule of the row before. Plurals "
        "always count.",
        "",
        "- *Names*: only the names in the class list count (airplane, sofa, television …).",
        "- *Names and synonyms*: other words for a class count, too (man for person, couch for sofa).",
        "- *Without look-alikes*: phrases that contain a name but mean something else do not count (a coffee table, a "
        "train station). Synonyms and look-alikes are listed in `tadp.language.class_names`.",
        "- *Only nouns*: a word counts only if it is a noun.",
        "",
        "Precision and recall are over all mentions in all images. The *macro* figures are means over classes. In the "
        "plot above, hollow dots count names, and filled dots count names and synonyms without look-alikes. Its dotted "
        "lines are the figures of the paper that are quoted below.",
        "",
        "| counted as a mention | precision | recall | macro precision | macro recall |",
        "|---|---|---|---|---|",
    ]
    for way, alignment in results.items():
        lines.append(f"| {way} | {' | '.join(share(getattr(alignment, measure)) for measure in MEASURES)} |")
    lines += [
        "",
        *reading(names, best),
        "",
        "For each class, the next table gives the number of images that show it. Precision and recall are given for "
        "the names only, and for names and synonyms without look-alikes. *None* means that no caption contains the "
        "name, so its precision is undefined.",
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
        lines += ["", f"Of all nouns in the captions, a share of {share(noun_share(nouns))} name one of the classes."]
    if tokens is not None:
        exceeding = f"{tokens['over_77']} captions exceed" if tokens["over_77"] else "no caption exceeds"
        lines += [
            "",
            f"CLIP tokens per caption, including start and end: {tokens['mean']:.1f} on average, {tokens['max']} at "
            f"most; {exceeding} the text encoder's 77.",
        ]
    return "\n".join(lines) + "\n"


def reading(names: CaptionAlignment, best: CaptionAlignment) -> list[str]:
    """The paper's sentence, and how these captions compare."""
    return [
        'The paper writes about another data set, ADE20K: "BLIP-2 captioning performs similarly to a precision of 1.00 '
        'and a recall of 0.5" (Sec. 4.2). The paper infers this from the mIoU of a model, which is about the same with '
        "captions as with an [oracle](../concepts.md#glossary) from whose prompt half of the names were left out, so "
        "that its recall is 0.5. We counted:",
        "",
        f"- only names: precision {share(names.precision)} and recall {share(names.recall)}; {agrees(names.overall)};",
        f"- with synonyms, without look-alikes: precision {share(best.precision)} and recall {share(best.recall)}; "
        f"{agrees(best.overall)}.",
        "",
        'Which of the two counts says more about a model depends on whether the model relates "man" to the class '
        "person. This page does not measure that.",
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
        f"If synonyms count and look-alikes do not, a share of {share(whole / len(pairs))} of the captions name every "
        f"class in their image, and a share of {share(none / len(pairs))} name none of these classes. Captions have "
        f"{statistics.mean(len(c.split()) for c in captions):.1f} words on average. {len(loops)} captions repeat "
        f"themselves (`tadp.language.repetition`){example}."
    ]


def share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.3f}"


def by_recall(best: CaptionAlignment) -> list[str]:
    """The classes that occur, in descending order of recall."""
    occurring = [name for name, counts in best.classes.items() if counts.present]
    return sorted(occurring, key=lambda name: -best.classes[name].recall)
