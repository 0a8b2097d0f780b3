"""What the results of images are called, and by which id a caption file knows them."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from glob import has_magic
from pathlib import Path

from tadp.images import list_images


def output_names(paths: str | Path | Sequence[str | Path]) -> dict[Path, str]:
    """The images that paths lead to, each with a name for its results that no other has.

    A name is the path below the folder given, without its suffix: "pets/rex" for "photos/pets/rex.jpg" of the folder
    "photos". Of several paths, it is the path below the folder they share. Where two names of a folder would be one
    (rex.jpg and rex.png), both keep their suffix.

    Raises:
        ImageError: If a path leads to no image.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    root = os.path.commonpath([_root(path) for path in listed]) if listed else "."
    images = {os.path.abspath(image): image for image in list_images(listed)}  # noqa: PTH100  ".." must go, links stay
    relative = {image: Path(os.path.relpath(absolute, root)) for absolute, image in images.items()}
    # Some file systems do not tell "Rex" from "rex".
    taken = Counter(str(path.with_suffix("")).casefold() for path in relative.values())
    full = {str(path).casefold() for path in relative.values() if path.suffix}
    names = {}
    for image, path in relative.items():
        stem = path.with_suffix("")
        unique = taken[str(stem).casefold()] == 1 and str(stem).casefold() not in full
        names[image] = (stem if unique else path).as_posix()
    return names


def caption_ids(names: Mapping[Path, str]) -> dict[Path, str]:
    """An id for each image in a caption file: its name without suffix, or the name of its results if two share that.

    Args:
        names: From `output_names`.
    """
    stems, full = Counter(image.stem for image in names), {image.name for image in names if image.suffix}
    return {
        image: image.stem if stems[image.stem] == 1 and image.stem not in full else name
        for image, name in names.items()
    }


def _root(path: str | Path) -> str:
    """The folder that the images of one path are seen from."""
    path = Path(path)
    if path.is_dir():
        return os.path.abspath(path)  # noqa: PTH100
    if not path.exists() and has_magic(str(path)):
        while has_magic(str(path)):
            path = path.parent
        return os.path.abspath(path)  # noqa: PTH100
    return os.path.abspath(path.parent)  # noqa: PTH100
