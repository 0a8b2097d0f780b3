"""The page of a study: our table, the paper's beside it, and which of its signs this scale shows."""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tadp.cross_domain import ModifierTable
from tadp.files.atomic import replace_file
from transfer.claims import CLAIMS, TINY, VERDICTS
from transfer.plan import KINDS, Step
from transfer.steps import NOT_CLEANED, SOURCE
from transfer.verdicts import beside, verdicts

UNCLEANED = "null, captions not cleaned"


def read(folder: Path) -> dict[str, Any]:
    """What a finished step found."""
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def gather(steps: Sequence[Step], folder: Path) -> ModifierTable:
    """Figures by modifier, column and seed: the targets, then the source.

    A model that serves several targets stands in the columns of each; so does what it scores on the source.
    """
    domains = list(dict.fromkeys(domain for step in steps for domain in step.domains))
    rows: dict[str, dict[str, dict[int, float]]] = {}
    for step in steps:
        for name, value in read(folder / step.name)["figures"].items():
            row = UNCLEANED if name.endswith(NOT_CLEANED) else step.kind
            columns = [name.removesuffix(NOT_CLEANED)]
            if name.startswith(SOURCE):
                plain = name.replace(SOURCE, "source, held out,", 1)
                columns = [plain] if len(domains) == 1 else [f"{plain} ({one}'s model)" for one in step.domains]
            for column in columns:
                rows.setdefault(row, {}).setdefault(column, {})[step.seed] = value
    order = [*KINDS, UNCLEANED]
    return ModifierTable(
        {
            row: dict(sorted(rows[row].items(), key=lambda one: one[0].startswith(SOURCE)))
            for row in sorted(rows, key=order.index)
        }
    )


def write_page(study: argparse.Namespace, steps: Sequence[Step], others: Sequence[str]) -> None:
    """Print the page; with --page write it as Markdown and JSON."""
    folder = study.out / study.task
    table = gather(steps, folder)
    first = read(folder / steps[0].name)
    learned = dict.fromkeys(needed for step in steps for needed in step.needs)
    minutes = sum(read(folder / step.name)["cpu_minutes"] for step in (*learned, *steps))
    judged = verdicts(table, study.task)
    parts = [
        f"# {study.task.capitalize()} in other domains" + ("" if first["tune"] == "nothing" else ", U-Net tuned"),
        told(study, first, minutes, others),
        table.markdown(compared=[name for name in table.columns if not name.startswith(SOURCE)]),
        "Each figure is a mean over seeds with its 95 % interval (Student's t). Differences to the null row are taken "
        "seed by seed: a seed gives all rows the same first weights and the same order of images. The source's columns "
        "are what the same models score where they were trained.",
        "## Beside the paper",
        beside(table, judged, study.task),
        VERDICTS,
    ]
    if study.data == "scenes":
        parts += ["## What this scale can say", TINY, CLAIMS[study.task]]
    page = "\n\n".join(parts)
    print(page)
    if not study.page:
        return
    study.page.parent.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(steps, folder):
        ending = "" if name == "null" else f"-{name}"
        shutil.copyfile(picture, study.page.with_name(f"{study.page.name}{ending}.png"))
        page += f"\n\n![Image, truth and prediction of target images, modifier {name}]({study.page.name}{ending}.png)"
    summary = {
        "command": command(study, others),
        "machine": first["machine"],
        "cpu_minutes": round(minutes, 1),
        "schedule": first["schedule"],
        **json.loads(table.to_json()),
        "verdicts": judged,
    }
    for suffix, text in ((".md", page), (".json", json.dumps(summary, indent=2))):
        with replace_file(study.page.with_suffix(suffix)) as part:
            part.write_text(text + "\n", encoding="utf-8")


def pictures(steps: Sequence[Step], folder: Path) -> list[tuple[str, Path]]:
    """Predictions without and with a learned token, for the same images: name of the modifier, and the sheet."""
    domain = steps[0].domains[0]
    shown = [
        one for one in steps if one.kind in ("null", "textual_inversion") and one.seed == 0 and domain in one.domains
    ]
    found = [(one.kind, folder / one.name / "predictions.png") for one in shown]
    return [(name, path) for name, path in found if path.exists()]


def command(study: argparse.Namespace, others: Sequence[str]) -> str:
    """How to make the page again, without this machine's folders."""
    words = ["python examples/cross_domain.py", study.task]
    words += ["--data paper --root DATA"] if study.data == "paper" else []
    words += ["--seeds", str(study.seeds)] if study.seeds != 3 else []
    words += ["--modifiers", *study.modifiers] if len(study.modifiers) < len(KINDS) else []
    for name in ("token_steps", "dreambooth_steps"):
        words += [f"--{name.replace('_', '-')}", str(getattr(study, name))] if getattr(study, name) else []
    return " ".join([*words, *(Path(word).name if Path(word).is_absolute() else word for word in others)])


def told(study: argparse.Namespace, first: dict[str, Any], minutes: float, others: Sequence[str]) -> str:
    """What was done, on what, and how long it took."""
    unet = "frozen" if first["tune"] == "nothing" else f"tuned ({first['tune']})"
    return (
        f"Command: `{command(study, others)}`; {first['trained_on']:,} images of the source to train on and "
        f"{first['measured_on']} held out, {first['schedule']['steps']} steps of {first['schedule']['batch']} images, "
        f"U-Net {unet}; captions by the captioner, those of targets cleaned by rules; tokens and DreamBooth U-Nets "
        f"from ten unlabelled images of the target, others for each seed; {study.seeds} seed(s); {first['machine']}; "
        f"{minutes:.0f} minutes of CPU in all."
    )
