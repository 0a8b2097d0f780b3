"""Turn what was measured into findings, with what to do about each."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from tadp.datasets.readers.image_folder import FolderDataset
from tadp.datasets.readers.label_problems import LabelProblem
from tadp.datasets.readers.labelled_objects import ObjectDataset
from tadp.datasets.sample import IGNORE_LABEL
from tadp.inspection.image_facts import FINGERPRINT_BYTES, ImageFacts
from tadp.inspection.inspection_report import ClassCount, DepthRange, Finding
from tadp.language.grammar import counted

_NEAR_BITS = 6  # of 128, by which the fingerprints of nearly the same image differ at most
_LIKELY_M = (0.05, 100.0)  # medians outside are usually those of another unit
_BLOCK = 2048
_ADVICE = {
    "unreadable file": (
        "cannot be read",
        "Copy or download them again, or remove them. Training stops at such a file, unless you pass skip_broken=True "
        "(--skip-broken).",
    ),
    "label size": (
        "have another size than the image",
        "Export images and labels together. If an image has an EXIF orientation, save it upright without one. If masks "
        "of a folder only have another scale, pass resize_labels=True (--resize-labels); to leave out such images, "
        "bad_labels='skip' (--bad-labels skip).",
    ),
    "depth unit": (
        "are in an unlikely unit",
        "Pass scale=0.001 for millimetres (--scale 0.001), and invalid=… for a value that means unknown (--invalid …).",
    ),
    "wrong label": (
        "cannot be used",
        "Correct them in the labelling tool, or the list of class names. If a value of masks means unknown, "
        "pass labels={11: 255} (--labels 11=255).",
    ),
    "label outside": (
        "are outside the image or of another size",
        "Get the labels that belong to these images, or leave such labels out: bad_labels='skip' (--bad-labels skip).",
    ),
    "label without area": (
        "have no area",
        "They are left out in training. Delete them in the labelling tool, or draw them again.",
    ),
    "image without labels": (
        "have no labels",
        "Label them, or pass unpaired='skip' (--unpaired skip) to leave them out. If they show no object, pass "
        "unpaired='empty' (--unpaired empty).",
    ),
    "label without image": (
        "have no image",
        "Export the images too, or delete these labels. They are not used; if a COCO json lists them, training stops "
        "unless you pass unpaired='skip' (--unpaired skip).",
    ),
    "unused image": (
        "are next to those of the data set, but no label file or list names them",
        "Label them or add them to a list, if they should be used.",
    ),
    "similar names": (
        "differ only in case or blanks",
        "Make them one class with class_names={'Dog': 'dog'} (--class-names Dog=dog), or rename one in the labelling "
        "tool.",
    ),
    "same file name": (
        "share a name, so it is unclear which labels are whose",
        "Rename one of them, with its labels.",
    ),
    "wrong list": (
        "name images that are not there",
        "Correct the lists, or add the images. Training stops at such a list.",
    ),
    "wrong split": (
        "cannot be used",
        "Give every part at least one image, and every image one part. Training stops at such a split.",
    ),
    "note": ("by the reader", "Check whether this is what you want."),
}
_SKIPPED = {"unpaired": ("image without labels", "label without image"), "bad_labels": ("label outside",)}
_NOUNS = {
    "unreadable file": "file",
    "depth unit": "depth file",
    "image without labels": "image",
    "unused image": "image",
    "similar names": "pair of classes",
    "same file name": "pair of files",
    "wrong list": "list",
    "wrong split": "split",
    "note": "note",
}


def found(kind: str, places: Sequence[str]) -> Iterator[Finding]:
    """The finding of a kind in `_ADVICE`, if there is one.

    Example:
        >>> print(*found("wrong list", ["train.txt"]))
        1 list names images that are not there.
            train.txt
          → Correct the lists, or add the images. Training stops at such a list.
    """
    if places:
        text, advice = _ADVICE[kind]
        yield Finding(kind, f"{counted(len(places), _NOUNS.get(kind, 'label'), text)}.", advice, tuple(places))


def of_files(
    facts: Mapping[str, ImageFacts],
    problems: Sequence[LabelProblem],
    options: Mapping[str, Any],
    *,
    data: FolderDataset,
    mask_advice: str = "",
) -> Iterator[Finding]:
    """Findings about single files and labels, those that stop a training first.

    Args:
        facts: The measured values of each image.
        problems: Problems that the reader reported.
        options: The reader's options, which may already leave out what is wrong.
        data: The data set, whose reader takes the options that the advice names.
        mask_advice: The option that gives wrong values or colours of masks a meaning; "" if none is known.
    """
    by_kind: dict[str, dict[str, None]] = {}
    for measured in facts.values():
        if measured.fault is not None:
            by_kind.setdefault(measured.fault, {})[measured.message] = None
    for problem in problems:
        by_kind.setdefault(problem.kind, {})[problem.text] = None
    skipped = {kind for name, kinds in _SKIPPED.items() if options.get(name) == "skip" for kind in kinds}
    has_masks = any(measured.fault == "wrong label" for measured in facts.values())
    for kind in _ADVICE:
        for finding in found(kind, list(by_kind.get(kind, ()))):
            advice = "They are left out, as you chose." if kind in skipped else finding.advice
            if kind == "wrong label" and not has_masks:
                advice = advice.partition(" If a value of masks")[0]
            elif kind == "wrong label" and mask_advice:
                advice = mask_advice
            elif kind == "image without labels" and not isinstance(data, ObjectDataset):
                advice = advice.partition(" If they show")[0]
            elif kind == "label size" and data.tasks == ("depth",):
                advice = advice.partition(" If masks")[0]
            yield replace(finding, advice=advice)


def of_classes(
    counts: Sequence[ClassCount], classes: Mapping[str, set[str]], parts: Mapping[str, Sequence[str]]
) -> Iterator[Finding]:
    """Findings about classes that never occur, or not in a part of the split."""
    known = [row for row in counts if row.images is not None and row.name != "background"]
    if not any(classes.values()):  # there is nothing to count: each file has a finding of its own
        return
    never = [row.name for row in known if row.images == 0]
    if never:
        white = " If masks mark the class with 255, which means unknown, pass labels={255: 1} (--labels 255=1)."
        yield Finding(
            "class never occurs",
            f"{counted(len(never), 'class', plural='classes')} never {'occur' if len(never) > 1 else 'occurs'}.",
            "Leave them out of class_names (--class-names), or label images of them."
            + (white if all(row.boxes is None for row in known) else ""),
            tuple(never),
        )
    missing: dict[str, list[str]] = {}
    for name, ids in parts.items():
        seen = set().union(*(classes.get(image_id, set()) for image_id in ids))
        absent = [row.name for row in known if row.images and row.name not in seen]
        if ids and absent:  # a part without images has a finding of its own
            missing[name] = absent
    if missing:
        yield Finding(
            "class missing in a part",
            f"{counted(len(missing), 'part')} of the split {'lack' if len(missing) > 1 else 'lacks'} classes.",
            "What is missing in train cannot be learned, and what is missing in val or test cannot be measured. Move "
            "images, or draw another split with another seed.",
            tuple(f"{name}: {', '.join(absent)}" for name, absent in missing.items()),
        )


def of_masks(facts: Mapping[str, ImageFacts]) -> Iterator[Finding]:
    """Findings about masks without any labelled pixel, and about masks whose white may be a class."""
    values = set().union(*(measured.pixels for measured in facts.values()))
    white = [image_id for image_id, measured in facts.items() if IGNORE_LABEL in measured.pixels]
    if values == {0, IGNORE_LABEL}:
        yield Finding(
            "black and white masks",
            f"All masks only have the values 0 and {IGNORE_LABEL}, and {IGNORE_LABEL} means unknown, so only "
            "the first class is learned.",
            f"If white is the second class, pass labels={{{IGNORE_LABEL}: 1}} (--labels {IGNORE_LABEL}=1).",
            tuple(white),
        )
        return
    empty = [image_id for image_id, measured in facts.items() if measured.pixels.keys() == {IGNORE_LABEL}]
    if empty:
        yield Finding(
            "mask without labels",
            f"{counted(len(empty), 'mask')} {'have' if len(empty) > 1 else 'has'} no pixel with a class.",
            "Label them, or remove these images: they train nothing.",
            tuple(empty),
        )


def of_depth(facts: Mapping[str, ImageFacts], depth_m: DepthRange | None) -> Iterator[Finding]:
    """Findings about depth without a known value, and in a unit that is not metres."""
    unknown = [image_id for image_id, measured in facts.items() if measured.depth_m is None and measured.fault is None]
    if unknown:
        yield Finding(
            "depth without values",
            f"{counted(len(unknown), 'depth file', 'have no known depth')}: all values mean unknown.",
            "Check the unit and invalid=… (--invalid), or remove these images: they train nothing.",
            tuple(unknown),
        )
    if depth_m is not None and not _LIKELY_M[0] <= depth_m.median_m <= _LIKELY_M[1]:
        yield Finding(
            "depth unit",
            f"The median depth is {depth_m.median_m:.4g} m, which is unlikely.",
            "Pass scale=…, the metres of one unit in the files (--scale): 0.001 for millimetres, 0.01 for centimetres.",
        )


def of_copies(
    facts: Mapping[str, ImageFacts], parts: Mapping[str, Sequence[str]], *, has_own_split: bool
) -> Iterator[Finding]:
    """Findings about images that occur twice, or nearly."""
    part_of = {image_id: name for name, ids in parts.items() for image_id in ids}
    groups: dict[str, list[str]] = {}
    for image_id, measured in facts.items():
        if measured.digest:
            groups.setdefault(measured.digest, []).append(image_id)
    copies = [group for group in groups.values() if len(group) > 1]
    across = [group for group in copies if len({part_of.get(image_id, "") for image_id in group} - {""}) > 1]
    grouped = "Move them into one part."
    if not has_own_split and len({PurePosixPath(image_id).parent for image_id in facts}) > 1:
        grouped = "Keep such images together: pass group=… (--group folder)."
    elif not has_own_split:
        grouped = (
            "Keep such images together: pass group=…, a regular expression for the part of their names that they share "
            "(--group '^[a-z]+'), or lists=… (--lists)."
        )
    if across:
        yield Finding(
            "copies across the split",
            f"{counted(len(across), 'image')} {'are' if len(across) > 1 else 'is'} in several parts of the split.",
            f"A figure on such images measures what was learned by heart. Remove the copies, or: {grouped}",
            tuple(_listed(group, part_of) for group in across),
        )
    within = [group for group in copies if group not in across]
    if within:
        yield Finding(
            "copies",
            f"{counted(len(within), 'image')} {'occur' if len(within) > 1 else 'occurs'} twice or more.",
            "Remove the copies. If their labels differ, keep the right ones.",
            tuple(_listed(group, part_of) for group in within),
        )
    near = list(_near_pairs(facts, parts))
    if near:
        yield Finding(
            "near copies across the split",
            f"{counted(len(near), 'image')} {'look' if len(near) > 1 else 'looks'} nearly the same as one in train.",
            f"They may be neighbouring frames of a video, or scaled copies, and flatter the figures. {grouped}",
            tuple(f"{part_of[held_out]}: {held_out}, train: {trained}" for held_out, trained in near),
        )


def _near_pairs(facts: Mapping[str, ImageFacts], parts: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Each held-out image that nearly equals an image to train on, and that image; without exact copies."""
    trained, known = _signs(facts, parts.get("train", ()))
    rest = [image_id for name, ids in parts.items() if name != "train" for image_id in ids]
    held_out, signs = _signs(facts, rest)
    if not trained:
        return
    for start in range(0, len(held_out), _BLOCK):
        closest = (signs[start : start + _BLOCK] @ known.T).astype(np.int16)
        for image_id, row in zip(held_out[start:], closest, strict=False):
            match = trained[int(row.argmax())]
            if (len(known[0]) - row.max()) / 2 <= _NEAR_BITS and facts[match].digest != facts[image_id].digest:
                yield image_id, match


