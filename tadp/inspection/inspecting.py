"""Inspect the data set in a folder."""

import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tadp import datasets
from tadp.datasets.readers.image_folder import FolderDataset
from tadp.datasets.readers.label_problems import LabelProblem, collected_problems
from tadp.datasets.readers.labelled_objects import ObjectDataset
from tadp.datasets.readers.mask_contents import contents_of, labels_advice, palette_advice
from tadp.datasets.readers.paired_folders import pictures
from tadp.datasets.readers.splitting import Group
from tadp.datasets.readers.voc_folder import VOCFolder
from tadp.datasets.sample import IGNORE_LABEL
from tadp.errors import DatasetError
from tadp.files.atomic import remove_leftovers, replace_file
from tadp.files.checks import check_whole
from tadp.files.progress import tracked
from tadp.files.run_lock import one_run_per_output
from tadp.inspection import findings
from tadp.inspection.contact_sheet import contact_sheet, examples
from tadp.inspection.facts_cache import FactsCache
from tadp.inspection.image_facts import ImageFacts, measure
from tadp.inspection.inspection_report import ClassCount, Finding, Inspection

_UNNAMED = [f"value {value}" for value in range(IGNORE_LABEL)]  # classes whose names are not known

_UNNAMED_FINDING = Finding(
    "no class names",
    "The labels do not say how their classes are called.",
    "Pass class_names=[…], one name per value from 0 (--class-names road,car). If a value of masks "
    "means no class, such as 11, pass labels={11: 255} (--labels 11=255).",
)


@one_run_per_output
def inspect(
    folder: str | Path,
    *,
    output: str | Path | None = None,
    quick: bool = False,
    fraction: float = 0.2,
    group: Group | None = None,
    split_seed: int = 0,
    lists: Mapping[str, str | Path | Sequence[str]] | None = None,
    folders: Mapping[str, str] | None = None,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    sheet_images: int = 8,
    show_progress: bool = False,
    **options: Any,
) -> Inspection:
    """Inspect the data set in a folder: its layout, sizes, classes and split, and everything that is wrong with it.

    Every image and its labels are read once. What is wrong with one of them becomes a finding and never ends the
    inspection. Measured values are kept for the next time, as long as path, size and time of change of a file are the
    same.

    Args:
        folder: The folder, or its main file, in one of the layouts that `tadp.datasets.open` recognises.
        output: A folder in which to write sheet.png, which shows images with their labels, and inspection.json; None,
            the default, writes nothing.
        quick: Whether to read only label files and the headers of images and masks. Pixels of masks, depth, damaged
            images and copies are then not looked at.
        fraction: The share of images to hold out in a split that is drawn; 0.2 by default. This and the next four
            arguments are those of `tadp.datasets.split`.
        group: The images that stay in one part of a split that is drawn; None, the default, draws each on its own.
        split_seed: Seed of the draw; 0 by default.
        lists: The images of each part; None, the default, takes the data's own split or draws one.
        folders: The folder of each part; None, the default, takes the data's own split or draws one.
        cache_dir: The folder for what was measured; None, the default, is huggingface_hub's folder for files of other
            libraries, `$HF_ASSETS_CACHE`, or else `$HF_HOME/assets`. If it cannot be written, nothing is kept.
        workers: Number of threads that read images; None, the default, is the number of CPUs.
        sheet_images: Number of images on the sheet, 1 or more; 8 by default. They show as many classes as possible.
        show_progress: Whether to show a bar on a terminal, and a line per minute elsewhere; False by default.
        **options: Arguments of the reader, such as `class_names` or `labels`; see `tadp.datasets.open`.

    Returns:
        What was found. Printing it prints a report.

    Raises:
        DatasetError: If the layout is not known, or no image has labels.
        MissingDataError: If there is no such folder.
        OutputError: If `output` cannot be written, or another run is writing to it.
    """
    check_whole(sheet_images, name="sheet_images", unit="image")
    how = {"fraction": fraction, "group": group, "seed": split_seed, "lists": lists, "folders": folders}
    opened = _open(Path(folder), how, options)
    data = opened.data
    kept = FactsCache(json.dumps([str(Path(folder).resolve()), options, data.class_names], default=str), cache_dir)
    workers = check_whole(os.cpu_count() or 1 if workers is None else workers, name="workers", unit="thread")
    facts = _measured(data, None if quick else kept, workers, show_progress=show_progress)
    classes = {image_id: _classes_in(data, image_id, facts[image_id]) for image_id in data.image_ids}
    counts = [] if data.tasks == ("depth",) else _counts(data, facts, classes, quick=quick)
    depth_m = findings.median_depth(facts)
    is_passed = lists is not None or folders is not None
    has_own = {"train", "val"} <= data.splits.keys() and not is_passed
    inspection = Inspection(
        folder=str(folder),
        layout=type(data).__name__,
        tasks=data.tasks,
        images=len(data),
        sizes=findings.count_sizes(facts),
        splits={name: len(ids) for name, ids in opened.parts.items()},
        has_own_split=has_own,
        is_drawn=not has_own and not is_passed,
        classes=tuple(counts),
        unlabelled=_unlabelled(facts),
        depth_m=depth_m,
        findings=(
            *opened.findings,
            *findings.of_files(
                facts, opened.problems, options, data=data, mask_advice=_mask_advice(data, facts, options)
            ),
            *findings.of_masks(facts),
            *([] if quick or "depth" not in data.tasks else findings.of_depth(facts, depth_m)),
            *([] if opened.is_unnamed else findings.of_classes(counts, classes, opened.parts)),
            *findings.of_copies(facts, opened.parts, has_own_split=has_own),
            *findings.found("unused image", _unused(Path(folder), data, opened.problems)),
            *findings.found("note", opened.notes),
        ),
        quick=quick,
        cache=None if quick or kept.path is None else str(kept.path),
    )
    if output is not None:
        sound = {image_id: classes[image_id] for image_id in classes if facts[image_id].fault is None}
        _write(inspection, Path(output), data, examples(sound, sheet_images))
    return inspection


