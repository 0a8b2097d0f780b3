r"""Test models in domains without training labels: six caption modifiers, several seeds, one table.

    python examples/cross_domain.py detection --out study --page docs/results/cross-domain-detection
    python examples/cross_domain.py segmentation --out study --jobs 2
    python examples/cross_domain.py detection --data paper --root DATA --out paper --seeds 1 \
        --model stable-diffusion-v1-5/stable-diffusion-v1-5 --captioner blip2 --mixed-precision bf16

The first command trains on plain rendered scenes and tests on watercolors and comics. The second trains on day and
tests on night. With --data paper, models go from VOC to Watercolor2k and Comic2k (detection), or from Cityscapes to
Dark Zurich and Nighttime Driving (segmentation). DATA then holds the folders VOCdevkit, watercolor and comic, or
cityscapes, dark_zurich and NighttimeDrivingTest.

Needs pip install 'tadp[detection,train]'. Finished steps are not repeated, and a step that was stopped continues. With
--rewrite it runs nothing and writes PAGE.md again from PAGE.json. All other options are passed on to
examples/detection.py or segmentation.py: --steps, --train-scenes, --held-out-scenes, --model, --captioner and so on.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm
from training.options import run
from transfer.page import read, rewrite_page, write_page
from transfer.plan import KINDS, Step, plan
from transfer.steps import carry_out, prepare

from tadp.errors import TrainingError
from tadp.files.atomic import replace_file


def main() -> None:
    study, training_options = read_study()
    if study.rewrite:
        return rewrite_page(study.task, study.page)
    steps = plan(study.task, study.modifiers, seeds=study.seeds)
    learned = list(dict.fromkeys(needed for step in steps for needed in step.needs))
    if study.only is not None:
        step = next((step for step in [*learned, *steps] if step.name == study.only), None)
        if step is None:
            names = ", ".join(step.name for step in learned + steps)
            raise TrainingError(f"unknown step {study.only!r}; the steps are {names}.")
        return carry_out(step, study.task, study, training_options)

    folder = study.out / study.task
    check_same(study, training_options, folder)
    all_steps = learned + steps
    left = [step for step in all_steps if not is_done(step, folder)]
    print(f"{study.task}: {len(all_steps)} steps, {len(all_steps) - len(left)} finished; {folder}", flush=True)
    if left:
        prepare(study.task, study, training_options)
        # A step that needs nothing learned runs first, because it makes the latents that all steps share.
        first = [step for step in steps if step in left and not step.needs][:1]
        with tqdm(total=len(all_steps), initial=len(all_steps) - len(left), unit="step", desc=study.task) as bar:
            for group in (first, learned, steps):
                run_steps([step for step in group if not is_done(step, folder)], study, bar)
                print_time_left(all_steps, folder, study.jobs)
    write_page(study, steps, training_options)
    return None


def check_same(study: argparse.Namespace, training_options: Sequence[str], folder: Path) -> None:
    """Check that a folder has steps with these options. More seeds and modifiers may be added to it later."""
    options = {"data": study.data, "token_steps": study.token_steps, "dreambooth_steps": study.dreambooth_steps}
    current, file = {**options, "training": list(training_options)}, folder / "study.json"
    if file.exists():
        if (earlier := json.loads(file.read_text(encoding="utf-8"))) != current:
            changed = [name for name in current if earlier[name] != current[name]]
            different = ", ".join(f"{name}: {earlier[name]} then, {current[name]} now" for name in changed)
            raise TrainingError(f"{folder} has a study with other options ({different}). Give another --out.")
        return
    with replace_file(file) as part:
        part.write_text(json.dumps(current, indent=2) + "\n", encoding="utf-8")


def run_steps(steps: Sequence[Step], study: argparse.Namespace, bar: tqdm) -> None:
    """Run steps, each in a separate process. If one fails, all stop."""
    with ThreadPoolExecutor(study.jobs) as pool:
        waiting = [pool.submit(start_process, step, study) for step in steps]
        for future in as_completed(waiting):
            error = future.exception()
            if error is not None:
                pool.shutdown(cancel_futures=True)
                raise error
            bar.update()


def start_process(step: Step, study: argparse.Namespace) -> None:
    """Run one step with one thread. Its output goes to its log."""
    folder = study.out / study.task / step.name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", step.name]
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
    if code:
        raise TrainingError(
            f"{step.name} ended with code {code}; {folder / 'log.txt'} says why. Call again to continue."
        )


def is_done(step: Step, folder: Path) -> bool:
    return (folder / step.name / "result.json").exists()


def print_time_left(steps: Sequence[Step], folder: Path, jobs: int) -> None:
    """Print how long the remaining steps will take, estimated from the finished ones."""
    minutes = 0.0
    for group in ("learn", "train"):
        members = [step for step in steps if step.group == group]
        done = [read(folder / step.name)["cpu_minutes"] for step in members if is_done(step, folder)]
        left = len(members) - len(done)
        if left and not done:
            minutes += left  # one minute each for tadp-tiny, until a step has been measured
        elif left:
            minutes += left * sum(done) / len(done)
    if minutes:
        tqdm.write(f"about {minutes:.0f} minutes of CPU time remain; {minutes / jobs:.0f} minutes at --jobs {jobs}")


def read_study() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("detection", "segmentation"))
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the steps")
    parser.add_argument("--page", type=Path, help="write PAGE.md and PAGE.json")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument(
        "--modifiers", nargs="+", choices=KINDS, default=KINDS, help="modifiers to compare; null is always included"
    )
    parser.add_argument("--jobs", type=int, default=1, help="number of processes, each with one thread")
    parser.add_argument("--data", choices=("scenes", "paper"), default="scenes", help="rendered scenes, or the paper's")
    parser.add_argument("--root", type=Path, help="folder of the paper's data sets")
    parser.add_argument("--token-steps", type=int, help="steps of textual inversion")
    parser.add_argument("--dreambooth-steps", type=int, help="steps of DreamBooth")
    parser.add_argument("--only", metavar="STEP", help="run only this step, such as train/null-watercolor-comic-0")
    parser.add_argument("--rewrite", action="store_true", help="run nothing; write PAGE.md again from PAGE.json")
    study, training_options = parser.parse_known_args()
    if (study.data == "paper") != (study.root is not None):
        parser.error("--data paper needs --root DATA, and --root needs --data paper")
    study.modifiers = [kind for kind in KINDS if kind == "null" or kind in study.modifiers]
    return study, training_options


if __name__ == "__main__":
    run(main)
