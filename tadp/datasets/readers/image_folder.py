"""The base class of the readers of data sets on disk: the list of images, captions, and damaged files."""

import os
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, get_args, overload

from tadp.captions import CaptionTable
from tadp.datasets.readers.label_files import check_turn, read_upright
from tadp.datasets.sample import Sample
from tadp.errors import CaptionError, DatasetError, ImageError, MissingDataError, UnknownIdError
from tadp.files.checks import check_choice
from tadp.images.image_files import SUFFIXES
from tadp.language.grammar import counted
from tadp.language.unicode_forms import composed, key_of

Captions = Mapping[str, str]  # the caption of each image, by its id
OnError = Literal["raise", "skip"]
TaskName = Literal["segmentation", "depth", "detection"]

Own = TypeVar("Own", bound="FolderDataset")
_MOST_LINKS = 30  # that lead to the same folder; folders that link to each other have countless paths
_MOST_SKIPPED = 100  # in a row; with more, the disk is broken rather than a file


class Record(NamedTuple):
    """The files of one image and its labels; `labels` is None if the image has no label file because it is empty."""

    image_id: str
    image: Path
    labels: Path | None


class FolderDataset(ABC):
    """A map-style data set of images and labels in files, which are read when a sample is accessed.

    This is the base class of the data sets in this package. A subclass lists the files and reads the labels.

    Attributes:
        class_names: Names of the classes that the labels index; empty if the labels have no classes.
        tasks: The tasks that the labels can train: "segmentation", "depth" or "detection".
        splits: The ids of the images in each split that the data set comes with, such as "train", "val" and "test";
            empty if it comes without splits.
        skipped: The images that could not be read in this process, with the reasons, if `on_error` is "skip".

    Args:
        records: The image file and the label file of each sample. All files must exist.
        name: The data set's name, for error messages.
        advice: A sentence that says how to get a missing file, for error messages.
        class_names: Names of the classes that the labels index; empty, the default, if the labels have no classes.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image's files are damaged, or were removed after this object was created. "raise"
            raises an error that names the file. "skip" returns the next readable image instead, with a warning that
            names both images. Use "skip" only in training: an evaluation would count the next image twice. Labels that
            can be read but are wrong always raise an error.
        splits: The ids of the images in each split that the data set comes with; none by default.

    Raises:
        MissingDataError: If a file in `records` is missing.
        UnknownIdError: If `captions` lacks the caption of an image.
        CaptionError: If the captions are not strings.
    """

    tasks: tuple[TaskName, ...] = ()

    def __init__(
        self,
        records: Sequence[Record],
        *,
        name: str,
        advice: str = "",
        class_names: Sequence[str] = (),
        captions: Captions | None = None,
        on_error: OnError = "raise",
        splits: Mapping[str, Sequence[str]] | None = None,
    ):
        check_choice(on_error, get_args(OnError), name="on_error")
        self.class_names = tuple(class_names)
        self.splits = {split: list(ids) for split, ids in (splits or {}).items()}
        self.skipped: dict[str, str] = {}
        self._name, self._on_error = name, on_error
        self._captions = captions
        self._warned: set[str] = set()
        self._records = self._find(records, advice)
        if captions is not None:
            check_image_captions(captions, self.image_ids, name)

    @property
    def records(self) -> list[Record]:
        """The id and the files of each image, in order."""
        return list(self._records)

    def classes_in(self, image_id: str) -> set[str] | None:
        """The names of the classes in the labels of an image, which is not opened; None if that is not known."""
        return None

    @property
    def image_ids(self) -> list[str]:
        """Names of the images, in order."""
        return [record.image_id for record in self._records]

    @property
    def image_paths(self) -> dict[str, Path]:
        """The file of each image, by its id, as `CaptionTable.fill` needs them."""
        return {record.image_id: record.image for record in self._records}

    @property
    def label_paths(self) -> dict[str, Path | None]:
        """The file of each image's labels, by its id; None if the image has no label file."""
        return {record.image_id: record.labels for record in self._records}

    def with_captions(self: Own, captions: Captions | None) -> Own:
        """Return the same data set with other captions.

        Args:
            captions: A `CaptionTable` or another mapping from image id to caption. None removes the captions.

        Raises:
            UnknownIdError: If `captions` lacks the caption of an image.
            CaptionError: If the captions are not strings.
        """
        if captions is not None:
            check_image_captions(captions, self.image_ids, self._name)
        return self._copy(captions=captions)

    def subset(self: Own, image_ids: Sequence[str]) -> Own:
        """Return the data set with some of its images, in the order of `image_ids`. It has no `splits`.

        Raises:
            DatasetError: If an id is unknown or occurs twice, or `ids` is empty.
        """
        chosen = choose_ids(image_ids, self.image_ids, self._name)
        records = {record.image_id: record for record in self._records}
        return self._copy(records=[records[image_id] for image_id in chosen], splits={})

    def _copy(self: Own, **changes: object) -> Own:
        """A data set that shares the files, but not the list of those that could not be read."""
        other = copy(self)
        other.skipped, other._warned = {}, set()
        for name, value in changes.items():
            setattr(other, name if name == "splits" else f"_{name}", value)
        return other

    def __repr__(self) -> str:
        return f"<{self._name}: {counted(len(self), 'image')}>"

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}.")
        return self._read(index % len(self))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    @abstractmethod
    def _label(self, sample: Sample, path: Path) -> Sample:
        """Add the labels in a file to the sample."""

    def _find(self, records: Sequence[Record], advice: str) -> list[Record]:
        """The records with their files as they are on disk, after checking that all are there."""
        return _found(records, self._name, advice)

    def _load(self, record: Record) -> Sample:
        caption = None if self._captions is None else caption_of(self._captions, record.image_id)
        pixels, orientation = read_upright(record.image)
        labels = record.labels or record.image
        sample = self._label(Sample(pixels, record.image_id, caption), labels)
        if orientation != 1:
            check_turn(sample, record.image, labels, orientation)
        return sample

    def _read(self, index: int) -> Sample:
        if self._on_error == "raise":
            return self._load(self._records[index])
        failures: list[tuple[Record, ImageError]] = []
        for step in range(min(len(self), _MOST_SKIPPED)):
            record = self._records[(index + step) % len(self)]
            try:
                sample = self._load(record)
            except ImageError as error:
                failures.append((record, error))
            else:
                self._report(failures, record.image_id)
                return sample
        raise ImageError(f"{len(failures)} images in a row cannot be read; the first: {failures[0][1]}")

    def _warn_once(self, subject: str, message: str) -> None:
        """Warn about labels, once for each subject."""
        if subject not in self._warned:
            self._warned.add(subject)
            warnings.warn(message, stacklevel=5)

    def _report(self, failures: list[tuple[Record, ImageError]], instead: str) -> None:
        for record, error in failures:
            if record.image_id not in self.skipped:
                self.skipped[record.image_id] = str(error)
                warnings.warn(f"skipped {record.image_id!r}, used {instead!r} instead: {error}", stacklevel=4)