@dataclass(frozen=True)
class _Opened:
    """A data set whose labels are read as far as they are right, its split, and what is wrong."""

    data: FolderDataset
    parts: Mapping[str, Sequence[str]]
    problems: Sequence[LabelProblem]
    notes: Sequence[str]
    findings: Sequence[Finding]
    is_unnamed: bool


def _open(folder: Path, how: dict[str, Any], options: Mapping[str, Any]) -> _Opened:
    own: list[Finding] = []
    with warnings.catch_warnings(record=True) as caught, collected_problems() as problems:
        warnings.simplefilter("always")
        is_unnamed = False
        try:
            data = datasets.open(folder, **options)
        except DatasetError as error:
            if error.option not in ("class_names", "palette") or error.option in options:
                if problems and error.option is None:  # because of which nothing is left
                    first = f"{len(problems)} problems, the first of them: {problems[0].text}"
                    raise DatasetError(f"{error} {first}") from error
                raise
            is_unnamed = True
            data = datasets.open(folder, **{**options, "class_names": _UNNAMED})
            if isinstance(data, VOCFolder):  # whose value 0 is background
                data = datasets.open(folder, **{**options, "class_names": ["background", *_UNNAMED[1:]]})
            own.append(_UNNAMED_FINDING)
            masks = [path for path in data.label_paths.values() if path is not None]
            advice = palette_advice(masks)
            if advice:
                own[-1] = replace(own[-1], text="Nothing says which classes the colours in masks mean.", advice=advice)
                palette = {color: color for color, _ in contents_of(masks)[0].most_common(IGNORE_LABEL - 1)}
                data = datasets.open(folder, palette=palette, **options)
        try:
            parts = {name: part.image_ids for name, part in datasets.split(data, **how).items()}
        except DatasetError as error:
            parts = data.splits
            own += findings.found("wrong split", [str(error)])
    notes = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    return _Opened(data, parts, list(dict.fromkeys(problems)), list(dict.fromkeys(notes)), own, is_unnamed)


