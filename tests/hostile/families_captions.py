"""Files of captions."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from .cases import Kind, family
from .damage import DAMAGES, damage
from .fixtures import copy


def read_captions(suffix: str, sort: str, folder: Path, rng: Random) -> dict[str, str]:
    from tadp.captions import CaptionTable

    return dict(CaptionTable.open(damage(copy(f"captions/captions.{suffix}", folder), sort, rng)).items())


@family("caption files")
def caption_files() -> Iterator[Kind]:
    for suffix in ("json", "jsonl", "parquet"):
        for sort in DAMAGES:
            yield Kind(f"{suffix}, {sort}", partial(read_captions, suffix, sort), names=rf"captions\.{suffix}")
