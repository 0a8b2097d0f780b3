"""Names for the results of images, and the ids of images in caption files."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from pathlib import Path

from tadp.captions import CaptionTable
from tadp.errors import CaptionError, ImageError
from tadp.images.listing import find_images
from tadp.language.unicode_forms import composed, key_of

SOURCE = "source"  # the field of a record with the captioned file's path, relative to the table's folder


@dataclass(frozen=True)
class ImageList:
    """The images that paths lead to, listed once.

    Attributes:
        names: A unique name for the results of each image.
        below: The path of each image below the folder that leads to it, without suffix.
        unreadable: Folders and links in which there may be more images, and why they cannot be read.
        left_out: Files that are not images by their suffix, and entries that are not files.
    """

    names: Mapping[Path, str]
    below: Mapping[Path, str]
    unreadable: Mapping[Path, ImageError] = field(default_factory=dict)
    left_out: Sequence[Path] = ()

    @classmethod
    def of(cls, paths: "str | Path | Sequence[str | Path] | ImageList") -> "ImageList":
        """List the images that files, folders and glob patterns stand for, with a unique name for each.

        The name of an image is its path below the folder that was passed, without suffix: "pets/rex" for
        "photos/pets/rex.jpg" in the folder "photos". If several paths are passed, it is the path below the folder that
        contains all of them. If two names would be the same (rex.jpg and rex.png), both keep their suffix. If several
        paths lead to one file, the first of them counts.

        Args:
            paths: Files, folders and patterns as in `tadp.images.list_images`, or an `ImageList`, which is returned
                unchanged.

        Raises:
            ImageError: If one of the paths leads to no image.
        """
        if isinstance(paths, ImageList):
            return paths
        roots = {path: _root(path) for path in ([paths] if isinstance(paths, str | Path) else paths)}
        below: dict[Path, str] = {}
        images: dict[str, Path] = {}
        unreadable: dict[Path, ImageError] = {}
        left_out: list[Path] = []
        for path, root in roots.items():
            listing = find_images(path)
            unreadable |= listing.unreadable
            left_out += listing.left_out
            for image in listing.images:
                absolute = os.path.abspath(image)  # noqa: PTH100  removes ".." and keeps links
                if images.setdefault(absolute, image) is image:
                    below[image] = Path(os.path.relpath(absolute, root)).with_suffix("").as_posix()
        shared = os.path.commonpath(roots.values()) if roots else "."
        relative = {image: Path(os.path.relpath(path, shared)) for path, image in images.items()}
        return cls(_unique_names(relative), below, unreadable, left_out)

    def path_ids(self) -> dict[Path, str]:
        """Return ids that do not depend on which other images there are; see the function `path_ids`."""
        first: dict[str, Path] = {}
        for image, image_id in self.below.items():
            earlier = first.setdefault(composed(image_id), image)
            if earlier != image:
                raise CaptionError(
                    f"{earlier} and {image} would both have the id {image_id!r}. Rename one, or pass a folder above "
                    "both; a .json file distinguishes them."
                )
        return dict(self.below)

    def ids_in(self, captions: Mapping[str, str]) -> dict[Path, str]:
        """Return each image's id in captions: that of `path_ids` or, if the captions lack it, that of `caption_ids`.

        A table that records which files its captions describe has only ids of `path_ids`.
        """
        short, count = caption_ids(self.names), Counter(self.below.values())
        first = next(captions.records(), None) if isinstance(captions, CaptionTable) else None
        has_sources = first is not None and SOURCE in first.fields
        ids = {
            image: by_path
            if has_sources or (count[by_path] == 1 and _key_in(captions, by_path) is not None)
            else short[image]
            for image, by_path in self.below.items()
        }
        if isinstance(captions, CaptionTable):  # which finds ids in any Unicode form
            return ids
        return {image: key_of(image_id, captions) or image_id for image, image_id in ids.items()}


def _key_in(captions: Mapping[str, str], image_id: str) -> str | None:
    try:
        return key_of(image_id, captions)
    except CaptionError:  # no table can hold the id, because it is blank or not UTF-8
        return None


def caption_of(captions: Mapping[str, str], image_id: str) -> str | None:
    """Return a caption; None if it is missing, or if no table can hold the id, because it is blank or not UTF-8."""
    try:
        return captions.get(image_id)
    except CaptionError:
        return None


def _unique_names(relative: Mapping[Path, Path]) -> dict[Path, str]:
    # Some file systems do not distinguish "Rex" from "rex".
    stems = Counter(str(path.with_suffix("")).casefold() for path in relative.values())
    full = {str(path).casefold() for path in relative.values() if path.suffix}
    names = {}
    for image, path in relative.items():
        stem = path.with_suffix("")
        unique = stems[str(stem).casefold()] == 1 and str(stem).casefold() not in full
        names[image] = (stem if unique else path).as_posix()
    return names


def output_names(paths: str | Path | Sequence[str | Path]) -> dict[Path, str]:
    """List the images that paths lead to, each with a unique name for its results; see `ImageList.of`.

    Raises:
        ImageError: If a path leads to no image.
    """
    return dict(ImageList.of(paths).names)


def caption_ids(names: Mapping[Path, str]) -> dict[Path, str]:
    """Return the id of each image in a caption file that is written in one run.

    The id is the image's file name without suffix. If two images have the same file name, it is the name of the image
    in `names`.

    Args:
        names: A unique name for each image, as `output_names` returns it.
    """
    stems, full = Counter(image.stem for image in names), {image.name for image in names if image.suffix}
    return {
        image: image.stem if stems[image.stem] == 1 and image.stem not in full else name
        for image, name in names.items()
    }


def path_ids(paths: str | Path | Sequence[str | Path]) -> dict[Path, str]:
    """Return an id for each image that does not depend on the other images, for tables that grow over several runs.

    The id is the image's path below the folder that was passed, without suffix: "pets/rex" for "photos/pets/rex.jpg" in
    the folder "photos" or the pattern "photos/*/*.jpg". It is "rex" if the file itself was passed. If several paths
    lead to one file, the first of them counts.

    Args:
        paths: Files, folders and patterns, as in `tadp.images.list_images`.

    Raises:
        ImageError: If one of the paths leads to no image.
        CaptionError: If two images would have the same id.
    """
    return ImageList.of(paths).path_ids()


def _root(path: str | Path) -> str:
    """Return the folder to which the images of one path are relative."""
    path = Path(path)
    if path.is_dir():
        return os.path.abspath(path)  # noqa: PTH100
    if not path.exists() and has_magic(str(path)):
        while has_magic(str(path)):
            path = path.parent
        return os.path.abspath(path)  # noqa: PTH100
    return os.path.abspath(path.parent)  # noqa: PTH100
