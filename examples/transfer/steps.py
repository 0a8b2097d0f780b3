"""Carry out a step of a study: learn what a modifier needs, or train a model with it and test the model."""

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import detection
from training.data import with_captions
from training.loop import fit
from training.model import load_backbone, training_data
from training.options import read_options, start
from training.report import compare, finish

from tadp.cleaning import RuleCleaner
from tadp.cross_domain import Protocol
from tadp.metrics import COCODetection
from transfer.domains import METRICS, PAPER_SCHEDULES, SCHEDULES, SCRIPTS, SOURCES, targets
from transfer.learning import learn, modifier_of
from transfer.plan import Step

SOURCE, NOT_CLEANED = "source", ", not cleaned"  # parts of the names of figures
DETECTION_HEAD = detection.SCENES_HEAD | {"samples_per_image": 64}  # 512, the default, takes longer on a CPU


def carry_out(step: Step, task: str, study: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Do one step, from its beginning or from where it was stopped."""
    options = training_options(task, study, arguments, out=study.out / task / step.name, seed=step.seed)
    (learn if step.group == "learn" else _train)(step, task, study, options)


def training_options(
    task: str, study: argparse.Namespace, arguments: Sequence[str], *, out: Path, seed: int
) -> argparse.Namespace:
    """The options of the training script of a task. `arguments` were given to the study and are passed on."""
    shared = ["--out", out, "--seed", seed, "--captions", study.out / task / "captions.db", "--cache", study.out / task]
    if study.data == "paper":
        name, folder = SOURCES[task]
        shared += ["--data", name, "--root", study.root / folder, "--schedule", PAPER_SCHEDULES[task]]
    else:
        shared += ["--train-scenes", 500, "--held-out-scenes", 200, "--sheet", 3]
        shared += ["--head-options", json.dumps(DETECTION_HEAD)] if task == "detection" else []
    script = SCRIPTS[task]
    every = [*map(str, shared), *arguments]
    return read_options(script.__doc__, data=script.AUGMENTATION, scenes=SCHEDULES[task], arguments=every)


def prepare(task: str, study: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Caption all data sets before several steps need the captions at once."""
    options = training_options(task, study, arguments, out=study.out / task, seed=0)
    openers = [*SCRIPTS[task].open_data(options), *(target.open for target in targets(task, options, root=study.root))]
    with_captions(openers, options, start(options))


def _train(step: Step, task: str, study: argparse.Namespace, options: argparse.Namespace) -> None:
    started, script = time.perf_counter(), SCRIPTS[task]
    accelerator = start(options)
    tests = [target for target in targets(task, options, root=study.root) if target.domain in step.domains]
    openers = [*script.open_data(options), *(target.open for target in tests)]
    train, held_out, *test_data = with_captions(openers, options, accelerator)
    protocol = Protocol(modifier_of(step, study.out / task))
    backbone = load_backbone(options, accelerator)
    with protocol.installed(backbone):
        names = train.box_class_names if task == "detection" else train.class_names
        model = script.build_model(backbone, names, options)
        template = protocol.modifier.templates[0]
        model.record["notes"] = f"Trained with captions in the template {template!r}. Use it for your captions, too."
        data = training_data(model, protocol.source(train), script.AUGMENTATION[options.data], options, accelerator)
        weight = {} if task == "detection" else {"weight": script.labelled_pixels}
        model = fit(model, data, loss=script.loss, options=options, accelerator=accelerator, **weight)

        scored = partial(_score, model, task=task, options=options, accelerator=accelerator)
        figures = {f"{SOURCE} {name}": value for name, value in scored(protocol.source(held_out)).items()}
        shown: list = []
        for target, data in zip(tests, test_data, strict=True):
            cleaned = Protocol(protocol.modifier, cleaner=RuleCleaner(target.domain)).target(data)
            figures |= {f"{target.name} {name}": value for name, value in scored(cleaned).items()}
            if step.kind == "null":
                uncleaned = scored(protocol.target(data))
                figures |= {f"{target.name} {name}{NOT_CLEANED}": value for name, value in uncleaned.items()}
            shown = shown or script.picture_rows(model, cleaned, count=options.sheet)
        finish(
            model,
            figures=figures,
            baselines={},
            pictures=shown,
            train=train,
            held_out=held_out,
            started=started,
            options=options,
            accelerator=accelerator,
        )


def _score(model: Any, data: Any, *, task: str, options: argparse.Namespace, accelerator: Any) -> dict[str, float]:
    """The metrics in `METRICS` of a model on a data set."""
    if task == "segmentation":
        figures = SCRIPTS[task].score(model, data, options=options, accelerator=accelerator)
        return {name: figures[name] for name in METRICS[task]}
    result = compare(model, COCODetection(model.class_names), data, options=options, accelerator=accelerator)
    return dict(zip(METRICS[task], (result.map, result.map50), strict=True))
