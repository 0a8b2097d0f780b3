"""Does a task learn on these features? Compares tadp-tiny with an untrained U-Net and a trivial answer, over seeds.

    python examples/learn.py segmentation --out study --page docs/results/segmentation
    python examples/learn.py segmentation --page docs/results/segmentation --rewrite

Runs examples/TASK.py for each seed, with and without --untrained, and writes PAGE.md and PAGE.json. Finished runs are
not repeated, and a run that was stopped continues. All other options are passed on to that script. With --rewrite it
runs nothing and writes PAGE.md again from PAGE.json.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
VARIANTS = {"tadp-tiny": (), "tadp-tiny, its U-Net untrained": ("--untrained",)}


def main() -> None:
    options, task_options = read_options()
    if options.rewrite:
        summary = json.loads(options.page.with_suffix(".json").read_text(encoding="utf-8"))
        return write(options.page, markdown(summary["runs"], options.task, summary["command"]), summary)
    runs = [
        (options.out / options.task / f"{number}-{seed}", ["--seed", str(seed), *flags])
        for number, flags in enumerate(VARIANTS.values())
        for seed in range(options.seeds)
    ]
    # the first run makes the captions and latents that all runs share
    shared = ["--captions", str(options.out / "captions.db"), "--cache", str(options.out), "--sheet", "3"]
    train(options.task, runs[0], [*shared, *task_options])
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda run: train(options.task, run, [*shared, *task_options]), runs[1:]))

    results = {
        name: [read(options.out / options.task / f"{number}-{seed}") for seed in range(options.seeds)]
        for number, name in enumerate(VARIANTS)
    }
    called = command(options.task, task_options)
    page = markdown(results, options.task, called)
    print(page)
    if options.page:
        options.page.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(runs[0][0] / "predictions.png", options.page.with_suffix(".png"))
        write(options.page, page, {"command": called, "runs": without_paths(results)})
    return None


def write(path: Path, page: str, summary: dict) -> None:
    """Write the page and its results; the picture is there already."""
    page += "\nPredictions of *tadp-tiny* for held-out scenes:\n"
    page += f"\n![Image, ground truth and prediction for held-out scenes]({path.name}.png)\n"
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def train(task: str, run: tuple[Path, list[str]], options: list[str]) -> None:
    """Do one run if it is not finished. Its output goes to its log."""
    folder, run_options = run
    if (folder / "result.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{task}: {folder}", flush=True)
    with (folder / "log.txt").open("a") as log:
        words = [sys.executable, str(HERE / f"{task}.py"), "--out", str(folder), *run_options, *options]
        code = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        sys.exit(f"{task} ended with code {code}; {folder / 'log.txt'} says why. Call again to continue.")


def read(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def markdown(results: dict[str, list[dict]], task: str, called: str) -> str:
    """The table: mean and standard deviation over seeds, for the models and for trivial answers."""
    runs = [run for variant in results.values() for run in variant]
    names = list(runs[0]["figures"])
    lines = ["| model | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for name, variant in results.items():
        cells = [spread([run["figures"][metric] for run in variant]) for metric in names]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for trivial in runs[0]["baselines"]:
        cells = [spread([run["baselines"][trivial][metric] for run in runs]) for metric in names]
        lines.append(f"| {trivial} | " + " | ".join(cells) + " |")
    minutes = [run["cpu_minutes"] for run in runs]
    count = len(next(iter(results.values())))
    first = runs[0]
    unet = "frozen" if first["tune"] == "nothing" else f"tuned ({first['tune']})"
    about = tomllib.loads((HERE / "openings.toml").read_text(encoding="utf-8"))[f"learn-{task}"].strip()
    trivial = "a trivial answer that ignores" if len(first["baselines"]) == 1 else "trivial answers that ignore"
    opening = (
        f"Does a head learn {task} on the features of [`tadp-tiny`](../tadp-tiny.md)? The score of the head on "
        "held-out [rendered scenes](../concepts.md#glossary) is compared with the score of the same head on an "
        f"untrained U-Net, and with {trivial} the image. The table shows the mean ± standard deviation over "
        f"{count} {'seed' if count == 1 else 'seeds'}. A figure without ± is the same for every seed.\n\n"
        f"{about}\n"
        "- *tadp-tiny*: a head was trained on the features of this model, with captions by `tadp-tiny`'s captioner as "
        "text.\n"
        "- *tadp-tiny, its U-Net untrained*: the same, but with random weights in the U-Net.\n\n"
        f"Command: `{called}`; {first['trained_on']:,} scenes for training, {first['measured_on']} for testing; "
        f"{first['schedule']['steps']} training steps of {first['schedule']['batch']} images; U-Net {unet}; "
        f"{first['machine']}; {min(minutes):.1f} to {max(minutes):.1f} minutes of CPU time per training, including "
        "the test."
    )
    return "\n".join([f"# {task.capitalize()} on rendered scenes", "", opening, "", *lines]) + "\n"


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f}" + (f" ± {deviation:.3f}" if deviation else "")


def command(task: str, task_options: list[str]) -> str:
    return " ".join(["python examples/learn.py", task, *task_options])


def without_paths(results: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """The results without the commands, which contain folders of this machine."""
    return {name: [{k: v for k, v in run.items() if k != "command"} for run in runs] for name, runs in results.items()}


def read_options() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("segmentation", "depth", "detection"))
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the runs")
    parser.add_argument("--page", type=Path, help="write PAGE.md and PAGE.json")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--jobs", type=int, default=1, help="number of runs at a time")
    parser.add_argument("--rewrite", action="store_true", help="run nothing; write PAGE.md again from PAGE.json")
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