def _signs(facts: Mapping[str, ImageFacts], ids: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The images that have a fingerprint, and its bits as -1 and 1, whose product counts the equal ones."""
    kept = [image_id for image_id in ids if image_id in facts and facts[image_id].fingerprint]
    bits = np.array([list(bytes.fromhex(facts[image_id].fingerprint)) for image_id in kept], np.uint8)
    return kept, 2.0 * np.unpackbits(bits.reshape(len(kept), FINGERPRINT_BYTES), axis=1).astype(np.float32) - 1


def _listed(group: Sequence[str], part_of: Mapping[str, str]) -> str:
    return ", ".join(f"{part_of[image_id]}: {image_id}" if image_id in part_of else image_id for image_id in group)


def median_depth(facts: Mapping[str, ImageFacts]) -> DepthRange | None:
    """The range of depth over the images that have any; None if none has."""
    ranges = [measured.depth_m for measured in facts.values() if measured.depth_m is not None]
    if not ranges:
        return None
    lowest, medians, highest = zip(*ranges, strict=True)
    return DepthRange(min(lowest), float(np.median(medians)), max(highest))


def count_sizes(facts: Mapping[str, ImageFacts]) -> dict[str, int]:
    """Number of images of each size, the most frequent first."""
    sizes = Counter(measured.image_size for measured in facts.values() if measured.image_size is not None)
    return {f"{height}x{width}": count for (height, width), count in sizes.most_common()}
