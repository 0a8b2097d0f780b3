"""How long does it take to open a feature store of ten million images, and to find an image in it?

    python examples/feature_store_scale.py                  # ten million rows, about three minutes of CPU time
    python examples/feature_store_scale.py --images 5000    # takes seconds, to check that it runs

The rows of the manifest are made up. Of the shards, only the rows that are looked up are written; the rest of each file
is a hole. Each step is measured in a new process. Before a store is opened, its files are dropped from the cache of the
operating system.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tables.made_up import caption, image_id
from tables.made_up_store import digest, write
from tables.opening import MB, timed

from tadp.extract import FeatureStore
from tadp.extract.store_index import StoreIndex, key_of_id

_CHUNK = 100_000  # ids that are compared with the index at once


def forget(folder: Path) -> None:
    """Drop the files of a store from the cache of the operating system."""
    for path in folder.rglob("*.*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(step: str, folder: Path, images: int, looked_up: list[int]) -> dict[str, Any]:
    """Measure one step in this process, which must not have done anything else."""
    before = psutil.Process().memory_info().rss
    figures: dict[str, Any] = {}
    if step == "index":
        _, figures["index_s"] = timed(lambda: StoreIndex.open(folder))
    elif step == "open":
        forget(folder)
        store, figures["open_s"] = timed(lambda: FeatureStore.open(folder))
        times, warm = [], []
        for number in looked_up:
            forget(folder)
            item, (_, wall) = timed(lambda number=number: store[image_id(number)])
            times.append(wall * 1000)
            if item.captions != (caption(number),) or len(store) != images:
                raise ValueError(f"{image_id(number)} should have the caption {caption(number)!r}; got {item}.")
        for number in (*looked_up, *looked_up):
            store[image_id(number)]
        for number in looked_up:  # now the files are in the cache
            _, (_, wall) = timed(lambda number=number: store[image_id(number)])
            warm.append(wall * 1000)
        figures |= {"warm_ms": sorted(warm)[len(warm) // 2]}
        figures |= {"cold_ms": sorted(times)[len(times) // 2], "coldest_ms": max(times)}
    else:
        index, done = StoreIndex.open(folder), 0
        for first in range(0, images, _CHUNK):
            numbers = range(first, min(first + _CHUNK, images))
            rows = index.find(np.array([key_of_id(image_id(number)) for number in numbers], np.uint64))
            contents = np.array([int(digest(number)[:16], 16) for number in numbers], np.uint64)
            done += int((index.contents[rows] == contents).sum())
        if done != images:
            raise ValueError(f"{images} images should be done; the plan found {done}.")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return figures | {f"{step}_mb": (peak - before) / MB, f"{step}_peak_mb": peak / MB}


def measure_in_a_new_process(step: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--images", str(options.images), "--lookups", str(options.lookups)]
    done = subprocess.run([*command, "--measure", step, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def page(figures: dict[str, Any], options: argparse.Namespace) -> str:
    numbers = f"--images {options.images} --lookups {options.lookups}"
    machine = (
        f"{os.cpu_count()} cores, {platform.machine()}, load average {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}, pyarrow {version('pyarrow')}"
    )
    tenths = figures["tenths_s"]
    lines = [
        f"# A feature store for {options.images:,} images",
        "",
        "A [feature store](../big-data.md#features-of-many-images-a-store) has a manifest with a row for each image, "
        "and an index that finds rows by image id. How do they grow? The rows are made up, without tokens and words, "
        "and shards have only the rows that are looked up. Each step ran in a new process.",
        "",
        f"Command: `python examples/feature_store_scale.py {numbers}`; {machine}.",
        "",
        "- *Cold* means that the files of the store were dropped from the cache of the operating system before.",
        "- *Memory* is the largest resident memory of the process, including mapped files, and in brackets how much it "
        "grew in this step. The rest is Python with torch, pyarrow and tadp.",
        "- *Planning a run* compares the ids and the contents of all images with the index, in chunks. The list of the "
        "image files and reading them are not included.",
        "- *The first and the last tenth* of the rows take the same time to write if writing is linear.",
        "",
        "| | result |",
        "|---|---|",
        f"| size of the manifest, MB | {figures['manifest_mb']:.0f} |",
        f"| size of the index, MB | {figures['index_files_mb']:.0f} |",
        f"| CPU time to write the first and the last tenth of the rows, s | {tenths[0]:.2g}, {tenths[-1]:.2g} |",
        f"| CPU time to make the index, s | {figures['index_s'][0]:.2g} |",
        f"| memory to make the index, MB | {figures['index_peak_mb']:.0f} ({figures['index_mb']:.0f}) |",
        f"| wall time to open the store, cold, s | {figures['open_s'][1]:.2g} |",
        f"| wall time to look up an image by id, cold: median and longest of {options.lookups}, ms "
        f"| {figures['cold_ms']:.2g}, {figures['coldest_ms']:.2g} |",
        f"| the same when the files are in the cache: median, ms | {figures['warm_ms']:.2g} |",
        f"| memory to plan a run, MB | {figures['plan_peak_mb']:.0f} ({figures['plan_mb']:.0f}) |",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000_000, help="rows of the manifest (default: %(default)s)")
    parser.add_argument("--lookups", type=int, default=20, help="images to look up (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # used for the new process
    options = parser.parse_args()
    looked_up = random.Random(0).sample(range(options.images), options.lookups)
    if options.measure is not None:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]), options.images, looked_up)))
        return
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "store"
        figures: dict[str, Any] = {"tenths_s": write(folder, options.images, looked_up)}
        for step in ("index", "open", "plan"):
            figures |= measure_in_a_new_process(step, folder, options)
        for name, part in (("manifest_mb", "manifest"), ("index_files_mb", "index")):
            figures[name] = sum(path.stat().st_size for path in (folder / part).rglob("*.*")) / MB
    text = page(figures, options)
    print(text, end="")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
