"""Find the images in folders, and what is left out there."""

import os
import re
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from glob import escape, glob, has_magic
from pathlib import Path
from typing import NamedTuple

from tadp.errors import ImageError
from tadp.images.image_files import HEIF_SUFFIXES, SUFFIXES, is_image

# Suffixes of photographs that are not read: HEIC without its plug-in, JPEG 2000, JPEG XL, Targa, raw files of cameras.
UNREAD_SUFFIXES = (
    *(*HEIF_SUFFIXES, ".jp2", ".jxl", ".tga"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
)
_DEEP = re.compile(r"(?:^|(?<=[/\\]))\*\*(?:[/\\]|$)")


class Listing(NamedTuple):
    """The images that paths lead to.

    Attributes:
        images: The images, in the order of the paths, and sorted within each folder or pattern.
        unreadable: Folders and links in which there may be more images, and why they cannot be read.
        left_out: Files that are not images by their suffix, and entries that are not files, such as pipes.
    """

    images: list[Path]
    unreadable: dict[Path, ImageError]
    left_out: list[Path]


def list_images(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """List the image files that files, folders and glob patterns stand for.

    A file is listed whatever its suffix. A folder stands for all images in it and its subfolders. There, images are
    recognised by their suffix (one of `tadp.images.SUFFIXES`, in lower or upper case, or that of HEIC if pillow-heif
    is installed), and hidden files and folders are left out. A pattern, such as `"photos/**/*.png"`, stands for the
    images and folders that it matches. Links to folders are followed, and each folder is read once. If a folder or a
    link cannot be read, there is a warning.

    Args:
        paths: One path or several. A file that several paths lead to is listed once.

    Returns:
        Paths of the images, in the order of `paths` and sorted within each folder or pattern.

    Raises:
        ImageError: If one of the paths leads to no image.
    """
    listing = find_images(paths)
    if listing.unreadable:
        first, *more = listing.unreadable.values()
        also = f" {len(more)} more entries cannot be read." if more else ""
        warnings.warn(f"images may be missing: {first}{also}", stacklevel=2)
    return listing.images


def find_images(paths: str | Path | Sequence[str | Path]) -> Listing:
    """Find images as `list_images` does, and return what is left out.

    Raises:
        ImageError: If a path leads to no image.
    """
    images: dict[Path, None] = {}
    unreadable: dict[Path, ImageError] = {}
    left_out: dict[Path, None] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        if Path(path).is_file():
            images[Path(path)] = None
            continue
        found, others = [], []
        missed: dict[Path, ImageError] = {}
        matches = [Path(path)] if os.path.lexists(path) else list(_matches(str(path), missed))
        if not matches and not missed:
            raise ImageError(f"{str(path)!r} is not a file or folder, and no file matches it. Check its spelling.")
        for match in matches:
            for file in _files_below(match, missed) if match.is_dir() else [match]:
                _sort_in(file, found, others, missed)
        if not found:
            raise _no_images(path, others, missed)
        images.update(dict.fromkeys(_once(found)))
        left_out.update(dict.fromkeys(_once(others)))
        unreadable |= {entry: missed[entry] for entry in _once(missed)}
    return Listing(list(images), unreadable, list(left_out))


def summary(left_out: Sequence[Path]) -> str:
    """Say how many files of which kinds are left out.

    Example:
        >>> summary([Path("a.txt"), Path("b.TXT"), Path("c.md")])
        '3 files that are not images (.txt 2, .md 1)'
    """
    special = [path for path in left_out if path.exists() and not path.is_file()]
    kinds = Counter(path.suffix.lower() or "no suffix" for path in left_out if path not in special)
    parts = []
    if kinds:
        count = kinds.total()
        noun = "file that is not an image" if count == 1 else "files that are not images"
        parts.append(f"{count} {noun} ({', '.join(f'{kind} {number}' for kind, number in kinds.most_common())})")
    if special:
        noun = "entry that is not a file" if len(special) == 1 else "entries that are not files"
        parts.append(f"{len(special)} {noun}, such as {special[0]}")
    heic = next((kind for kind in kinds if kind in HEIF_SUFFIXES), None)
    return " and ".join(parts) + (
        f"; {heic} needs a plug-in, pip install pillow-heif, or convert it to JPEG" if heic else ""
    )


def _sort_in(file: Path, images: list[Path], left_out: list[Path], unreadable: dict[Path, ImageError]) -> None:
    """Add a path that is not a folder to the images, to what is left out, or to what cannot be read."""
    if file.is_symlink() and not file.exists():
        unreadable[file] = ImageError(
            f"{file} is a link to {os.readlink(file)}, which is not there. Mount its disk, or remove the link."  # noqa: PTH115  as written
        )
    elif file.is_file() and is_image(file):
        images.append(file)
    else:
        left_out.append(file)


def _no_images(path: str | Path, left_out: list[Path], unreadable: dict[Path, ImageError]) -> ImageError:
    if unreadable:
        return next(iter(unreadable.values()))
    if left_out == [Path(path)]:
        return ImageError(f"{str(path)!r} is not a regular file; pass an image file or a folder.")
    has = f" It has {summary(left_out)}." if left_out else ""
    return ImageError(f"{str(path)!r} holds no images. Images end in {', '.join(SUFFIXES)}.{has}")


def _once(paths: Iterable[Path]) -> list[Path]:
    """Sort paths, and drop those that lead to a file of another one through a linked folder."""
    real = {folder: os.path.realpath(folder) for folder in {path.parent for path in paths}}
    through_link = {folder: target != os.path.abspath(folder) for folder, target in real.items()}  # noqa: PTH100
    first: dict[tuple[str, str], Path] = {}
    for path in sorted(paths, key=lambda path: (through_link[path.parent], path)):
        first.setdefault((real[path.parent], path.name), path)
    return sorted(first.values())


def _matches(pattern: str, unreadable: dict[Path, ImageError]) -> Iterator[Path]:
    """Expand a pattern. Unlike in `glob`, "**" reads each folder once, so that links that form a loop have an end."""
    deep = _DEEP.search(pattern)
    if deep is None:
        yield from map(Path, glob(pattern))  # noqa: PTH207  a pattern may be absolute
        return
    before, after = pattern[: deep.start()], pattern[deep.end() :]
    for root in glob(before) if has_magic(before) else [before or "."]:  # noqa: PTH207
        if not after:
            yield Path(root)
            continue
        for folder, _ in _walk(Path(root), unreadable):
            yield from _matches(os.path.join(escape(str(folder)), after), unreadable)  # noqa: PTH118  keeps the pattern


def _files_below(root: Path, unreadable: dict[Path, ImageError]) -> Iterator[Path]:
    for folder, names in _walk(root, unreadable):
        yield from (folder / name for name in names)


def _walk(root: Path, unreadable: dict[Path, ImageError]) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and each one below it, with the names in it that are not folders. Hidden names are left out.

    Folders themselves come before links to folders, and a folder that was read is not read again through a link.
    """
    if not root.is_dir():
        return
    folders, links, seen = deque([root]), deque[Path](), set[str]()
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        names = []
        try:
            real = os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(folder / entry.name)
                    elif entry.is_symlink() and (folder / entry.name).is_dir():
                        links.append(folder / entry.name)
                    else:
                        names.append(entry.name)
        except OSError as error:  # no permission, or a disk that is gone
            unreadable[folder] = ImageError(
                f"the folder {folder} cannot be read: {error.strerror}. Check its permissions and its disk."
            )
        yield folder, names
