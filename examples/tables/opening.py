"""What it costs to open a file of captions, and to look some up, in a process that has done nothing else."""

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tables.made_up import caption, image_id
from tadp.captions import CaptionTable

MB = 1e6
Result = TypeVar("Result")


def timed(job: Callable[[], Result]) -> tuple[Result, list[float]]:
    """What a job returns, with the CPU and the wall time it took, in seconds."""
    begun = time.process_time(), time.perf_counter()
    result = job()
    return result, [time.process_time() - begun[0], time.perf_counter() - begun[1]]


def measure(path: Path, entries: int, lookups: int, seed: int) -> dict[str, Any]:
    """Open a file and look captions up, in this process, which has done nothing else."""
    with tempfile.TemporaryDirectory() as folder:  # a small table of the same kind first: all code is loaded then
        with CaptionTable.create(Path(folder) / "small.db") as small:
            small.add("a", "a dog")
            if path.suffix != ".db":
                (small.to_jsonl if path.suffix == ".jsonl" else small.to_parquet)(Path(folder) / f"small{path.suffix}")
        CaptionTable.open(Path(folder) / f"small{path.suffix}")["a"]
    memory = psutil.Process().memory_info
    before = memory().rss
    table, taken = timed(lambda: CaptionTable.open(path))
    opened = memory().rss
    generator = random.Random(seed)
    times = []
    for _ in range(lookups):
        number = generator.randrange(entries)
        asked = image_id(number)
        begun = time.perf_counter()
        found = table[asked]
        times.append((time.perf_counter() - begun) * 1e6)
        if found != caption(number):
            raise ValueError(f"{asked} should have {caption(number)!r}; got {found!r}.")
    times.sort()
    figures = {f"p{share}_us": times[min(int(lookups * share / 100), lookups - 1)] for share in (50, 90, 99)}
    memory_mb = {"opening_mb": (opened - before) / MB, "lookups_mb": (memory().rss - opened) / MB}
    return {"images": len(table), "open_s": taken, **memory_mb, **figures}
