"""Pair the images in one folder with the label files of the same names in another."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

from tadp.datasets.readers.image_folder import Record, find_images
from tadp.datasets.readers.label_problems import is_collecting, keep, kept
from tadp.datasets.readers.splitting import NameIndex, find_listed, split_name
from tadp.errors import DatasetError, MissingDataError
from tadp.files.checks import check_choice
from tadp.images.image_files import SUFFIXES, is_image
from tadp.images.listing import UNREAD_SUFFIXES, summary
from tadp.language.grammar import counted
from tadp.language.unicode_forms import composed

MASK_FOLDERS = ("masks", "mask", "labels", "annotations", "gt", "SegmentationClass", "PixelLabelData")  # usual names
_LABEL_FOLDERS = {name.casefold() for name in (*MASK_FOLDERS, "SegmentationClassPNG", "SegmentationObject")}
Folder: TypeAlias = str | Path | Mapping[str, str | Path]
Unpaired = Literal["raise", "skip"]


class Pairs(NamedTuple):
    """Images with their label files, and the ids of those in each split that the folders are named after."""

    records: list[Record]
    splits: dict[str, list[str]]


def pair_folders(
    images: Folder,
    labels: Folder,
    *,
    what: str,
    label_suffixes: Sequence[str],
    label_end: str,
    ids: Sequence[str] | str | Path | None,
    unpaired: Unpaired,
) -> Pairs:
    """Pair images and label files, in the subfolders too.

    Args:
        images: The folder of images, or one for each split.
        labels: The folder of label files, or one for each split.
        what: "mask" or "depth", for error messages.
        label_suffixes: The suffixes of label files.
        label_end: The text that the names of label files have after that of the image, such as "_mask".
        ids: The images to take, a sequence or the path of a list; None takes all.
        unpaired: What happens to images without label file. With "raise" they get the path of a missing file.

    Raises:
        MissingDataError: If a folder is missing or has no images.
        DatasetError: If two files have the same name.
    """
    check_choice(unpaired, get_args(Unpaired), name="unpaired")
    image_roots, label_roots = _roots(images), _roots(labels)
    if image_roots.keys() != label_roots.keys():
        raise ValueError(
            f"images and {what}s must have the same splits; got {', '.join(image_roots)} and {', '.join(label_roots)}."
        )
    records, orphans = [], []
    for split, image_root in image_roots.items():
        pairs, rest = _pair(image_root, label_roots[split], what, label_suffixes, label_end)
        prefix = f"{split}/" if isinstance(images, Mapping) else ""
        records += [Record(prefix + composed(image_id), image, label) for image_id, image, label in pairs]
        orphans += rest
    if ids is not None:
        by_id = {record.image_id: record for record in records}
        records_listed = find_listed(ids, NameIndex({record.image_id: record.image for record in records}), "ids", what)
        records = [by_id[image_id] for image_id in records_listed]
    elif orphans and not keep("label without image", [str(path) for path in orphans]):
        warnings.warn(
            f"{counted(len(orphans), f'{what} file', 'have no image')} (not used), the first: {orphans[0]}.",
            stacklevel=4,
        )
    missing = [str(record.image) for record in records if record.labels is None or not record.labels.is_file()]
    are_kept = 0 < len(missing) < len(records) and keep("image without labels", missing)
    if are_kept or unpaired == "skip":
        records = _with_labels(records, what)
    return Pairs(records, splits_of(record.image_id for record in records))


def splits_of(image_ids: Iterable[str]) -> dict[str, list[str]]:
    """The ids of the images in each split that a folder in their ids is named after, if that holds for all of them."""
    splits: dict[str, list[str]] = {}
    for image_id in image_ids:
        name = next((name for part in image_id.split("/")[:-1] if (name := split_name(part)) is not None), None)
        if name is None:
            return {}
        splits.setdefault(name, []).append(image_id)
    return splits


def pictures(folder: Path, *, warn: bool = False) -> list[Path]:
    """The image files in a folder and its subfolders, without hidden ones, which macOS puts next to others.

    Args:
        folder: The folder.
        warn: Whether a warning counts photographs in formats that are not read.
    """
    files = files_below(folder)
    unread = [path for path in files if path.suffix.lower() in UNREAD_SUFFIXES and not is_image(path)]
    if unread and warn:
        warnings.warn(f"left out of {folder}: {summary(unread)}.", stacklevel=2)
    return [path for path in files if is_image(path)]


def photographs(folder: Path) -> list[Path]:
    """The image files in a folder without those in folders of labels, unless there are no others.

    A mask has the name of its photograph, and must not be taken for one that is missing.
    """
    images_below = pictures(folder, warn=True)
    rest = [
        path
        for path in images_below
        if not _LABEL_FOLDERS & {part.casefold() for part in path.relative_to(folder).parts[:-1]}
    ]
    return rest or images_below


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders, sorted, without those that are hidden or in hidden folders."""
    paths = find_images(folder, "")
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def shared_folder(folders: Folder) -> Path:
    """The folder itself, or the one that holds the folders of all splits."""
    if isinstance(folders, Mapping):
        return Path(os.path.commonpath([Path(folder).absolute().parent for folder in folders.values()]))
    return Path(folders)


