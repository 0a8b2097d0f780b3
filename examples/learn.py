"""Does it learn? A task on rendered scenes from several seeds, beside a U-Net without training and a trivial answer.

    python examples/learn.py segmentation --out study --page docs/results/segmentation

Runs examples/TASK.py for each seed, with and without --untrained, and writes PAGE.md and PAGE.json. Runs that are
finished are not done again, and one that was stopped goes on. Options that this script does not know go to the other.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
VARIANTS = {"tadp-tiny": (), "tadp-tiny, its U-Net untrained": ("--untrained",)}


def main() -> None:
    options, others = read_options()
    runs = [
        (options.out / options.task / f"{number}-{seed}", ["--seed", str(seed), *flags])
        for number, flags in enumerate(VARIANTS.values())
        for seed in range(options.seeds)
    ]
    # what all runs share is made once
    shared = ["--captions", str(options.out / "captions.db"), "--cache", str(options.out), "--sheet", "3"]
    train(options.task, runs[0], [*shared, *others])
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda one: train(options.task, one, [*shared, *others]), runs[1:]))

    results = {
        name: [read(options.out / options.task / f"{number}-{seed}") for seed in range(options.seeds)]
        for number, name in enumerate(VARIANTS)
    }
    page = markdown(results, options.task, others)
    print(page)
    if options.page:
        options.page.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(runs[0][0] / "predictions.png", options.page.with_suffix(".png"))
        page += f"\n![Image, truth and prediction of scenes that were held out]({options.page.name}.png)\n"
        options.page.with_suffix(".md").write_text(page, encoding="utf-8")
        summary = {"command": command(options.task, others), "runs": without_paths(results)}
        options.page.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def train(task: str, run: tuple[Path, list[str]], options: list[str]) -> None:
    """One run, if it is not finished; what it says goes to its log."""
    folder, own = run
    if (folder / "result.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{task}: {folder}", flush=True)
    with (folder / "log.txt").open("a") as log:
        started = [sys.executable, str(HERE / f"{task}.py"), "--out", str(folder), *own, *options]
        code = subprocess.run(started, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        sys.exit(f"{task} ended with code {code}; {folder / 'log.txt'} says why. Call again to go on.")


def read(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def markdown(results: dict[str, list[dict]], task: str, others: list[str]) -> str:
    """Mean and standard deviation over seeds, and the trivial answers, which have no seed or are drawn with it."""
    every = [one for runs in results.values() for one in runs]
    names = list(every[0]["figures"])
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for variant, runs in results.items():
        lines.append(
            f"| {variant} | " + " | ".join(spread([one["figures"][name] for one in runs]) for name in names) + " |"
        )
    for trivial in every[0]["baselines"]:
        cells = [spread([one["baselines"][trivial][name] for one in every]) for name in names]
        lines.append(f"| {trivial} | " + " | ".join(cells) + " |")
    minutes = [one["cpu_minutes"] for one in every]
    count = len(next(iter(results.values())))
    first = every[0]
    unet = "frozen" if first["tune"] == "nothing" else f"tuned ({first['tune']})"
    told = (
        f"Command: `{command(task, others)}`; {first['trained_on']:,} rendered scenes to train on and "
        f"{first['measured_on']} held out, captions by the captioner, {first['schedule']['steps']} steps of "
        f"{first['schedule']['batch']} images, U-Net {unet}; {count} seeds, mean ± standard deviation; "
        f"{first['machine']}; {min(minutes):.1f} to {max(minutes):.1f} minutes of CPU a run, evaluation included."
    )
    return "\n".join([f"# {task.capitalize()} on rendered scenes", "", told, "", *lines]) + "\n"


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f}" + (f" ± {deviation:.3f}" if deviation else "")


def command(task: str, others: list[str]) -> str:
    return " ".join(["python examples/learn.py", task, *others])


def without_paths(results: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Results less the command with this machine's folders."""
    return {name: [{k: v for k, v in one.items() if k != "command"} for one in runs] for name, runs in results.items()}


def read_options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("segmentation", "depth", "detection"))
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the runs")
    parser.add_argument("--page", type=Path, help="write PAGE.md and PAGE.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
