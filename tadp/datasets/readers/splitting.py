"""Split a data set into parts to train on and to measure with."""

import re
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from tadp.captions.records import shown
from tadp.datasets.readers.image_folder import FolderDataset
from tadp.datasets.readers.label_files import read_list
from tadp.datasets.readers.label_problems import is_collecting, keep, kept
from tadp.errors import Argument, DatasetError, OptionError, TADPError
from tadp.files.checks import check_numbers, check_whole
from tadp.images.image_files import is_image
from tadp.language.unicode_forms import composed

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_MOST_CHECKED = 2000  # images whose labels are read to see which classes a part lacks; masks take milliseconds each
Group: TypeAlias = Literal["folder"] | str | int | Callable[[str], Hashable]


@runtime_checkable
class Splittable(Protocol):
    """A data set with ids, such as the readers of this package and `RenderedScenes`."""

    @property
    def image_ids(self) -> list[str]: ...

    def subset(self, image_ids: Sequence[str]) -> Any: ...


def split(
    data: Splittable,
    *,
    fraction: float = 0.2,
    seed: int = 0,
    group: Group | None = None,
    lists: Mapping[str, str | Path | Sequence[str]] | None = None,
    folders: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Split a data set into "train" and "val", and "test" where there is one.

    With `lists` or `folders`, the parts are those. Otherwise the split that the data set comes with (its `splits`)
    is used. If that has no "val", or if the data set has no split at all, a random fraction of the images to train on
    is held out as "val".

    Neighbouring frames of a video are nearly the same image, so a random fraction of them measures what the model has
    seen in training. Pass `group` to keep such images together. If a part lacks a class that another part has, a
    warning says so. This check reads all labels, so it is left out for data sets of more than 2,000 images.

    Args:
        data: The data set to split.
        fraction: The share of the images to hold out as "val", between 0 and 1; 0.2 by default.
        seed: Seed of the random choice, 0 or more; 0 by default. The same seed gives the same parts.
        group: The images that must stay in one part. "folder" keeps the images of a folder together. A number n keeps
            together images whose ids begin with the same n characters. A regular expression keeps together images in
            whose ids it finds the same text (that of its first pair of brackets, if it has one). A function returns the
            group of an id. None, the default, lets every image be drawn on its own. A data set's own split, `lists` and
            `folders` are not affected.
        lists: For each part by its name, its images: the path of a text file with one image per line, or a sequence. An
            image is named by its id, or by its path or the end of its path, with or without suffix.
        folders: For each part by its name, the folder that holds its images, as a path below the folder of images.

    Returns:
        The parts by name. Each is a `subset` of the data set.

    Raises:
        DatasetError: If a list names an image that is not there, a part is empty, an image is in two parts, or there
            are too few images or groups.
        OptionError: If `fraction` is out of range, `group` is not a regular expression, or `lists` and `folders` are
            passed together.

    Example:
        >>> from tadp.datasets import RenderedScenes
        >>> split(RenderedScenes(10), fraction=0.3)
        {'train': <rendered scenes: 7 images>, 'val': <rendered scenes: 3 images>}
    """
    check_numbers(fraction=fraction)
    check_whole(seed, name="seed", minimum=0)
    if not 0 < fraction < 1:
        raise OptionError(Argument("fraction"), f" must be between 0 and 1; got {fraction}.")
    if lists is not None and folders is not None:
        raise OptionError("pass ", Argument("lists"), " or ", Argument("folders"), ", not both.")
    if lists is not None:
        index = NameIndex(_paths(data))
        parts = {
            name: find_listed(entries, index, f"the list of {name!r}", repr(data)) for name, entries in lists.items()
        }
    elif folders is not None:
        parts = {name: _below(data, folder, name) for name, folder in folders.items()}
    else:
        own = dict(data.splits) if isinstance(data, FolderDataset) else {}
        parts = own if "train" in own else {"train": data.image_ids}
        if "val" not in parts:
            rest, held_out = _drawn(parts["train"], fraction, seed, _group_of(data, group))
            parts |= {"train": rest, "val": held_out}
        parts = {name: parts[name] for name in dict.fromkeys((*SPLIT_NAMES.values(), *parts)) if name in parts}
    _check_apart(parts)
    _tell_of_rest(data, parts)
    if isinstance(data, FolderDataset) and len(data) <= _MOST_CHECKED and not is_collecting():
        _tell_of_missing_classes(data, parts)
    return {name: data.subset(ids) for name, ids in parts.items()}


def split_name(name: str) -> str | None:
    """The part that a folder or list is named after: "train", "val" or "test"; None for another name.

    Example:
        >>> [split_name(name) for name in ("valid", "Train", "default")]
        ['val', 'train', None]
    """
    return SPLIT_NAMES.get(name.lower())


class NameIndex:
    """Finds images by names as lists have them: ids, file names, or paths on any machine.

    Attributes:
        example: An id.

    Args:
        paths: The file of each image, by its id; a data set without files passes its ids as paths.
    """

    def __init__(self, paths: Mapping[str, str | Path]):
        self.example = next(iter(paths), None)
        self._by_stem: dict[str, list[tuple[str, str, tuple[tuple[str, ...], ...]]]] = {}
        self._folders = {split_name(part) or part for image_id in paths for part in _parts(image_id)[:-1]}
        for image_id, path in paths.items():
            tails = (_parts(image_id), _parts(str(path)))
            for stem in {tail[-1] for tail in tails}:
                self._by_stem.setdefault(stem, []).append((image_id, PurePosixPath(path).name, tails))

    def find(self, line: str, where: str) -> str | None:
        """The id of the image that a line of a list names, or None.

        Raises:
            DatasetError: If the line fits several images.
        """
        for text in dict.fromkeys((line, *line.split()[:1])):
            parts = _parts(text)
            name = PurePosixPath(text).name  # with its suffix, which tells a.jpg from a.png
            ranked = sorted(
                ((max(_shared(parts, tail) for tail in tails), file_name == name), image_id)
                for image_id, file_name, tails in self._by_stem.get(parts[-1] if parts else "", [])
                if not self._is_elsewhere(parts, tails)
            )
            if len(ranked) > 1 and ranked[-1][0] == ranked[-2][0]:
                raise DatasetError(
                    f"{where}: {shown(line)} fits two images of the same name, {ranked[-2][1]!r} and "
                    f"{ranked[-1][1]!r}. Write the folder before the name."
                )
            if ranked:
                return ranked[-1][1]
        return None

    def _is_elsewhere(self, listed: Sequence[str], tails: Sequence[Sequence[str]]) -> bool:
        """Whether a line names a folder of the data set, or a split, that is not that of a file of the same name."""
        folders = {split_name(part) or part for tail in tails for part in tail[:-1]}
        has_split = any(split_name(part) for tail in tails for part in tail[-2:-1])
        wanted = {split_name(part) or part for part in listed[:-1]} - folders
        return bool(wanted & self._folders) or (has_split and any(split_name(part) for part in wanted))


def _parts(name: str) -> tuple[str, ...]:
    """The folders of a path and its file name without the suffix of an image."""
    path = PurePosixPath(composed(name).replace("\\", "/"))
    path = path.with_suffix("") if is_image(Path(path)) else path
    return tuple(part for part in path.parts if part not in ("/", ".", ".."))


def _shared(first: Sequence[str], second: Sequence[str]) -> int:
    """The number of equal parts at the end of two paths."""
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((count for count, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _paths(data: Splittable) -> Mapping[str, str | Path]:
    if isinstance(data, FolderDataset):
        return {record.image_id: record.image for record in data.records}
    return {image_id: image_id for image_id in data.image_ids}


def find_listed(entries: str | Path | Sequence[str], index: NameIndex, argument: str, name: str) -> list[str]:
    """The ids of the images in a list: a text file with one image per line, or a sequence.

    Args:
        entries: The path of the list, or the sequence.
        index: The images that the list may name.
        argument: Name of the caller's argument that `entries` comes from, for error messages about a sequence.
        name: The data set's name, for error messages.

    Raises:
        DatasetError: If the list cannot be read, or one of its entries fits no image, or several.
    """
    where = argument
    found: dict[str, str | None] = {}
    with kept("wrong list"):
        if isinstance(entries, str | Path):
            where, path, entries = str(entries), Path(entries), []
            entries = read_list(path)
    for entry in entries:
        with kept("wrong list"):
            found[entry] = index.find(entry, where)
    missing = [entry for entry, image_id in found.items() if image_id is None]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        problem = (
            f"{where} has {shown(missing[0])}{more}, which is not an image of {name}; the ids of its images look like "
            f"{index.example!r}."
        )
        if not keep("wrong list", [problem]):
            raise DatasetError(problem)
    return list(dict.fromkeys(image_id for image_id in found.values() if image_id is not None))


def _below(data: Splittable, folder: str, name: str) -> list[str]:
    wanted = _parts(str(folder))
    ids = []
    for image_id, path in _paths(data).items():
        folders = [_parts(image_id)[:-1], _parts(str(path))[:-1]]
        if any(wanted == parts[start : start + len(wanted)] for parts in folders for start in range(len(parts))):
            ids.append(image_id)
    if not ids:
        raise DatasetError(
            f"no image is below a folder {str(folder)!r}, which is to be {name!r}; the first image is "
            f"{next(iter(_paths(data).values()))}."
        )
    return ids


def _group_of(data: Splittable, group: Group | None) -> Callable[[str], Hashable]:
    """The function from an image's id to its group."""
    if group is None:
        return lambda image_id: image_id
    if group == "folder":
        paths = _paths(data)
        return lambda image_id: PurePosixPath(str(paths[image_id])).parent
    if isinstance(group, str):
        try:
            pattern = re.compile(group)
        except re.error as error:
            raise OptionError(
                Argument("group"), f" must be 'folder' or a regular expression; got {group!r} ({error})."
            ) from error

        def found(image_id: str) -> Hashable:
            match = pattern.search(image_id)
            if match is None:
                raise DatasetError(
                    "the ",
                    Argument("group"),
                    f" '{group}' is not found in the id {image_id!r}. It must be 'folder', or a regular expression "
                    "that fits every id.",
                )
            return match.group(1 if pattern.groups else 0)

        return found
    if callable(group):
        return group
    length = check_whole(group, name="group", unit="character")
    return lambda image_id: image_id[:length]


def _drawn(
    ids: Sequence[str], fraction: float, seed: int, group_of: Callable[[str], Hashable]
) -> tuple[list[str], list[str]]:
    """Draw whole groups at random until about a fraction of the images is held out; both parts keep their order."""
    groups: dict[Hashable, list[str]] = {}
    for image_id in ids:
        groups.setdefault(group_of(image_id), []).append(image_id)
    if len(groups) < 2:
        raise DatasetError(
            f"a split needs at least two groups of images; {len(ids)} images are in {len(groups)}, such as "
            f"{next(iter(groups), None)}. Pass another ",
            Argument("group"),
            ", or ",
            Argument("lists"),
            ".",
        )
    members = list(groups.values())
    held_out: list[str] = []
    wanted = min(max(round(fraction * len(ids)), 1), len(ids) - 1)
    order = np.random.default_rng(seed).permutation(len(members)).tolist()
    for place in order[:-1]:  # the last group stays to train on
        too_many = len(held_out) + len(members[place]) - wanted
        if not held_out or too_many < wanted - len(held_out):
            held_out += members[place]
        if len(held_out) >= wanted:
            break
    chosen = set(held_out)
    rest = [image_id for image_id in ids if image_id not in chosen]
    return rest, [image_id for image_id in ids if image_id in chosen]


def _check_apart(parts: Mapping[str, Sequence[str]]) -> None:
    part_of: dict[str, str] = {}
    for name, ids in parts.items():
        if not ids:
            raise DatasetError(f"the part {name!r} of the split is empty. Give it at least one image.")
        for image_id in ids:
            if part_of.setdefault(image_id, name) != name:
                raise DatasetError(
                    f"the image {image_id!r} is in {part_of[image_id]!r} and in {name!r}, so {name!r} would measure "
                    "what was learned by heart. Remove it from one of them."
                )


def _tell_of_rest(data: Splittable, parts: Mapping[str, Sequence[str]]) -> None:
    used = {image_id for ids in parts.values() for image_id in ids}
    rest = [image_id for image_id in data.image_ids if image_id not in used]
    if rest:
        warnings.warn(
            f"{len(rest)} of {len(data.image_ids)} images are in no part of the split and are not used, the first of "
            f"them {rest[0]!r}.",
            stacklevel=3,
        )


def _tell_of_missing_classes(data: FolderDataset, parts: Mapping[str, Sequence[str]]) -> None:
    """Warn of classes that one part has and another lacks, unless labels cannot be read, as later errors say."""
    present: dict[str, set[str]] = {}
    for name, ids in parts.items():
        with suppress(TADPError):
            present[name] = set().union(*(data.classes_in(image_id) or () for image_id in ids))
    for name, names in present.items():
        missing = sorted(set().union(*present.values()) - names)
        if missing:
            listed = ", ".join(missing[:10]) + (", …" if len(missing) > 10 else "")
            what = "the model cannot learn them" if name == "train" else "their scores are unknown there"
            warnings.warn(
                f"the part {name!r} of the split has no {listed}, which other parts have; {what}. Pass another seed "
                "(--split-seed) or fraction (--fraction), or lists (--lists).",
                stacklevel=4,
            )