def _measured(
    data: FolderDataset, kept: FactsCache | None, workers: int, *, show_progress: bool
) -> dict[str, ImageFacts]:
    """The facts of each image by its id. If this is interrupted, those that are there are kept for the next time."""
    images, labels = data.image_paths, data.label_paths
    ids = data.image_ids
    facts: dict[str, ImageFacts] = {}

    def fact(number: int) -> ImageFacts:
        image, label = images[ids[number]], labels[ids[number]]
        stored = None if kept is None else kept.get(image, label)
        return stored or measure(data, number, image, label, quick=kept is None)

    with _quiet(), ThreadPoolExecutor(workers) as pool:
        try:
            measured = tracked(
                pool.map(fact, range(len(ids))), len(ids), what="inspecting", unit="image", is_shown=show_progress
            )
            for image_id, found in zip(ids, measured, strict=True):
                facts[image_id] = found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if kept is not None:
                kept.write({(images[image_id], labels[image_id]): found for image_id, found in facts.items()})
    return facts


@contextmanager
def _quiet() -> Iterator[None]:
    """Readers warn of single masks, which the findings count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _mask_advice(data: FolderDataset, facts: Mapping[str, ImageFacts], options: Mapping[str, Any]) -> str:
    """The option that makes wrong colours or values of masks classes, in a sentence; "" if there is none."""
    paths = data.label_paths
    wrong = [path for key, found in facts.items() if found.fault == "wrong label" and (path := paths[key]) is not None]
    if "segmentation" not in data.tasks or not wrong or {"labels", "palette"} & options.keys():
        return ""
    if advice := palette_advice(wrong, data.class_names):
        return advice
    advice = labels_advice(list(contents_of(wrong)[1]), data.class_names)
    colors = palette_advice(wrong, data.class_names, by_palette=True)
    return f"{advice} If the colours of the masks' palettes say the class: {colors}".strip() if colors else advice


def _classes_in(data: FolderDataset, image_id: str, facts: ImageFacts) -> set[str]:
    labelled = set(data.box_names_in(image_id)) if isinstance(data, ObjectDataset) else set()
    return labelled | {data.class_names[label] for label in facts.pixels if label != IGNORE_LABEL}


def _counts(
    data: FolderDataset, facts: Mapping[str, ImageFacts], classes: Mapping[str, set[str]], *, quick: bool
) -> list[ClassCount]:
    """How often each class occurs. Of classes without names, only values that occur are listed."""
    has_masks = "segmentation" in data.tasks
    boxes = Counter[str]()
    box_names: Sequence[str] = ()
    if isinstance(data, ObjectDataset) and "detection" in data.tasks:
        box_names = data.box_class_names
        boxes.update(name for image_id in data.image_ids for name in data.box_names_in(image_id))
    pixels = Counter[int]()
    for measured in facts.values():
        pixels.update({label: count for label, count in measured.pixels.items() if label != IGNORE_LABEL})
    return [
        ClassCount(
            name,
            sum(name in labelled for labelled in classes.values()) if name in box_names or not quick else None,
            boxes[name] if name in box_names else None,
            pixels[label] / max(pixels.total(), 1) if has_masks and not quick else None,
        )
        for label, name in enumerate(data.class_names if has_masks else box_names)
        if pixels[label] or boxes[name] or _UNNAMED[-1] not in data.class_names
    ]


def _unlabelled(facts: Mapping[str, ImageFacts]) -> float | None:
    """The share of pixels without class."""
    total = sum(sum(measured.pixels.values()) for measured in facts.values())
    return sum(measured.pixels.get(IGNORE_LABEL, 0) for measured in facts.values()) / total if total else None


def _unused(folder: Path, data: FolderDataset, problems: Sequence[LabelProblem]) -> list[str]:
    """The images in the folders of the data set's images that are not part of it."""
    images = set(data.image_paths.values())
    used = {str(path) for path in (*images, *data.label_paths.values())} | {problem.text for problem in problems}
    folders = {path.parent for path in images}
    if not folder.is_dir():
        return []
    return [str(path) for path in pictures(folder) if path.parent in folders and str(path) not in used]


def _write(inspection: Inspection, output: Path, data: FolderDataset, image_ids: Sequence[str]) -> None:
    remove_leftovers(output)
    with replace_file(output / "inspection.json") as partial:
        # A file name that is not UTF-8 becomes an escape that JSON knows.
        partial.write_text(inspection.to_json() + "\n", encoding="utf-8", errors="backslashreplace")
    with _quiet():
        drawing = contact_sheet(data, image_ids)
    if drawing is None:
        (output / "sheet.png").unlink(missing_ok=True)
        return
    with replace_file(output / "sheet.png") as partial:
        drawing.save(partial, format="PNG")
