"""Bad input, produced by families: nothing is silently wrong, nothing is lost and nothing is executed.

`python -m tests.hostile --out docs/results/robustness.md` runs all of it and writes the table.
`python -m tests.hostile --only "image files"` runs the kinds whose names begin so, and prints each failure.
`test_sample.py` runs a seeded sample in the test suite.

A kind is one reader with one sort of damage, or one key with one class of wrong value. Each kind runs in a forked
child of one warm process, in an empty folder, with limits on time and memory, and with a watch on everything that
starts a process, opens a connection or runs code (`child.py`). A kind is handled if

- it gives the right value (only where `Kind.right` says what that is), or
- it raises a clear error: one of tadp's own, or a ValueError or TypeError that tadp itself raises, with a message under
  600 characters that names the file, key or argument (`Kind.names`). On the command line it also has the right exit
  code and no traceback.

To add a family, write a generator in any module here named `families_*.py`; it is found by its decorator:

    @family("depth files")
    def depth_files() -> Iterator[Kind]:
        for damage in DAMAGES:
            yield Kind(damage, partial(read_depth, damage), names="depth")  # read_depth(damage, folder, rng)

`run(folder, rng)` writes the damaged input into the empty folder and reads it; what it returns goes to `right`. Without
`right`, only an error will do. `fixtures.py` has small models and data to copy and damage, `damage.py` the sorts of
damage to files and the classes of wrong values, `cases.tadp` runs the command line. A family has at most 60 kinds;
yielding them must not read or compute anything. To add a command to the kills, add a row to `kills.COMMANDS`.
"""

import os
import sys
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # torch and the hub read these when they are imported
sys.path[:0] = [str(Path(__file__).parents[1] / "support")] * (Path(__file__).parents[1] / "support").is_dir()
