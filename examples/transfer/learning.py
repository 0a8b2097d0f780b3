"""Learn a token or a DreamBooth U-Net from ten unlabelled pictures of a target, and load the modifier of a model."""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

import tadp
from tadp.cleaning import RuleCleaner
from tadp.files.atomic import replace_file
from tadp.modifiers import CaptionModifier
from tadp.personalize import RunOptions, dreambooth, learn_token
from transfer.domains import unlabelled
from transfer.plan import Step

INITIALIZER = {"watercolor": "painting", "comic": "painting", "night": "photo"}
# For tadp-tiny. Its token needs a learning rate far above the paper's. Neither gets better after a minute.
SCENES_TOKEN = {"steps": 300, "batch_size": 8, "lr": 3e-2}
SCENES_DREAMBOOTH = {"steps": 250, "batch_size": 4, "lr": 1e-4}


def learn(step: Step, task: str, study: argparse.Namespace, options: argparse.Namespace) -> None:
    """Learn the token or U-Net of a step, and write it to the folder of the step."""
    (domain,) = step.domains
    images = unlabelled(domain, seed=step.seed, root=study.root)
    is_token = step.kind == "textual_inversion"
    template = CaptionModifier.for_domain(domain, step.kind).templates[0]
    settings: dict[str, Any] = {"seed": step.seed, "sample_every": 0}
    captions = None
    if study.data == "scenes":
        captioner = tadp.Captioner.from_pretrained(options.captioner)
        captions = RuleCleaner(domain)(captioner(images))
        settings |= SCENES_TOKEN if is_token else SCENES_DREAMBOOTH
    steps = study.token_steps if is_token else study.dreambooth_steps
    settings |= {"steps": steps} if steps else {}
    settings |= {"device": "cuda"} if torch.cuda.is_available() else {}
    shared: dict[str, Any] = {"captions": captions, "output": options.out, "options": RunOptions(**settings)}
    if is_token:
        initializer = INITIALIZER[domain]
        learn_token(options.model, images, token=f"<{domain}>", initializer=initializer, template=template, **shared)
    else:
        dreambooth(options.model, images, prompt=template, **shared)
    settings |= {"captions": captions} if captions else {}
    write_result(options.out, {"images": len(images), "settings": settings})


def modifier_of(step: Step, folder: Path) -> CaptionModifier:
    """The modifier of a model: given by words, or learned in an earlier step."""
    for needed in step.needs:
        return CaptionModifier.from_pretrained(folder / needed.name)
    return CaptionModifier.for_domain(step.domains[0], step.kind)


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write result.json, which marks the step as finished."""
    threads = torch.get_num_threads()
    result |= {
        "cpu_minutes": round(time.process_time() / 60, 2),
        "machine": f"{platform.machine()}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}",
    }
    with replace_file(folder / "result.json") as part:
        part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
