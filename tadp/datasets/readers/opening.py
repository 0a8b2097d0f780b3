"""Open a data set by its name, or by the layout of its folder."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from tadp.captions import CaptionTable
from tadp.datasets.readers.coco_json import CocoDataset, coco_files
from tadp.datasets.readers.depth_folder import DepthFolder
from tadp.datasets.readers.folder_layouts import depth_folders, mask_folders, open_masks
from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError, TaskName
from tadp.datasets.readers.labelme import LabelmeFolder, labelme_files
from tadp.datasets.readers.mask_folder import MaskFolder
from tadp.datasets.readers.named import DATASETS, open_dataset
from tadp.datasets.readers.paired_folders import files_below
from tadp.datasets.readers.splitting import split_name
from tadp.datasets.readers.voc_folder import VOCFolder
from tadp.datasets.readers.yolo_config import has_text_labels, yolo_file
from tadp.datasets.readers.yolo_labels import YoloDataset
from tadp.errors import Argument, DatasetError, MissingDataError, UnknownOptionError

_MOST_FOLDERS = 100  # of a level that are searched for data sets
_MOST_SHOWN = 8
_ONE_OF_THEM = "Pass one of these folders. 'One model from several exports' in the documentation says how to join them."


@dataclass(frozen=True)
class Layout:
    """A layout of files that a reader reads.

    Attributes:
        reader: The name of the reader.
        looks: A description of the layout, for error messages.
        tasks: The tasks that the labels can be for.
        arguments: Returns the reader's arguments for a folder of this layout; None for another folder.
        open: The reader.
    """

    reader: str
    looks: str
    tasks: tuple[TaskName, ...]
    arguments: Callable[[Path], tuple[Any, ...] | None]
    open: Callable[..., FolderDataset]


def open(
    path: str | Path,
    root: str | Path | None = None,
    *,
    task: TaskName | None = None,
    split: str | None = None,
    captions: Captions | str | Path | None = None,
    on_error: OnError = "raise",
    **options: Any,
) -> Any:
    """Open a data set: a folder of your own, whose layout is recognised, or one of the paper's data sets by its name.

    Args:
        path: The folder, or its main file (a COCO json, data.yaml). Or the name of a data set: scenes, voc,
            voc-detection, ade20k, nyu, cityscapes, dark-zurich, nighttime-driving, watercolor2k or comic2k.
        root: The folder of a data set that `path` names; None, the default, for a folder of your own.
        task: The task that the labels must be for, where a folder has labels of several kinds; None, the default, takes
            those that are recognised first.
        split: The split to read. For a folder of your own, one of its `splits`; None, the default, reads all images.
            For a name, None is the split to test on.
        captions: A `CaptionTable` or another mapping from image id to caption, or the path of a caption file. None
            gives samples without captions.
        on_error: What happens if an image cannot be read: "raise" an error, or "skip" it and return the next readable
            image, with a warning; see `FolderDataset`.
        **options: Further arguments of the reader, such as `class_names` or `unpaired`. `masks` and `images` are the
            folders of masks and of images if they have unusual names; without `images`, that is `path`. A relative path
            starts from the current folder or, if there is no such folder, from `path`.

    Returns:
        The data set, of the class of its reader.

    Raises:
        DatasetError: If the layout is not one that a reader reads. The message says what is in the folder, and which
            readers there are.
        MissingDataError: If there is no such folder.
        UnknownOptionError: If the reader does not have one of the options.
        UnknownIdError: If `captions` lacks the caption of an image.

    Example:
        >>> open("scenes", split="train", count=3)
        <rendered scenes: 3 images>
    """
    if str(path) in DATASETS and (root is not None or not Path(path).exists()):
        return open_dataset(str(path), root, split=split, captions=captions, on_error=on_error, **options)
    folder = Path(path)
    if not folder.exists():
        raise MissingDataError(f"{str(path)!r} is neither a folder nor the name of a data set ({', '.join(DATASETS)}).")
    if isinstance(captions, str | Path):
        captions = CaptionTable.open(captions)
    options = located(folder, options)
    masks = options.pop("masks", None)
    if masks is None:
        layout, arguments = _recognised(folder, task)
    else:
        layout = next(layout for layout in LAYOUTS if layout.open is open_masks)
        arguments = ({"images": Path(options.pop("images", folder)), "masks": Path(masks)},)
    if task is not None and layout.open is VOCFolder:
        options["task"] = task
    parameters = signature(MaskFolder if layout.open is open_masks else layout.open).parameters.values()
    known_options = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for name in options:
        if name not in known_options:
            text = f" is not an option of {layout.reader}, which reads {folder}. It has {', '.join(known_options)}."
            raise UnknownOptionError(Argument(name), text)
    data = layout.open(*arguments, captions=captions, on_error=on_error, **options)
    if task is not None and task not in data.tasks:
        raise DatasetError(
            f"{data!r} has labels for {' and '.join(data.tasks)}, not for {task}." + _hint(folder, data, task)
        )
    if split is None:
        return data
    if split not in data.splits:
        known = ", ".join(data.splits) or "none"
        raise DatasetError(f"{data!r} has no split {split!r}; its splits are: {known}. See tadp.datasets.split.")
    return data.subset(data.splits[split])


def located(folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a reader, in which `images` and `masks` are folders as seen from the current one.

    Raises:
        MissingDataError: If there is no such folder, neither in the current folder nor in that of the data.
    """
    options_read = dict(options)
    for name in ("images", "masks"):
        value = options.get(name)
        if value is None or isinstance(value, Mapping) or Path(value).is_dir():
            continue
        if not (folder / value).is_dir():
            text = f" must be a folder; there is neither {Path(value).absolute()} nor {(folder / value).absolute()}."
            raise MissingDataError(Argument(name), text)
        options_read[name] = folder / value
    return options_read


