"""Do a step of a study: learn what a modifier needs, or train a model under it and test it."""

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
from training.report import compared, finish

from tadp.cleaning import RuleCleaner
from tadp.cross_domain import Protocol
from tadp.metrics import COCODetection
from transfer.domains import METRICS, PAPER_SCHEDULES, SCHEDULES, SCRIPTS, SOURCES, targets
from transfer.learning import learn, modifier_of
from transfer.plan import Step

SOURCE, NOT_CLEANED = "source", ", not cleaned"  # in the names of figures
DETECTION_HEAD = detection.SCENES_HEAD | {"samples_per_image": 64}  # 512, the default, takes longer on a CPU


def do(step: Step, task: str, study: argparse.Namespace, others: Sequence[str]) -> None:
    """One step, from its beginning or from where it was stopped."""
    options = training_options(task, study, others, out=study.out / task / step.name, seed=step.seed)
    (learn if step.group == "learn" else _train)(step, task, study, options)


def training_options(
    task: str, study: argparse.Namespace, others: Sequence[str], *, out: Path, seed: int
) -> argparse.Namespace:
    """Options of the training script of a task; `others` are its own, as they were given to the study."""
    shared = ["--out", out, "--seed", seed, "--captions", study.out / task / "captions.db", "--cache", study.out / task]
    if study.data == "paper":
        name, folder = SOURCES[task]
        shared += ["--data", name, "--root", study.root / folder, "--schedule", PAPER_SCHEDULES[task]]
    else:
        shared += ["--train-scenes", 500, "--held-out-scenes", 200, "--sheet", 3]
        shared += ["--head-options", json.dumps(DETECTION_HEAD)] if task == "detection" else []
    script = SCRIPTS[task]
    arguments = [*map(str, shared), *others]
    return read_options(script.__doc__, data=script.AUGMENTATION, scenes=SCHEDULES[task], arguments=arguments)


def prepare(task: str, study: argparse.Namespace, others: Sequence[str]) -> None:
    """Caption all data sets, before several steps want to at once."""
    options = training_options(task, study, others, out=study.out / task, seed=0)
    opened = [*SCRIPTS[task].open_data(options), *(one.open for one in targets(task, options, root=study.root))]
    with_captions(opened, options, start(options))


def _train(step: Step, task: str, study: argparse.Namespace, options: argparse.Namespace) -> None:
    started, script = time.perf_counter(), SCRIPTS[task]
    accelerator = start(options)
    mine = [one for one in targets(task, options, root=study.root) if one.domain in step.domains]
    opened = [*script.open_data(options), *(one.open for one in mine)]
    train, held_out, *tested = with_captions(opened, options, accelerator)
    protocol = Protocol(modifier_of(step, study.out / task))
    backbone = load_backbone(options, accelerator)
    with protocol.installed(backbone):
        names = train.box_class_names if task == "detection" else train.class_names
        model = script.build_model(backbone, names, options)
        template = protocol.modifier.templates[0]
        model.record["notes"] = f"Trained with captions under {template!r}; put yours under it too."
        seen = training_data(model, protocol.source(train), script.AUGMENTATION[options.data], options, accelerator)
        weight = {} if task == "detection" else {"weight": script.labelled_pixels}
        model = fit(model, seen, loss=script.loss, options=options, accelerator=accelerator, **weight)

        scored = partial(_score, model, task=task, options=options, accelerator=accelerator)
        figures, shown = {f"{SOURCE} {name}": value for name, value in scored(protocol.source(held_out)).items()}, []
        for target, data in zip(mine, tested, strict=True):
            cleaned = Protocol(protocol.modifier, cleaner=RuleCleaner(target.domain)).target(data)
            figures |= {f"{target.name} {name}": value for name, value in scored(cleaned).items()}
            if step.kind == "null":
                as_they_came = scored(protocol.target(data))
                figures |= {f"{target.name} {name}{NOT_CLEANED}": value for name, value in as_they_came.items()}
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
    """The paper's figures of a model on a data set, by `METRICS`."""
    if task == "segmentation":
        found = SCRIPTS[task].score(model, data, options=options, accelerator=accelerator)
        return {name: found[name] for name in METRICS[task]}
    found = compared(model, COCODetection(model.class_names), data, options=options, accelerator=accelerator)
    return dict(zip(METRICS[task], (found.map, found.map50), strict=True))
