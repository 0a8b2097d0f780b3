"""Run all kinds and kills, or some of them, and write the table of counts."""

import argparse
import json
import os
import platform
import re
import sys
from collections import Counter, defaultdict
from dataclasses import astuple
from importlib.metadata import version
from pathlib import Path

from .cases import LONGEST_MESSAGE, all_kinds
from .child import Outcome
from .kills import COMMANDS, all_kills
from .warm import run, warm

PATHS = re.compile(r"/\S*?(?:site-packages/|(?=tadp/\S+\.py:)|hostile-[^/ ]+/)")  # of this machine
MOST_SHOWN = 40  # lines about what was not handled
LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "pillow", "pyarrow")
PAGE = """# Robustness

What happens when tadp gets bad input, and when its commands are killed.

The tables come from `{command}`
({minutes:.0f} minutes, seed {seed}). {machine}; Python {python}, {libraries}.
The cases are in `tests/hostile`, and the test suite runs a sample of them.{kept}

## Bad input

A case is one sort of damage to a file, or one wrong value of a key or an argument. It runs in its own process, with
limits of {seconds:g} s and {megabytes} MB (a few cases have other limits), and has one of three outcomes:

- *Right value*: the input does no harm, and the result is right.
- *Clear error*: a message of at most {longest} characters names the file, the key or the argument. A command shows no
  traceback and exits with 1 or 2.
- *Other*: anything else. This includes running code from the input, connecting to another machine, and exceeding a
  limit.

Of {kinds} cases, {right} gave the right value, {clear} a clear error, and {other} something else.

| input | cases | right value | clear error | other |
|---|--:|--:|--:|--:|
{kind_rows}

## Killed commands

Each command is killed (SIGKILL) at moments that are spread over its run, and then run again to its end. It has
*recovered* if the files are the same as without the kill, no partial file is left over, and no unfinished file had its
final name in between. Times in reports are not compared.

The commands recovered from {recovered} of {kills} kills.

| command | kills | recovered | not recovered |
|---|--:|--:|--:|
{kill_rows}
{failures}"""
FAILURES = f"""## Other outcomes

These are the first kinds with the outcome *other*, {MOST_SHOWN} at most: the family, the kind, and the first
characters of what happened. *Accepted* means that wrong input caused no error; what tadp returned follows. *Wrong
value* also precedes what tadp returned. *Does not name* is followed by a pattern that the error lacks, and by the
error. *N characters* is the length of an error that is too long. `case/` is the folder of the case."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--out", type=Path, help="page to write")
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of names, such as 'kill show'")
    parser.add_argument("--keep", type=Path, help="file of outcomes: what was handled there is not run again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="also print what was handled")
    options = parser.parse_args()
    names = [name for name in (*all_kinds(), *all_kills()) if name.startswith(tuple(options.only))]
    kept = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    outcomes = {name: Outcome(*kept[name]) for name in names if name in kept}
    earlier = sum(outcome.is_handled for outcome in outcomes.values())
    with warm():
        for name in names:
            if name in outcomes and outcomes[name].is_handled:
                continue
            outcomes[name] = outcome = run(name, options.seed)
            kept[name] = astuple(outcome)
            if options.keep:
                options.keep.write_text(json.dumps(kept))
            if options.verbose or not outcome.is_handled:
                cost = f"{outcome.seconds:.1f} s, {outcome.megabytes:.0f} MB"
                print(f"{outcome.verdict:5} {name} ({cost}): {outcome.detail}", flush=True)
    minutes = sum(outcome.seconds for outcome in outcomes.values()) / 60
    print(Counter(outcome.verdict for outcome in outcomes.values()), f"{minutes:.1f} minutes")
    if options.out:
        ordered = {name: outcomes[name] for name in names}
        options.out.write_text(page(ordered, seed=options.seed, minutes=minutes, earlier=earlier), encoding="utf-8")
    sys.exit(any(not outcome.is_handled for outcome in outcomes.values()))


def page(outcomes: dict[str, Outcome], *, seed: int, minutes: float, earlier: int) -> str:
    """The page with the tables of counts.

    Args:
        outcomes: The outcome of each kind and kill, by name.
        seed: Seed of the damage.
        minutes: Time that all of them took.
        earlier: Number of outcomes that were kept from earlier runs, with `--keep`.
    """
    kept = f" {earlier} of the outcomes are from earlier runs, with an older version of tadp." if earlier else ""
    kinds, kills = all_kinds(), all_kills()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, outcome in outcomes.items():
        group = kinds[name].family if name in kinds else kills[name].command
        counts[group][outcome.verdict] += 1
    families = [group for group in counts if group not in COMMANDS]
    commands = [group for group in counts if group in COMMANDS]
    total = sum((counts[group] for group in families), Counter())
    killed = sum((counts[group] for group in commands), Counter())
    failed = [
        f"- {name}: {PATHS.sub('', outcome.detail)[:120]!r}"
        for name, outcome in outcomes.items()
        if not outcome.is_handled
    ]
    example = next(iter(kinds.values()))
    models = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    processor = models[0] if models else platform.processor()
    return PAGE.format(
        kept=kept,
        command="python -m tests.hostile --out docs/results/robustness.md",
        seconds=example.seconds,
        megabytes=example.megabytes,
        longest=LONGEST_MESSAGE,
        kinds=total.total(),
        right=total["right"],
        clear=total["clear"],
        other=total["other"],
        kills=killed.total(),
        recovered=killed["right"],
        kind_rows="\n".join(
            f"| {name} | {counts[name].total()} | {counts[name]['right']} | {counts[name]['clear']} | "
            f"{counts[name]['other']} |"
            for name in families
        ),
        kill_rows="\n".join(
            f"| {name} | {counts[name].total()} | {counts[name]['right']} | {counts[name]['other']} |"
            for name in commands
        ),
        failures="\n".join(["", FAILURES, "", *failed[:MOST_SHOWN], ""]) if failed else "",
        seed=seed,
        minutes=minutes,
        machine=f"{platform.system()} {platform.machine()}, {processor}, {os.cpu_count()} cores",
        python=platform.python_version(),
        libraries=", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    )


if __name__ == "__main__":
    main()
