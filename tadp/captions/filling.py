"""Fill a table with records, in transactions of about a second, or with a captioner, batch by batch.

A run that was stopped can therefore resume where it was.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, Sized
from itertools import islice
from typing import Any, TypeVar

from tqdm import tqdm

from tadp.captions.records import Located, shown
from tadp.captions.store import Store
from tadp.errors import CaptionError
from tadp.files.checks import check_whole

CHUNK = 50_000  # rows per transaction; with unsorted ids, smaller transactions write the file's pages more often
_CHUNK_S = 1.0  # longest time that records of a slow source wait to be written

Image = TypeVar("Image")


def write_in_chunks(store: Store, records: Iterable[Located], *, replace: bool, mix: bool) -> int:
    """Write records as they come, in transactions of about a second, and return how many are new."""
    added, chunk, since = 0, [], time.monotonic()
    try:
        for record in records:
            chunk.append(record)
            if len(chunk) >= CHUNK or time.monotonic() - since > _CHUNK_S:
                full, chunk = chunk, []
                added += store.write(full, replace=replace, mix=mix)
                since = time.monotonic()
    finally:  # what came before an error, or Ctrl-C, is kept
        if chunk:
            added += store.write(chunk, replace=replace, mix=mix)
    return added


def fill(
    images: Mapping[str, Image] | Iterable[tuple[str, Image]],
    captioner: Callable[[list[Image]], Sequence[str]],
    *,
    is_known: Callable[[str], bool],
    update: Callable[[Mapping[str, str]], int],
    batch_size: int,
    progress: bool,
) -> int:
    """Do the work of `CaptionTable.fill`, which documents arguments and errors; return how many images are new."""
    check_whole(batch_size, name="batch_size")
    count = len(images) if isinstance(images, Mapping) else None
    items: Iterable[Any] = images.items() if isinstance(images, Mapping) else images
    bar = tqdm(items, total=count, desc="captions", unit="image", disable=not progress)
    pairs = bar if isinstance(images, Mapping) else _each_once(bar)
    todo = (pair for pair in pairs if not is_known(pair[0]))
    added, silent = 0, []
    while batch := dict(islice(todo, batch_size)):
        captions = _described(batch, captioner)
        empty = [key for key, caption in captions.items() if isinstance(caption, str) and not caption.strip()]
        added += update({key: caption for key, caption in captions.items() if key not in empty})
        silent += empty
    if silent:
        warnings.warn(
            f"the captioner returned an empty caption for {len(silent)} images, the first of which is "
            f"{shown(silent[0])}; they are still missing. Pass min_new_tokens, or another prompt.",
            stacklevel=3,
        )
    return added


def id_and_captions(pair: Any) -> tuple[Any, Any]:
    """Return a pair after checking that it is one."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"update takes pairs of an id and its captions; got {shown(pair)}.")
    return pair[0], pair[1]


def _each_once(pairs: Iterable[Any]) -> Iterator[Any]:
    """Yield the pairs, and refuse an id that occurs again."""
    seen: set[str] = set()
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(
                f"images must be a mapping from id to image, or pairs of an id and an image; got {shown(pair)} among "
                "them. Give each image an id: {path.stem: path for path in paths}."
            )
        key, image = pair
        if key in seen:
            raise CaptionError(
                f"the id {shown(key)} occurs twice among the images. Leave one out, or give each image its own id; the "
                "captions of earlier batches are kept."
            )
        seen.add(key)
        yield key, image


def _described(images: dict[str, Image], captioner: Callable[[list[Image]], Sequence[str]]) -> dict[str, str]:
    """Caption a batch and check that there is one caption per image."""
    try:
        captions = captioner(list(images.values()))
    except Exception as error:
        error.add_note(f"This happened in a batch of {len(images)} images with ids {shown(list(images))}.")
        raise
    if isinstance(captions, str | Set | Mapping) or not isinstance(captions, Sized) or len(captions) != len(images):
        is_list = isinstance(captions, Sized) and not isinstance(captions, Set | Mapping)
        got = f"{len(captions)} captions" if is_list else f"a {type(captions).__name__}"
        got = f"the string {shown(captions)}" if isinstance(captions, str) else got
        raise CaptionError(
            f"a captioner must return a list with one caption per image; got {got} for {len(images)} images."
        )
    return dict(zip(images, captions, strict=True))
