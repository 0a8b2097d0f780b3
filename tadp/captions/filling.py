"""Caption what a table lacks, batch by batch, so that a run that was stopped goes on where it was."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from tadp.captions.records import shown
from tadp.errors import CaptionError
from tadp.files.checks import check_whole

if TYPE_CHECKING:
    from tadp.captions.table import CaptionTable

Image = TypeVar("Image")


def fill(
    table: "CaptionTable",
    images: Mapping[str, Image] | Iterable[tuple[str, Image]],
    captioner: Callable[[list[Image]], Sequence[str]],
    *,
    batch_size: int,
    progress: bool,
) -> int:
    """`CaptionTable.fill`, which says what it takes and raises; the number of images that are new."""
    check_whole(batch_size, name="batch_size")
    count = len(images) if isinstance(images, Mapping) else None
    items: Iterable[Any] = images.items() if isinstance(images, Mapping) else images
    bar = tqdm(items, total=count, desc="captions", unit="image", disable=not progress)
    pairs = bar if isinstance(images, Mapping) else _each_once(bar)
    todo = (pair for pair in pairs if pair[0] not in table)
    added, silent = 0, []
    while batch := dict(islice(todo, batch_size)):
        captions = _described(batch, captioner)
        empty = [key for key, caption in captions.items() if isinstance(caption, str) and not caption.strip()]
        added += table.update({key: caption for key, caption in captions.items() if key not in empty})
        silent += empty
    if silent:
        warnings.warn(
            f"the captioner had nothing to say about {len(silent)} images, {shown(silent[0])} first; they are "
            "still missing. Pass min_new_tokens, or another prompt.",
            stacklevel=3,
        )
    return added


def _each_once(pairs: Iterable[Any]) -> Iterator[Any]:
    """The pairs, up to the first whose id has been there."""
    seen: set[str] = set()
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(
                f"images are a mapping from id to image, or pairs of both; got {shown(pair)} among them. Give each "
                "image an id: {path.stem: path for path in paths}."
            )
        key, image = pair
        if key in seen:
            raise CaptionError(
                f"the id {shown(key)} stands twice among the images. Leave one out, or give each an id of its own; the "
                "batches before are kept."
            )
        seen.add(key)
        yield key, image


def _described(images: dict[str, Image], captioner: Callable[[list[Image]], Sequence[str]]) -> dict[str, str]:
    """A caption an image."""
    try:
        captions = captioner(list(images.values()))
    except Exception as error:
        error.add_note(f"This was in a batch of {len(images)} images, ids {shown(list(images))}.")
        raise
    if isinstance(captions, str) or len(captions) != len(images):
        got = f"the string {shown(captions)}" if isinstance(captions, str) else f"{len(captions)} captions"
        raise CaptionError(f"a captioner returns a list, one caption an image; got {got} for {len(images)} images.")
    return dict(zip(images, captions, strict=True))
