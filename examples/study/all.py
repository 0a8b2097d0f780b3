"""Run the whole study: every table and figure, one after the other, and the pages of verdicts.

    python examples/study/all.py --out study --pages docs/results

Finished parts are not repeated, so call it again if it was stopped. All other options (--seeds, --jobs, --quick,
--model, and so on) are passed on to every part. `--skip domains` leaves out the two longest parts.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PARTS = (
    "figure4",
    "appendix_a",
    "copy_paste",
    "table1",
    "table2",
    "controls",
    "table3",
    "table_s2",
    "figure3",
    "domains",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the runs")
    parser.add_argument("--pages", type=Path, help="folder of the pages (default: OUT/pages)")
    parser.add_argument("--skip", nargs="*", choices=PARTS, default=[], help="parts to leave out")
    how, options = parser.parse_known_args()
    pages = how.pages or how.out / "pages"
    for part in PARTS:
        if part not in how.skip:
            out = how.out / part if part == "domains" else how.out
            source = ["--from", str(pages)] if part == "domains" else []  # where the page of verdicts looks for them
            call(part, "--out", str(out), "--page", str(pages / f"study-{part}"), *source, *options)
    call("verdicts", "--results", str(pages), "--page", str(pages / "paper.md"))


def call(part: str, *options: str) -> None:
    print(f"== {part}", flush=True)
    code = subprocess.run([sys.executable, str(HERE / f"{part}.py"), *options]).returncode
    if code:
        sys.exit(f"{part} ended with code {code}. Call again to continue.")


if __name__ == "__main__":
    main()