def keyed(paths: Sequence[Path], root: Path) -> dict[str, Path]:
    """Files by their path below a folder, without suffix.

    Raises:
        DatasetError: If the names of two files only differ in their suffix.
    """
    files: dict[str, Path] = {}
    for path in paths:
        first = files.setdefault(composed(path.relative_to(root).with_suffix("").as_posix()), path)
        with kept("same file name"):
            if first != path:
                raise DatasetError(
                    f"{first} and {path} share a name, so it is unclear which labels are whose. Rename one."
                )
    return files


def keyed_by_image(labels: Mapping[str, Path], images: Iterable[str]) -> dict[str, Path]:
    """Label files by the images of the same name, wherever both are, if that is clear; others keep their own key.

    A label file whose key is not that of an image belongs to the image without labels that has its file name. Of
    several, it is the one in folders of the same names, as for train/annots/1.xml and train/images/1.jpg. Files in
    folders of two splits, such as train/1.xml and val/1.jpg, do not belong together.

    Args:
        labels: Label files by their path below their folder, without suffix.
        images: The keys of the images, in the same form.
    """
    free = [key for key in images if key not in labels]
    by_name: dict[str, list[str]] = {}
    for key in free:
        by_name.setdefault(key.rpartition("/")[2], []).append(key)
    orphans, apart = labels.keys() - set(images), _Apart(images, labels)
    fitting: dict[str, list[str]] = {}
    for label in labels:
        if label not in orphans:
            continue
        folders = set(label.split("/")[:-1])
        ranked = sorted(
            (-len(folders & set(key.split("/")[:-1])), key)
            for key in by_name.get(label.rpartition("/")[2], [])
            if not apart.holds(key, label)
        )
        if ranked and (len(ranked) == 1 or ranked[0][0] < ranked[1][0]):
            fitting.setdefault(ranked[0][1], []).append(label)
    keys_of_names = {names[0]: key for key, names in fitting.items() if len(names) == 1}
    return {keys_of_names.get(label, label): path for label, path in labels.items()}


class _Apart:
    """Tells images and label files of one name apart by their folders.

    Args:
        images: The keys of all images, paths without suffix.
        labels: The keys of all label files.
    """

    def __init__(self, images: Iterable[str], labels: Iterable[str]):
        self._image_folders = {part for key in images for part in _folder_names(key)}
        self._label_folders = {part for key in labels for part in _folder_names(key)}

    def holds(self, image: str, label: str) -> bool:
        """Whether a folder of one of them is also a folder of the other kind of files, but not that of the other."""
        of_image, of_label = _folder_names(image), _folder_names(label)
        only_image, only_label = of_image - of_label, of_label - of_image
        are_splits = all(any(split_name(part) for part in parts) for parts in (only_image, only_label))
        is_shared = bool(only_label & self._image_folders or only_image & self._label_folders)
        return bool(only_image and only_label) and (is_shared or are_splits)


