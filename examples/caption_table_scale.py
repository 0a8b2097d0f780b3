"""What does it cost to open a caption table of a million images, and to look a caption up?

    python examples/caption_table_scale.py                   # a million entries, under a minute on two quiet cores
    python examples/caption_table_scale.py --entries 10000   # seconds, to see that it runs

The table is written, and then opened in a process of its own, whose memory is read before opening, after it, and after
the look-ups. Ids are drawn at random, and each caption is compared with what was written. JSON Lines and Parquet, which
are read into memory, stand beside the table on disk.
"""

import argparse
import json
import os
import platform
import random
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from tadp.captions import CaptionTable, Provenance

SOURCE = Provenance("made-up", generation={"min_new_tokens": 20})
COLOURS = ("red", "blue", "green", "white", "black", "brown", "yellow")
THINGS = ("dog", "car", "chair", "boat", "sheep", "bicycle", "bottle", "horse", "train", "plane", "sofa")
PLACES = ("on the grass", "in the water", "next to a building", "at night", "in a room")
FORMATS = {".db": "SQLite, on disk", ".jsonl": "JSON Lines, into memory", ".parquet": "Parquet, into memory"}
MB = 1e6


def image_id(number: int) -> str:
    return f"train/{number % 1000:03d}/{number:09d}.jpg"


def caption(number: int) -> str:
    """A caption as BLIP-2 writes them, told from others by its number."""
    first, second = THINGS[number % 11], THINGS[number * 7 % 11]
    return f"a {COLOURS[number % 7]} {first} and a {COLOURS[number * 3 % 7]} {second} {PLACES[number % 5]}, {number}"


def write(path: Path, entries: int) -> dict[str, float]:
    """Write the table, and export it; seconds and megabytes of each file."""
    figures = {}
    begun = time.perf_counter()
    with CaptionTable.create(path, provenance=SOURCE) as table:
        table.update((image_id(number), caption(number)) for number in range(entries))
        for suffix in FORMATS:
            if suffix != ".db":
                begun = time.perf_counter()
                (table.to_jsonl if suffix == ".jsonl" else table.to_parquet)(path.with_suffix(suffix))
            figures[suffix] = {
                "write_s": time.perf_counter() - begun,
                "mb": path.with_suffix(suffix).stat().st_size / MB,
            }
    return figures


def measure(path: Path, entries: int, lookups: int, seed: int) -> dict[str, float]:
    """Open a file and look captions up, in this process, which has done nothing else."""
    with tempfile.TemporaryDirectory() as folder:  # a small table of the same kind first: all code is loaded then
        with CaptionTable.create(Path(folder) / "small.db") as small:
            small.add("a", "a dog")
            if path.suffix != ".db":
                (small.to_jsonl if path.suffix == ".jsonl" else small.to_parquet)(Path(folder) / f"small{path.suffix}")
        CaptionTable.open(Path(folder) / f"small{path.suffix}")["a"]
    memory = psutil.Process().memory_info
    before = memory().rss
    begun = time.perf_counter()
    table = CaptionTable.open(path)
    opened_s, opened = time.perf_counter() - begun, memory().rss
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
    memories = {"opening_mb": (opened - before) / MB, "lookups_mb": (memory().rss - opened) / MB}
    return {"images": len(table), "open_ms": opened_s * 1e3, **memories, **figures}


def measure_in_a_fresh_process(path: Path, options: argparse.Namespace) -> dict[str, float]:
    numbers = ("--entries", options.entries, "--lookups", options.lookups, "--seed", options.seed)
    command = [sys.executable, __file__, "--measure", str(path), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def page(figures: dict[str, dict[str, float]], options: argparse.Namespace) -> str:
    command = f"python examples/caption_table_scale.py --entries {options.entries} --lookups {options.lookups}"
    machine = (
        f"{os.cpu_count()} cores, {platform.machine()}, load average {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, pyarrow {version('pyarrow')}"
    )
    lines = [
        f"Command: `{shlex.join(shlex.split(command))} --seed {options.seed}`; {machine}.",
        "",
        f"A table of {options.entries:,} images, opened in a fresh process, then {options.lookups:,} look-ups of "
        "random ids, the files in the system's cache. Memory is the growth of the process's resident size. The last "
        "three columns are the wall time of a look-up, in microseconds.",
        "",
        "| | file, MB | written in, s | opened in, ms | memory by opening, MB | by look-ups, MB | median | 90% | 99% |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for suffix, name in FORMATS.items():
        one = figures[suffix]
        times = " | ".join(f"{one[f'p{share}_us']:.1f}" for share in (50, 90, 99))
        lines.append(
            f"| {name} | {one['mb']:.0f} | {one['write_s']:.1f} | {one['open_ms']:,.1f} | {one['opening_mb']:.1f} | "
            f"{one['lookups_mb']:.1f} | {times} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--lookups", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Markdown file to write beside printing")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # what the fresh process does
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.entries, options.lookups, options.seed)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.db"
        figures = write(path, options.entries)
        for suffix, one in figures.items():
            one |= measure_in_a_fresh_process(path.with_suffix(suffix), options)
    text = page(figures, options)
    print(text, end="")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
