"""The steps of a study: what is learned from unlabelled pictures, and the models that are trained and tested."""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import detection
import torch
from training.data import with_captions
from training.loop import fit
from training.model import load_backbone, training_data
from training.options import read_options, start
from training.report import compared, finish

import tadp
from tadp.cleaning import RuleCleaner
from tadp.cross_domain import Protocol
from tadp.files import replace_file
from tadp.metrics import COCODetection
from tadp.modifiers import CaptionModifier, Kind
from tadp.personalize import dreambooth, learn_token
from transfer.domains import DOMAINS, METRICS, PAPER_SCHEDULES, SCHEDULES, SCRIPTS, SOURCES, targets, unlabelled

KINDS: tuple[Kind, ...] = ("null", "simple", "textual_inversion", "dreambooth", "nearby", "unrelated")
LEARNED: tuple[Kind, ...] = ("textual_inversion", "dreambooth")
SOURCE, NOT_CLEANED = "source", ", not cleaned"  # in the names of figures
INITIALIZER = {"watercolor": "painting", "comic": "painting", "night": "photo"}
# For tadp-tiny: its learned token wants a rate far above the paper's, and both have shown what they can after a minute.
SCENES_TOKEN = {"steps": 300, "batch_size": 8, "lr": 3e-2}
SCENES_DREAMBOOTH = {"steps": 250, "batch_size": 4, "lr": 1e-4}
DETECTION_HEAD = detection.SCENES_HEAD | {"samples_per_image": 64}  # 512, the default, takes longer on a CPU


@dataclass(frozen=True)
class Step:
    """A part of a study that is done once: a model of a seed, or what it needs learned first.

    Attributes:
        group: "learn" or "train".
        kind: The modifier.
        domains: Whose test sets a model is for: several, where the training is the same for all.
        seed: Of all random numbers.
    """

    group: str
    kind: Kind
    domains: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        """Its folder below OUT/TASK."""
        return f"{self.group}/{'-'.join([self.kind, *self.domains, str(self.seed)])}"

    @property
    def needs(self) -> list["Step"]:
        """What must be learned before."""
        is_learned = self.group == "train" and self.kind in LEARNED
        return [Step("learn", self.kind, self.domains, self.seed)] if is_learned else []


def plan(task: str, kinds: Sequence[Kind], *, seeds: int) -> list[Step]:
    """All models, those first that others are compared with; a training serves all domains whose words are the same."""
    steps = []
    for kind in kinds:
        words: dict[object, list[str]] = {}
        for domain in DOMAINS[task]:
            key = domain if kind in LEARNED else CaptionModifier.for_domain(domain, kind).templates
            words.setdefault(key, []).append(domain)
        steps += [Step("train", kind, tuple(same), seed) for same in words.values() for seed in range(seeds)]
    return steps


def do(step: Step, task: str, study: argparse.Namespace, others: Sequence[str]) -> None:
    """One step, from its beginning or from where it was stopped."""
    options = training_options(task, study, others, out=study.out / task / step.name, seed=step.seed)
    (_learn if step.group == "learn" else _train)(step, task, study, options)


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


def _learn(step: Step, task: str, study: argparse.Namespace, options: argparse.Namespace) -> None:
    (domain,) = step.domains
    images = unlabelled(domain, seed=step.seed, root=study.root)
    is_token = step.kind == "textual_inversion"
    template = CaptionModifier.for_domain(domain, step.kind).templates[0]
    settings: dict[str, Any] = {"seed": step.seed, "sample_every": 0, "output": options.out}
    if study.data == "scenes":
        captioner = tadp.Captioner.from_pretrained(options.captioner)
        settings |= {"captions": RuleCleaner(domain)(captioner(images))}
        settings |= SCENES_TOKEN if is_token else SCENES_DREAMBOOTH
    steps = study.token_steps if is_token else study.dreambooth_steps
    settings |= {"steps": steps} if steps else {}
    settings |= {"device": "cuda"} if torch.cuda.is_available() else {}
    if is_token:
        initializer = INITIALIZER[domain]
        learn_token(options.model, images, token=f"<{domain}>", initializer=initializer, template=template, **settings)
    else:
        dreambooth(options.model, images, prompt=template, **settings)
    write_result(options.out, {"images": len(images), "settings": {k: v for k, v in settings.items() if k != "output"}})


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


def modifier_of(step: Step, folder: Path) -> CaptionModifier:
    """The modifier of a model: in words, or as it was learned."""
    for needed in step.needs:
        return CaptionModifier.from_pretrained(folder / needed.name)
    return CaptionModifier.for_domain(step.domains[0], step.kind)


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """What tells that a step is done."""
    result |= {
        "cpu_minutes": round(time.process_time() / 60, 2),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
    }
    with replace_file(folder / "result.json") as part:
        part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