def _hint(folder: Path, data: FolderDataset, task: TaskName) -> str:
    """What a data set has instead of the labels for a task."""
    text = " Its objects have boxes but no outlines." if task == "segmentation" and data.tasks == ("detection",) else ""
    beside = mask_folders(folder) if task == "segmentation" else None
    if beside is not None:
        places = {name: beside[0][name] for name in ("images", "masks")}
        if not any(isinstance(place, Mapping) for place in places.values()):
            options = " ".join(f"--{name} {place}" for name, place in places.items())
            return f"{text} There are masks in {places['masks']}: pass images=… and masks=… ({options})."
    return f"{text} Train {data.tasks[0]} with them (tadp train {data.tasks[0]})."


def _recognised(folder: Path, task: TaskName | None) -> tuple[Layout, tuple[Any, ...]]:
    for layout in LAYOUTS:
        arguments = layout.arguments(folder) if task is None or task in layout.tasks else None
        if arguments is not None and (_has_own_layout(folder, layout) or len(below := _below(folder)) < 2):
            return layout, arguments
        if arguments is not None:
            raise DatasetError(f"{folder} is the folder of several data sets: {_listed(below)}. {_ONE_OF_THEM}")
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    if len(inside) == 1 and inside[0].is_dir():  # an archive that was unpacked into a folder of its name
        return _recognised(inside[0], task)
    readable = [
        f"{layout.reader} ({', '.join(layout.tasks)})" for layout in LAYOUTS if layout.arguments(folder) is not None
    ]
    if readable:
        raise DatasetError(f"{folder} has no labels for {task}: its layout is that of {' and '.join(readable)}.")
    below = _below(folder)
    if below:
        raise DatasetError(
            f"{folder} is not a data set itself. Data sets found in it: {_listed(below)}. {_ONE_OF_THEM}"
        )
    readers = "; ".join(f"{layout.reader} ({layout.looks})" for layout in LAYOUTS)
    raise DatasetError(
        f"the layout of {folder} is not that of a data set: it has {_content(folder)}. Readers: {readers}. "
        "For images and masks in folders of other names, pass ",
        Argument("images", ...),
        " and ",
        Argument("masks", ...),
        ".",
    )


