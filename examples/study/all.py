"""The whole study: every table and figure, one after the other, and the page of verdicts.

    python examples/study/all.py --out study --pages docs/results

What is finished is not done again; call it again after it was stopped. Options that it does not know go to all
of them: --seeds, --jobs, --quick, --model, and so on. With --skip domains the two longest parts are left out.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PARTS = ("figure4", "appendix_a", "table1", "controls", "table3", "table_s2", "figure3", "domains")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study"))
    parser.add_argument("--pages", type=Path, help="folder of the pages; OUT/pages by default")
    parser.add_argument("--skip", nargs="*", choices=PARTS, default=[])
    how, others = parser.parse_known_args()
    pages = how.pages or how.out / "pages"
    for part in PARTS:
        if part not in how.skip:
            out = how.out / part if part == "domains" else how.out
            found = ["--from", str(pages)] if part == "domains" else []  # where the page of verdicts looks for them
            call(part, "--out", str(out), "--page", str(pages / f"study-{part}"), *found, *others)
    call("verdicts", "--results", str(pages), "--page", str(pages / "paper.md"))


def call(part: str, *options: str) -> None:
    print(f"== {part}", flush=True)
    code = subprocess.run([sys.executable, str(HERE / f"{part}.py"), *options]).returncode
    if code:
        sys.exit(f"{part} ended with code {code}. Call again to go on.")


if __name__ == "__main__":
    main()
