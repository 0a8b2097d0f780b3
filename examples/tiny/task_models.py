"""Train the three task models that come with tadp, measure them on held-out scenes, and write their folders.

    python examples/tiny/task_models.py --work DIR --out DIR/models --seed 0

Runs examples/segmentation.py, depth.py and detection.py one after another, about 35 minutes on one CPU core. If it is
stopped, the same command continues. The base model is the bundled `tadp-tiny`, and only heads are trained. Nothing is
downloaded. Copy the folders to tadp/assets to ship them.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tadp.assets import TASK_MODELS
from tadp.datasets import RenderedScenes
from tadp.datasets.readers.image_folder import TaskName
from tadp.datasets.readers.named import SCENE_SEEDS
from tadp.drawing import sheet
from tadp.tasks import evaluate
from tadp.tasks.model_kind import KINDS
from tadp.trainer.trained_task import DepthTraining, DetectionTraining, SegmentationTraining

EXAMPLES = Path(__file__).parents[1]
STEPS = {"segmentation": 2000, "depth": 1200, "detection": 800}
TRAINED = {task.name: task for task in (SegmentationTraining(), DepthTraining(), DetectionTraining())}
# of each image, fewer boxes than by default are classified in training, which takes a third of the time
HEAD_OPTIONS = {"detection": {"channels": 32, "hidden_channels": 128, "samples_per_image": 128}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs, about 300 MB")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished models, about 2 MB")
    parser.add_argument("--seed", type=int, default=0, help="seed of the heads and of the order of the scenes")
    parser.add_argument("--scenes", type=int, default=4000, help="number of scenes to train on")
    parser.add_argument("--held-out-scenes", type=int, default=300, help="number of scenes to measure on")
    parser.add_argument("--steps", type=int, help="for a trial: steps of each training")
    options = parser.parse_args()
    for task in KINDS:
        run = options.work / task
        if not (run / "result.json").exists():
            train(task, run, options)
        pack(task, run, options)


def train(task: str, run: Path, options: argparse.Namespace) -> None:
    """Train a model. Captions are written once for all tasks, and latents once for those with the same backbone."""
    print(f"{task}: {run}", flush=True)
    words = ["--out", run, "--captions", options.work / "captions.db", "--seed", options.seed, "--save-every", 250]
    words += ["--train-scenes", options.scenes, "--held-out-scenes", options.held_out_scenes]
    words += ["--steps", options.steps or STEPS[task], "--cache", run if task == "depth" else options.work]
    if task in HEAD_OPTIONS:
        words += ["--head-options", json.dumps(HEAD_OPTIONS[task])]
    code = subprocess.run([sys.executable, str(EXAMPLES / f"{task}.py"), *map(str, words)]).returncode
    if code:
        raise SystemExit(f"{task}.py ended with exit code {code}. Run the same command again to continue.")


def pack(task: TaskName, run: Path, options: argparse.Namespace) -> None:
    """Write a trained model with its head in half precision, and measure exactly these weights."""
    model, name, count = KINDS[task].from_pretrained(run / "model"), TASK_MODELS[task], options.held_out_scenes
    model.head.half().float()
    held_out = RenderedScenes(count, seed=SCENE_SEEDS["test"])
    trained = TRAINED[task]
    figures = trained.figures(evaluate(model, held_out, captions="captioner", progress=True))
    rows = [trained.row(sample, model.predict(sample.image), model) for sample in held_out[:2]]
    model.head.half()
    command = f"tadp evaluate {task} --model {name} --data scenes --count {count} --captioner tadp-tiny"
    notes = (
        f"The metrics are those of `{command}`, on {count} rendered scenes that were not used for training (seed "
        f"{SCENE_SEEDS['test']}). `python examples/tiny/task_models.py` trained the head, with seed {options.seed}. "
        "The model knows only rendered scenes: simple pictures that tadp draws itself."
    )
    card = {
        "data": f"{options.scenes:,} rendered scenes (`tadp.datasets.RenderedScenes`, seed {SCENE_SEEDS['train']})",
        "license": "apache-2.0",
        "metrics": figures,
        "notes": notes,
        "picture": sheet(rows, titles=("image", "truth", "prediction")),
    }
    model.save_pretrained(options.out / name, repo_id=name, model_card_kwargs=card)
    size = sum(file.stat().st_size for file in (options.out / name).iterdir())
    print(f"{options.out / name}: {size / 1e6:.2f} MB; " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