def _has_own_layout(folder: Path, layout: Layout) -> bool:
    """Whether a folder has the main file or folders of a layout, rather than label files anywhere below it."""
    if layout.open is VOCFolder:
        xml = [path for path in folder.iterdir() if path.name.casefold() == "annotations"]
        return any(_has(path, ".xml") for path in xml) or (folder / "SegmentationClass").is_dir()
    return layout.open is not YoloDataset or yolo_file(folder) is not None


def _below(folder: Path) -> dict[Path, str]:
    """The data sets in the subfolders of a folder, down to three levels, and the names of their readers."""
    found: dict[Path, str] = {}
    folders = [folder] if folder.is_dir() else []
    for _ in range(3):
        below = [path for place in folders for path in sorted(place.iterdir()) if path.is_dir() and path.name[0] != "."]
        folders = []
        for path in below[:_MOST_FOLDERS]:
            layouts = (layout for layout in LAYOUTS if layout.arguments(path) is not None)
            reader = next((layout.reader for layout in layouts if _has_own_layout(path, layout)), None)
            if reader is None:
                folders.append(path)
            elif split_name(path.name) is None:
                found[path] = reader
    return found


def _listed(data_sets: Mapping[Path, str]) -> str:
    texts = [f"{path} ({reader})" for path, reader in data_sets.items()]
    return ", ".join(texts[:_MOST_SHOWN]) + (
        f" and {len(texts) - _MOST_SHOWN} more" if len(texts) > _MOST_SHOWN else ""
    )


def _content(folder: Path) -> str:
    """What is in a folder, or what kind of file a path is."""
    if folder.is_file():
        return f"one file of kind {folder.suffix or 'unknown'}; unpack archives first"
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    kinds = Counter(path.suffix.lower() or "no suffix" for path in files_below(folder))
    listed = f"the folders {', '.join(folders[:8])}{', …' if len(folders) > 8 else ''}" if folders else "no folders"
    files = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(6)) or "none"
    return f"{listed}, and these files: {files}"


def _has(folder: Path, suffix: str) -> bool:
    return folder.is_dir() and any(path.suffix.lower() == suffix for path in files_below(folder))


def _yolo(folder: Path) -> tuple[Any, ...] | None:
    path = yolo_file(folder)
    if path is None or (path.name == "classes.txt" and folder.is_dir()):  # which may also name the classes of masks
        return (folder,) if has_text_labels(folder) else None
    return (folder,)


def _voc(folder: Path) -> tuple[Any, ...] | None:
    if not folder.is_dir():
        return None
    is_voc = _has(folder / "Annotations", ".xml") or (folder / "SegmentationClass").is_dir()
    return (folder,) if is_voc or any(path.suffix.lower() == ".xml" for path in files_below(folder)) else None


LAYOUTS = (
    Layout(
        "CocoDataset",
        "a COCO json at the top, in annotations or next to the images of each split",
        ("detection", "segmentation"),
        lambda folder: (folder,) if coco_files(folder) else None,
        CocoDataset,
    ),
    Layout(
        "YoloDataset",
        "text labels with the names of images, and data.yaml, obj.names or classes.txt",
        ("detection", "segmentation"),
        _yolo,
        YoloDataset,
    ),
    Layout(
        "LabelmeFolder",
        "json files of labelme",
        ("detection", "segmentation"),
        lambda folder: (folder,) if labelme_files(folder) else None,
        LabelmeFolder,
    ),
    Layout(
        "VOCFolder",
        "XML files in Annotations or next to the images, masks in SegmentationClass",
        ("detection", "segmentation"),
        _voc,
        VOCFolder,
    ),
    Layout(
        "MaskFolder",
        "folders images and masks, or train and trainannot, or masks a_mask.png next to a.jpg",
        ("segmentation",),
        mask_folders,
        open_masks,
    ),
    Layout("DepthFolder", "folders images (or rgb) and depth", ("depth",), depth_folders, DepthFolder),
)
