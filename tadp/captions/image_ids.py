"""What the results of images are called, and by which id a caption file knows them."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from glob import has_magic
from pathlib import Path

from tadp.captions import CaptionTable
from tadp.errors import CaptionError
from tadp.images.reading import list_images

SOURCE = "source"  # the field of a record that says which file was captioned, seen from the table's folder


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
    """An id for each image in a caption file of one run: its name without suffix, or its result's if two share that.

    Args:
        names: From `output_names`.
    """
    stems, full = Counter(image.stem for image in names), {image.name for image in names if image.suffix}
    return {
        image: image.stem if stems[image.stem] == 1 and image.stem not in full else name
        for image, name in names.items()
    }


def path_ids(paths: str | Path | Sequence[str | Path]) -> dict[Path, str]:
    """An id for each image that does not depend on which others there are: for tables that are added to.

    It is the path below the folder that leads to it, without suffix: "pets/rex" for "photos/pets/rex.jpg" of the folder
    "photos" or the pattern "photos/*/*.jpg", and "rex" for that file by itself. Of paths that lead to one file, the
    first counts.

    Raises:
        ImageError: If a path leads to no image.
        CaptionError: If two images would have one id.
    """
    first: dict[str, Path] = {}
    found = _below(paths)
    for image, image_id in found.values():
        if first.setdefault(image_id, image) != image:
            raise CaptionError(
                f"{first[image_id]} and {image} would both have the id {image_id!r}. Rename one, or pass a folder "
                "above both; a .json tells them apart."
            )
    return dict(found.values())


def ids_in(
    captions: Mapping[str, str], names: Mapping[Path, str], paths: str | Path | Sequence[str | Path]
) -> dict[Path, str]:
    """The id under which captions have each image: that of `path_ids` or, if they lack it, that of `caption_ids`.

    A table that says of which files its captions are has the former alone.

    Args:
        captions: By image id.
        names: From `output_names`.
        paths: What `names` came from.
    """
    below, short = _below(paths), caption_ids(names)
    count = Counter(image_id for _, image_id in below.values())
    first = next(captions.records(), None) if isinstance(captions, CaptionTable) else None
    has_sources = first is not None and SOURCE in first.fields
    ids = {}
    for image in names:
        _, by_path = below[os.path.abspath(image)]  # noqa: PTH100
        is_there = count[by_path] == 1 and by_path in captions
        ids[image] = by_path if has_sources or is_there else short[image]
    return ids


def _below(paths: str | Path | Sequence[str | Path]) -> dict[str, tuple[Path, str]]:
    """For each absolute path, the image and its path below the folder that leads to it, without suffix."""
    found: dict[str, tuple[Path, str]] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        root = _root(path)
        for image in list_images(path):
            absolute = os.path.abspath(image)  # noqa: PTH100  ".." must go, links stay
            image_id = Path(os.path.relpath(absolute, root)).with_suffix("").as_posix()
            found.setdefault(absolute, (image, image_id))
    return found


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
