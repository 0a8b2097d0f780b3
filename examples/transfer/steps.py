"""Carry out a step of a study: learn what a modifier needs, or train a model with it and test the model."""

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from training import session
from training.options import read_options, start
from training.report import finish, first_rows

from tadp.cleaning import RuleCleaner
from tadp.cross_domain import Protocol
from tadp.metrics import COCODetection
from tadp.trainer.recipes import DETECTION
from tadp.trainer.run_report import compare
from transfer.domains import METRICS, PAPER_SCHEDULES, SCHEDULES, SCRIPTS, SOURCES, targets
from transfer.learning import learn, modifier_of
from transfer.plan import Step

SOURCE, NOT_CLEANED = "source", ", not cleaned"  # parts of the names of figures
# 512 samples, the default, take longer on a CPU
DETECTION_HEAD = DETECTION["scenes"].model["head_options"] | {"samples_per_image": 64}


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
    return read_options(script.__doc__, data=script.DATA, scenes=SCHEDULES[task], arguments=every)


def prepare(task: str, study: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Caption all data sets before several steps need the captions at once."""
    options = training_options(task, study, arguments, out=study.out / task, seed=0)
    openers = [*SCRIPTS[task].open_data(options), *(target.open for target in targets(task, options, root=study.root))]
    session.open_captioned(openers, options, start(options))


def _train(step: Step, task: str, study: argparse.Namespace, options: argparse.Namespace) -> None:
    started, script = time.perf_counter(), SCRIPTS[task]
    test = session.test_options(script.TASK, options)
    accelerator = start(options)
    tests = [target for target in targets(task, options, root=study.root) if target.domain in step.domains]
    openers = [*script.open_data(options), *(target.open for target in tests)]
    train, held_out, *test_data = session.open_captioned(openers, options, accelerator)
    protocol = Protocol(modifier_of(step, study.out / task))
    backbone = session.backbone_of(script.TASK, options, accelerator)
    with protocol.installed(backbone):
        model = session.build(script.TASK, backbone, train, options)
        template = protocol.modifier.templates[0]
        model.record["notes"] = f"Trained with captions in the template {template!r}. Use it for your captions, too."
        # The images are shared by all steps. The captions depend on the modifier.
        data = session.prepare(script.TASK, model, protocol.source(train), options, accelerator, with_captions=False)
        model = session.train_model(script.TASK, model, data, options, accelerator)

        scored = partial(_score, model, task=task, test=test, options=options, accelerator=accelerator)
        figures = {f"{SOURCE} {name}": value for name, value in scored(protocol.source(held_out)).items()}
        shown: list = []
        for target, data in zip(tests, test_data, strict=True):
            cleaned = Protocol(protocol.modifier, cleaner=RuleCleaner(target.domain)).target(data)
            figures |= {f"{target.name} {name}": value for name, value in scored(cleaned).items()}
            if step.kind == "null":
                uncleaned = scored(protocol.target(data))
                figures |= {f"{target.name} {name}{NOT_CLEANED}": value for name, value in uncleaned.items()}
            shown = shown or first_rows(script.TASK, model, cleaned, count=options.sheet, **test)
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


def _score(
    model: Any, data: Any, *, task: str, test: dict, options: argparse.Namespace, accelerator: Any
) -> dict[str, float]:
    """The metrics in `METRICS` of a model on a data set."""
    metric = COCODetection(model.class_names) if task == "detection" else model.make_metric()
    result = compare(model, metric, data, accelerator=accelerator, most=options.evaluate_images, **test).compute()
    figures = (result.map, result.map50) if task == "detection" else (result.miou,)
    return dict(zip(METRICS[task], figures, strict=True))


def pictures(steps: Sequence[Step], folder: Path) -> list[tuple[str, Path]]:
    """Sheets of predictions for the same images, without and with a learned token: modifier and path."""
    domain = steps[0].domains[0]
    shown = [step for step in steps if step.kind in ("null", "textual_inversion") and step.seed == 0]
    sheets = [(step.kind, folder / step.name / "predictions.png") for step in shown if domain in step.domains]
    return [(kind, path) for kind, path in sheets if path.exists()]
