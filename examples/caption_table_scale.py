"""How long does it take to open a caption table of a million images, and to look up a caption?

    python examples/caption_table_scale.py                   # a million entries, about a minute of CPU time
    python examples/caption_table_scale.py --entries 10000   # takes seconds, to check that it runs

The table is written, and then opened in a new process, whose memory is read before opening it, after that, and after
the look-ups. Ids are drawn at random, and each caption is compared with the one that was written. The table on disk
is compared with JSON Lines and Parquet, which are read into memory.
"""

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tables.made_up import caption, image_id
from tables.opening import MB, measure, timed

from tadp.captions import CaptionTable, Provenance

SOURCE = Provenance("made-up", generation={"min_new_tokens": 20})
FORMATS = {".db": "SQLite, on disk", ".jsonl": "JSON Lines, in memory", ".parquet": "Parquet, in memory"}


def write(path: Path, entries: int) -> dict[str, dict[str, Any]]:
    """Write and export the table, and return the time and size for each file."""
    figures = {}
    with CaptionTable.create(path, provenance=SOURCE) as table:
        pairs = ((image_id(number), caption(number)) for number in range(entries))
        jobs = {
            ".db": lambda: table.update(pairs),
            ".jsonl": lambda: table.to_jsonl(path.with_suffix(".jsonl")),
            ".parquet": lambda: table.to_parquet(path.with_suffix(".parquet")),
        }
        for suffix, job in jobs.items():
            _, duration = timed(job)
            figures[suffix] = {"write_s": duration, "mb": path.with_suffix(suffix).stat().st_size / MB}
    return figures


def measure_in_a_new_process(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    numbers = ("--entries", options.entries, "--lookups", options.lookups, "--seed", options.seed)
    command = [sys.executable, __file__, "--measure", str(path), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def seconds(duration: list[float]) -> str:
    cpu, wall = duration
    return f"{cpu:.2g} ({wall:.2g})" if max(duration) < 10 else f"{cpu:.0f} ({wall:.0f})"


def page(figures: dict[str, dict], options: argparse.Namespace) -> str:
    numbers = f"--entries {options.entries} --lookups {options.lookups} --seed {options.seed}"
    machine = (
        f"{os.cpu_count()} cores, {platform.machine()}, load average {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, pyarrow {version('pyarrow')}"
    )
    lines = [
        f"# A caption table for {options.entries:,} images",
        "",
        "A caption table (`tadp.captions.CaptionTable`) stores the caption of each image of a data set in one file. "
        f"How long does it take to write, open and read one with {options.entries:,} captions, and how much memory "
        "does that need? The file was opened in a new process, and the captions of "
        f"{options.lookups:,} random image ids were looked up. The file was already in the "
        "cache of the operating system. In all columns, lower is better.",
        "",
        f"Command: `python examples/caption_table_scale.py {numbers}`; {machine}.",
        "",
        "- *Format*: SQLite is read from disk at each look-up. JSON Lines and Parquet are read into memory when the "
        "table is opened.",
        "- *Times* to write and to open are CPU times, with wall times in brackets. JSON Lines and Parquet were "
        "written from the SQLite table.",
        "- *File*: the captions are made up and repeat the same words, so real captions would take more space in "
        "Parquet.",
        "- *Memory* is how much the resident memory of the process grows when it opens the file, and then over all "
        "look-ups.",
        "- *Look-up* is the wall time of one look-up: its median, and the times that 90 % and 99 % of the look-ups "
        "do not exceed.",
        "",
        "| format | file, MB | time to write, s | time to open, s | memory to open, MB | memory to look up, MB "
        "| look-up, median, µs | look-up, 90 %, µs | look-up, 99 %, µs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for suffix, name in FORMATS.items():
        cost = figures[suffix]
        times = " | ".join(f"{cost[f'p{share}_us']:.1f}" for share in (50, 90, 99))
        durations = f"{cost['mb']:.0f} | {seconds(cost['write_s'])} | {seconds(cost['open_s'])}"
        lines.append(f"| {name} | {durations} | {cost['opening_mb']:.1f} | {cost['lookups_mb']:.1f} | {times} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000, help="captions in the table (default: %(default)s)")
    parser.add_argument("--lookups", type=int, default=20_000, help="captions to look up (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the ids to look up")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # used for the new process
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.entries, options.lookups, options.seed)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.db"
        figures = write(path, options.entries)
        for suffix, cost in figures.items():
            cost |= measure_in_a_new_process(path.with_suffix(suffix), options)
    text = page(figures, options)
    print(text, end="")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
