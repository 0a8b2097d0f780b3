"""Which file names the classes of YOLO labels, what it says, and which text files are labels."""

import math
from collections.abc import Mapping
from filecmp import cmp
from pathlib import Path
from typing import Any

import yaml

from tadp.captions.records import shown
from tadp.datasets.readers.class_choice import warn_about_same
from tadp.datasets.readers.paired_folders import files_below, pictures
from tadp.datasets.readers.splitting import split_name
from tadp.errors import CorruptFileError, DatasetError
from tadp.files.checks import check_regular, read_lines, refuse_pointer

NAMES = ("obj.names", "classes.txt")  # darknet and CVAT; Label Studio and labelImg
_HEAD_BYTES, _LOOKED_AT = 4096, 20  # of a text file, and of the text files, to recognise labels
_LARGEST_YAML = 2**18  # bytes; data.yaml with 1,200 classes has 30,000


def yolo_file(root: Path) -> Path | None:
    """The file that names the classes of a YOLO export: a yaml file with `names`, obj.names or classes.txt.

    Args:
        root: The folder of the export, or the file.
    """
    if root.is_file():
        return root if root.suffix.lower() in (".yaml", ".yml") or root.name in NAMES else None
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        if path.is_file() and _has_names(path):
            return path
    beside = next((root / name for name in NAMES if (root / name).is_file()), None)
    inside = [path for path in files_below(root) if path.name == NAMES[1] and path.is_file()]
    if beside or not inside or not all(cmp(inside[0], path, shallow=False) for path in inside[1:]):
        return beside
    return inside[0]  # labelImg writes classes.txt into each folder of labels


def has_text_labels(root: Path) -> bool:
    """Whether a folder has a text file of numbers with the name of an image."""
    if not root.is_dir():
        return False
    names = {path.stem for path in pictures(root)}
    texts = [path for path in files_below(root) if path.suffix == ".txt" and path.stem in names]
    return any(_is_label(path) for path in texts[:_LOOKED_AT])


def _is_label(path: Path) -> bool:
    """Whether a text file begins with the numbers of a label; those of captions do not."""
    try:
        with path.open("rb") as file:
            words = file.read(_HEAD_BYTES).decode(errors="replace").strip().partition("\n")[0].split()
        return len(words) > 4 and all(math.isfinite(float(word)) for word in words[:5])
    except (OSError, ValueError):
        return False


def _has_names(path: Path) -> bool:
    refuse_pointer(path, DatasetError)
    try:
        with path.open("rb") as file:
            return b"names" in file.read(_LARGEST_YAML)
    except OSError:  # which `_config` reports
        return True


class _Loader(yaml.BaseLoader):
    """Reads every value as text, so that classes named "no" or "007" keep their names, and refuses what could grow."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases, such as *a, are not read")
        if getattr(self.peek_event(), "tag", None):
            raise yaml.YAMLError(f"the tag {self.peek_event().tag} is not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.YAMLError("an entry is there twice")
        return mapping


def read_config(path: Path) -> dict[str, Any]:
    """The content of data.yaml; or of obj.data and obj.names, or classes.txt, in the same form."""
    if path.name in NAMES:
        data = path.with_name("obj.data")
        pairs = (
            [line.partition("=") for line in read_lines(data, of="entry", error=DatasetError)] if data.is_file() else []
        )
        lists = {key.strip(): Path(value.strip()).name for key, _, value in pairs if split_name(key.strip())}
        return {**lists, "names": read_lines(path, of="class", error=DatasetError)}
    try:
        check_regular(path, most_bytes=_LARGEST_YAML)
        config = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except (OSError, ValueError, RecursionError, CorruptFileError, yaml.YAMLError) as error:
        raise DatasetError(f"{path} cannot be read as YAML ({str(error)[:200]}). Export it again.") from error
    if not isinstance(config, dict):
        raise DatasetError(f"{path} must have entries such as names and train; got {shown(config)}.")
    if "kpt_shape" in config:
        raise DatasetError(
            f"{path} is of key points (kpt_shape), which no task of tadp uses. Export boxes or polygons."
        )
    return config


def listed_names(config: Mapping[str, Any], path: Path) -> list[str]:
    """The names of the classes in a configuration, in the order of their numbers.

    Raises:
        DatasetError: If there are none, or numbers are left out.
    """
    names = config.get("names")
    if isinstance(names, Mapping):
        if set(names) != {str(number) for number in range(len(names))}:
            raise DatasetError(f"{path}: names must be numbered from 0 without gaps; got {shown(sorted(names))}.")
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(label, str) and label for label in names):
        raise DatasetError(f"{path}: names must list the classes; got {shown(names)}.")
    warn_about_same(names, path)
    return names
