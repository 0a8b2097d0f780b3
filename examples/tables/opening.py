"""The time and memory for opening a file of captions and looking some up, in a new process."""

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
    """The result of a job, with its CPU and wall time, in seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = job()
    return result, [time.process_time() - cpu, time.perf_counter() - wall]


def measure(path: Path, entries: int, lookups: int, seed: int) -> dict[str, Any]:
    """Open a file and look up captions. This process must not have done anything else."""
    with tempfile.TemporaryDirectory() as folder:  # open a small table of the same kind first, to load all code
        with CaptionTable.create(Path(folder) / "small.db") as small:
            small.add("a", "a dog")
            if path.suffix != ".db":
                (small.to_jsonl if path.suffix == ".jsonl" else small.to_parquet)(Path(folder) / f"small{path.suffix}")
        CaptionTable.open(Path(folder) / f"small{path.suffix}")["a"]
    memory = psutil.Process().memory_info
    before = memory().rss
    table, duration = timed(lambda: CaptionTable.open(path))
    opened = memory().rss
    generator = random.Random(seed)
    times = []
    for _ in range(lookups):
        number = generator.randrange(entries)
        key = image_id(number)
        started = time.perf_counter()
        text = table[key]
        times.append((time.perf_counter() - started) * 1e6)
        if text != caption(number):
            raise ValueError(f"{key} should have the caption {caption(number)!r}; got {text!r}.")
    times.sort()
    figures = {f"p{share}_us": times[min(int(lookups * share / 100), lookups - 1)] for share in (50, 90, 99)}
    memory_mb = {"opening_mb": (opened - before) / MB, "lookups_mb": (memory().rss - opened) / MB}
    return {"images": len(table), "open_s": duration, **memory_mb, **figures}