def choose_ids(wanted: Sequence[str], image_ids: Sequence[str], name: str) -> list[str]:
    """Return the ids of a subset as the data set writes them.

    Raises:
        DatasetError: If an id is unknown or occurs twice, or `ids` is empty.
    """
    if isinstance(wanted, str):
        raise TypeError(f"image_ids must be a list of ids; got the string {wanted!r}. Pass [{wanted!r}].")
    known = dict.fromkeys(image_ids)
    chosen: dict[str, None] = {}
    for image_id in wanted:
        key = key_of(image_id, known)
        if key is None:
            raise DatasetError(f"{name} has no image {image_id!r}; its ids look like {next(iter(known), None)!r}.")
        if key in chosen:
            raise DatasetError(f"{name}: the id {image_id!r} occurs twice among those of the subset; list it once.")
        chosen[key] = None
    if not chosen:
        raise DatasetError(f"{name}: a subset needs at least one image; got no ids.")
    return list(chosen)


def check_image_captions(captions: Captions, image_ids: list[str], name: str) -> None:
    """Check that a mapping has a caption for every image.

    Args:
        captions: The captions to check, a mapping from image id to caption.
        image_ids: The ids of all images. Every id must be a key; only the caption of the first image is read.
        name: The name of the data set, which begins the error messages.

    Raises:
        TypeError: If `captions` is not a mapping.
        UnknownIdError: If an image has no caption. The message quotes an id that has one, to show how ids are written.
        CaptionError: If the first image's caption is not a string.
    """
    if not isinstance(captions, Mapping):
        raise TypeError(
            "captions must be a CaptionTable, or a mapping from image id to caption; got "
            f"{type(captions).__name__}. To read a file, use CaptionTable.open(path)."
        )
    if isinstance(captions, CaptionTable):
        missing = captions.missing(image_ids)
    else:
        missing = [image_id for image_id in image_ids if key_of(image_id, captions) is None]
    if missing:
        table = repr(captions) if isinstance(captions, CaptionTable) else f"a mapping of {len(captions)} captions"
        more = f", nor for {len(missing) - 1} more of its {len(image_ids)} images" if len(missing) > 1 else ""
        example = next(iter(captions), None)
        hint = "It is empty." if example is None else f"Its ids look like {example!r}."
        raise UnknownIdError(
            f"{name}: {table} has no caption for {missing[0]!r}{more}. {hint} To add the missing captions, build the "
            "data set without captions and call table.fill(data.image_paths, captioner)."
        )
    if image_ids:
        caption_of(captions, image_ids[0])