def _folder_names(key: str) -> set[str]:
    return {split_name(part) or part for part in key.split("/")[:-1]}


def _roots(folders: Folder) -> dict[str, Path]:
    roots = {name: Path(root) for name, root in (folders if isinstance(folders, Mapping) else {"": folders}).items()}
    for root in roots.values():
        if not root.is_dir():
            raise MissingDataError(f"no folder {root}; pass the folder of images and then the folder of labels.")
    return roots


def _pair(
    image_root: Path, label_root: Path, what: str, label_suffixes: Sequence[str], label_end: str
) -> tuple[list[tuple[str, Path, Path]], list[Path]]:
    """The id, the image and the label file of each image in a folder, and the label files without image."""
    inside = image_root != label_root and label_root.is_relative_to(image_root)
    labels: dict[str, Path] = {}
    for path in files_below(label_root):
        name = _stem(path.relative_to(label_root))
        if path.suffix.lower() in label_suffixes and name.endswith(label_end):
            with kept("same file name", ValueError):
                _add(labels, name.removesuffix(label_end), path, "and so an image; remove one of them")
    own = set(labels.values()) if image_root == label_root else set()
    images: dict[str, Path] = {}
    for path in pictures(image_root, warn=True):
        if path not in own and not (inside and path.is_relative_to(label_root)):
            key = composed(str(path.relative_to(image_root).with_suffix("").as_posix()))
            with kept("same file name", ValueError):
                _add(images, key, path, f"and so a {what}; rename one of them")
    if not images:
        raise MissingDataError(f"no images in {image_root}; it has no files that end in {', '.join(SUFFIXES)}.")
    by_name = _unique(key for key in labels if key not in images)
    names = Counter(key.rpartition("/")[2] for key in images)
    suffix = next((path.suffix for path in labels.values()), label_suffixes[0])  # of label files that are missing
    used, pairs, apart = set(), [], _Apart(images, labels)
    for key, path in images.items():
        name = key.rpartition("/")[2]
        label_key = key if key in labels else by_name.get(name, "")
        is_clear = key in labels or (names[name] == 1 and not apart.holds(key, label_key))
        label = labels.get(label_key) if is_clear else None
        used.add(label)
        pairs.append((key, path, label or label_root / f"{key}{label_end}{suffix}"))
    return pairs, [path for path in labels.values() if path not in used]


def _stem(path: Path) -> str:
    """A path without suffix; some tools write the mask of a.jpg to a.jpg.png."""
    path = path.with_suffix("")
    path = path.with_suffix("") if is_image(path) else path
    return composed(path.as_posix())


def _add(paths: dict[str, Path], key: str, path: Path, problem: str) -> None:
    first = paths.setdefault(key, path)
    if first != path:
        raise DatasetError(f"{first} and {path} share a name, {problem}.")


def _unique(labels: Iterable[str]) -> dict[str, str]:
    """The keys of label files by their name without folder, where no two share it."""
    keys = list(labels)
    counts = Counter(key.rpartition("/")[2] for key in keys)
    return {name: key for key in keys if counts[name := key.rpartition("/")[2]] == 1}


def _with_labels(records: list[Record], what: str) -> list[Record]:
    kept = [record for record in records if record.labels is not None and record.labels.is_file()]
    if len(kept) < len(records) and not is_collecting():
        first = next(record.image for record in records if record not in kept)
        warnings.warn(
            f"{len(records) - len(kept)} of {len(records)} images have no {what} and are left out, the first of them "
            f"{first}.",
            stacklevel=5,
        )
    return kept
