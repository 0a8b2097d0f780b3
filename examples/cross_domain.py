r"""Carry a model to domains it has no labels of: six caption modifiers, several seeds, one table.

    python examples/cross_domain.py detection --out study --page docs/results/cross-domain-detection
    python examples/cross_domain.py segmentation --out study --jobs 2
    python examples/cross_domain.py detection --data paper --root DATA --out paper --seeds 1 \
        --model stable-diffusion-v1-5/stable-diffusion-v1-5 --captioner Salesforce/blip2-opt-2.7b --mixed-precision bf16

The first trains on plain rendered scenes and tests on watercolors and comics, the second on day and on night. With
--data paper it is VOC to Watercolor2k and Comic2k (detection), Cityscapes to Dark Zurich and Nighttime Driving
(segmentation); DATA has VOCdevkit, watercolor and comic, or cityscapes, dark_zurich and NighttimeDrivingTest.

Needs pip install 'tadp[detection,train]'. What is finished is not done again, and a step that was stopped goes on.
Options that this script does not know go to examples/detection.py or segmentation.py: --steps, --train-scenes,
--held-out-scenes, --model, --captioner and so on.
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
from training.options import StopTraining, run
from transfer.page import read, write_page
from transfer.plan import KINDS, Step, plan
from transfer.steps import do, prepare

from tadp.files.atomic import replace_file


def main() -> None:
    study, others = read_study()
    steps = plan(study.task, study.modifiers, seeds=study.seeds)
    learned = list(dict.fromkeys(needed for step in steps for needed in step.needs))
    if study.only is not None:
        one = next((step for step in [*learned, *steps] if step.name == study.only), None)
        if one is None:
            raise StopTraining(f"no step {study.only!r}; there are {', '.join(step.name for step in learned + steps)}.")
        return do(one, study.task, study, others)

    folder = study.out / study.task
    check_same(study, others, folder)
    everything = learned + steps
    left = [step for step in everything if not is_done(step, folder)]
    print(f"{study.task}: {len(everything)} steps, {len(everything) - len(left)} are done; {folder}", flush=True)
    if left:
        prepare(study.task, study, others)
        # A step that needs nothing learned goes alone, as it makes the latents that all share.
        first = [step for step in steps if step in left and not step.needs][:1]
        with tqdm(total=len(everything), initial=len(everything) - len(left), unit="step", desc=study.task) as bar:
            for group in (first, learned, steps):
                work([step for step in group if not is_done(step, folder)], study, bar)
                tell_time(everything, folder, study.jobs)
    write_page(study, steps, others)
    return None


def check_same(study: argparse.Namespace, others: Sequence[str], folder: Path) -> None:
    """A folder has the steps of one study; more seeds and modifiers may come to it, other options may not."""
    options = {"data": study.data, "token_steps": study.token_steps, "dreambooth_steps": study.dreambooth_steps}
    asked, file = {**options, "training": list(others)}, folder / "study.json"
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found != asked:
            changed = [name for name in asked if found[name] != asked[name]]
            different = ", ".join(f"{name}: {found[name]} then, {asked[name]} now" for name in changed)
            raise StopTraining(f"{folder} has a study with other options ({different}). Give another --out.")
        return
    with replace_file(file) as part:
        part.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")


def work(steps: Sequence[Step], study: argparse.Namespace, bar: tqdm) -> None:
    """Do steps, each in a process of its own; the first that fails ends all."""
    with ThreadPoolExecutor(study.jobs) as pool:
        waiting = [pool.submit(start_process, step, study) for step in steps]
        for one in as_completed(waiting):
            error = one.exception()
            if error is not None:
                pool.shutdown(cancel_futures=True)
                raise error
            bar.update()


def start_process(step: Step, study: argparse.Namespace) -> None:
    """One step with one thread; what it says goes to its log."""
    folder = study.out / study.task / step.name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", step.name]
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
    if code:
        raise StopTraining(f"{step.name} ended with code {code}; {folder / 'log.txt'} says why. Call again to go on.")


def is_done(step: Step, folder: Path) -> bool:
    return (folder / step.name / "result.json").exists()


def tell_time(steps: Sequence[Step], folder: Path, jobs: int) -> None:
    """How long what is left will take, from what is done."""
    minutes = 0.0
    for group in ("learn", "train"):
        mine = [step for step in steps if step.group == group]
        done = [read(folder / step.name)["cpu_minutes"] for step in mine if is_done(step, folder)]
        left = len(mine) - len(done)
        if left and not done:
            minutes += left  # tadp-tiny's; replaced as soon as one is done
        elif left:
            minutes += left * sum(done) / len(done)
    if minutes:
        tqdm.write(f"about {minutes:.0f} minutes of CPU are left, {minutes / jobs:.0f} minutes with {jobs} job(s)")


def read_study() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("detection", "segmentation"))
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the steps")
    parser.add_argument("--page", type=Path, help="write PAGE.md and PAGE.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--modifiers", nargs="+", choices=KINDS, default=KINDS, help="null is always among them")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, each with one thread")
    parser.add_argument("--data", choices=("scenes", "paper"), default="scenes")
    parser.add_argument("--root", type=Path, help="folder of the paper's data sets")
    parser.add_argument("--token-steps", type=int, help="of textual inversion")
    parser.add_argument("--dreambooth-steps", type=int)
    parser.add_argument("--only", metavar="STEP", help="do one step, such as train/null-watercolor-comic-0")
    study, others = parser.parse_known_args()
    if (study.data == "paper") != (study.root is not None):
        parser.error("--data paper and --root DATA go together")
    study.modifiers = [kind for kind in KINDS if kind == "null" or kind in study.modifiers]
    return study, others


if __name__ == "__main__":
    run(main)
