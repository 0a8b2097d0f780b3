"""Images that threads read and decode while the images before them are computed."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from tadp.extract.outputs import file_digest
from tadp.files.checks import is_out_of_memory
from tadp.images.reading import to_pil

_THREADS = 4  # decoding releases Python's lock; more threads than this wait for the disk or for each other

T = TypeVar("T")


@dataclass(frozen=True)
class ReadImage:
    """What was read of an image file.

    Attributes:
        digest: Its SHA-256; None if it could not be read.
        pixels: Its pixels, (H, W, 3) with 8 bits.
    """

    digest: str | None
    pixels: np.ndarray


def read_file(image: Path, *, max_side_px: int | None) -> ReadImage:
    """Read an image as `tadp.images.read_image` does, and shrink it if its longer side is over the limit.

    The digest is taken first, so if the file changes later, its digest differs from that in the record.
    """
    digest, picture = file_digest(image), to_pil(image)
    return ReadImage(digest, np.asarray(picture if max_side_px is None else shrink(picture, max_side_px)))


def shrink(picture: Image.Image, max_side_px: int) -> Image.Image:
    """The picture, shrunk if its longer side is over the limit. No side becomes shorter than 8 pixels."""
    scale = max_side_px / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize([max(round(side * scale), 8) for side in picture.size], Image.Resampling.LANCZOS)


def read_ahead(
    images: Iterable[Path], read: Callable[[Path], T], *, ahead: int
) -> Generator[tuple[Path, "Future[T]"], None, None]:
    """Yield images in their order, each with what a thread has read of it. Asking for the result raises its error.

    If there is too little memory to read an image, it and those that were being read with it are read again, one by
    one, so that an image only fails if it is too large on its own.

    Args:
        images: The images.
        read: The function that reads one.
        ahead: Number of images that may be read, and kept in memory, before they are asked for.
    """
    waiting: deque[tuple[Path, Future[T]]] = deque()
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), thread_name_prefix="tadp-read") as threads:

        def next_images() -> Iterator[tuple[Path, Future[T]]]:  # no variable holds a result after it was yielded
            if not _lacked_memory(waiting[0][1]):
                yield waiting.popleft()
                return
            again = [image for image, _ in waiting]
            wait([result for _, result in waiting])
            waiting.clear()
            for image in again:
                yield image, _finished(threads.submit(read, image))

        try:
            for image in images:
                waiting.append((image, threads.submit(read, image)))
                if len(waiting) > ahead:
                    yield from next_images()
            while waiting:
                yield from next_images()
        finally:
            for _, result in waiting:
                result.cancel()


def _finished(result: Future[T]) -> Future[T]:
    wait([result])
    return result


def _lacked_memory(result: Future[Any]) -> bool:
    error = result.exception()
    return error is not None and is_out_of_memory(error.__cause__ or error)