def caption_of(captions: Captions, image_id: str) -> str:
    """The caption of one image.

    Raises:
        CaptionError: If the caption is not a string.
    """
    caption = captions[key_of(image_id, captions) or image_id]
    if not isinstance(caption, str):
        raise CaptionError(
            f"a caption must be a string; the caption of {image_id!r} is of type {type(caption).__name__}. To read the "
            "authors' caption files, use CaptionTable.from_json(path)."
        )
    return caption


def require(path: Path, *, root: Path, name: str, advice: str) -> Path:
    """Return the path of a folder or list if it exists.

    Raises:
        MissingDataError: If the path does not exist. If it exists above or below the root, the message says where.
    """
    if path.exists():
        return path
    inside = path.relative_to(root)
    nearby = [root.parent / inside, *root.glob(f"*/{inside}"), *root.glob(f"*/*/{inside}")]
    match = next((candidate for candidate in nearby if candidate.exists()), None)
    if match is not None:
        advice = f"Did you mean {match.parents[len(inside.parts) - 1]}?"
    raise MissingDataError(f"{name} needs {path}, which is not there. {advice}")


def find_images(folder: Path, suffix: str) -> list[Path]:
    """List the files in a folder and its subfolders whose names end in `suffix`, sorted, without hidden files.

    Raises:
        MissingDataError: If a folder, or a link that may lead to a folder, cannot be read.
    """
    paths: list[Path] = []
    above: dict[str, set[str]] = {}  # the real folders on the way to each folder, so that a link to one of them ends
    visits: Counter[str] = Counter()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        real, upper = os.path.realpath(parent), above.get(os.path.dirname(parent), set())  # noqa: PTH120
        if real in upper:
            folders.clear()
            continue
        above[parent] = upper | {real}
        visits[real] += 1
        if visits[real] > _MOST_LINKS:
            raise MissingDataError(f"more than {_MOST_LINKS} links in {folder} lead to {real}. Remove some of them.")
        shown = [name for name in names if not name.startswith(".")]
        for path in (Path(parent, name) for name in shown if not name.lower().endswith(SUFFIXES)):
            if path.is_symlink() and not path.exists():  # a missing image is reported when it is opened
                raise MissingDataError(
                    f"{path} is a link to {os.readlink(path)}, which is not there. Mount its disk, or remove the link."  # noqa: PTH115
                )
        paths += [Path(parent, name) for name in shown if name.endswith(suffix)]
    return sorted(paths)


def _refuse_folder(error: OSError) -> None:
    raise MissingDataError(
        f"the folder {error.filename} cannot be read: {error.strerror}. Check its permissions and its disk."
    ) from error


class Listings:
    """The names in folders, each of which is read once. A name is also found in another Unicode form."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, str]] = {}
        self._folders: dict[Path, Path | None] = {}

    def find(self, path: Path) -> Path | None:
        """The path as it is on disk; None if there is no such file."""
        if path.parent not in self._folders:
            is_there = path.parent.is_dir() or path.parent == path.parent.parent
            self._folders[path.parent] = path.parent if is_there else self.find(path.parent)
        folder = self._folders[path.parent]
        if folder is None:
            return None
        if folder not in self._names:
            names = _listing(folder)
            self._names[folder] = {composed(name): name for name in names} | {name: name for name in names}
        name = self._names[folder].get(path.name) or self._names[folder].get(composed(path.name))
        return None if name is None else folder / name


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  only names are needed, and there are many
    except (FileNotFoundError, NotADirectoryError):
        return []


def _found(records: Sequence[Record], name: str, advice: str) -> list[Record]:
    """The records with their files as they are on disk, after checking that all are there."""
    if not records:
        raise MissingDataError(f"{name}: no images were found. {advice}")
    listings = Listings()
    found: list[Record] = []
    missing: list[Path] = []
    for image_id, wanted_image, wanted_labels in records:
        image = listings.find(wanted_image)
        labels = None if wanted_labels is None else listings.find(wanted_labels)
        missing += [wanted_image] if image is None else []
        missing += [wanted_labels] if wanted_labels is not None and labels is None else []
        found.append(Record(image_id, image or wanted_image, labels))
    if missing:
        more = f" ({counted(len(missing) - 1, 'more file', 'are')} missing)" if len(missing) > 1 else ""
        raise MissingDataError(f"{name}: {missing[0]} is not there{more}. {advice}")
    return found
