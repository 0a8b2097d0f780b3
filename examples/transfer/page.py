"""The page of a study: our table, the paper's, and which of its signs this scale shows."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer.claims import AGREEMENT, CLAIMS, PAPER, TINY
from transfer.domains import METRIC
from transfer.steps import KINDS, Step

from tadp.cross_domain import Estimate, ModifierTable
from tadp.files import replace_file

UNCLEANED = "null, captions not cleaned"


def read(folder: Path) -> dict[str, Any]:
    """What a finished step found."""
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def gather(steps: Sequence[Step], folder: Path) -> ModifierTable:
    """Figures by modifier, data set and seed. A model that serves two targets is in both columns."""
    rows: dict[str, dict[str, dict[int, float]]] = {}
    for step in steps:
        for name, value in read(folder / step.name)["figures"].items():
            row = UNCLEANED if name.endswith(", not cleaned") else step.kind
            columns = [name.removesuffix(", not cleaned")]
            if name == "source":  # a model a target, where trainings differ
                columns = [f"source, for {'/'.join(step.domains)}"]
            for column in columns:
                rows.setdefault(row, {}).setdefault(column, {})[step.seed] = value
    rows = _with_source(rows)
    order = [*KINDS, UNCLEANED]
    return ModifierTable({row: rows[row] for row in sorted(rows, key=order.index)})


def _with_source(rows: dict[str, dict[str, dict[int, float]]]) -> dict[str, dict[str, dict[int, float]]]:
    """Source columns after the targets; one for each, as a model for two has one figure of the source for both."""
    targets = [name for name in rows["null"] if not name.startswith("source")]
    out: dict[str, dict[str, dict[int, float]]] = {}
    for row, columns in rows.items():
        out[row] = {name: columns[name] for name in targets if name in columns}
        sources = {
            name.removeprefix("source, for "): seeds for name, seeds in columns.items() if name.startswith("source")
        }
        domains = list(
            dict.fromkeys(
                domain
                for names in rows["null"]
                if names.startswith("source")
                for domain in names.removeprefix("source, for ").split("/")
            )
        )
        for domain in domains:
            found = next((seeds for names, seeds in sources.items() if domain in names.split("/")), None)
            if found:
                label = "source, held out" if len(domains) == 1 else f"source, held out ({domain}'s model)"
                out[row][label] = found
    return out


def write_page(study: argparse.Namespace, steps: Sequence[Step], others: Sequence[str]) -> None:
    """Print the page; with --page write it as Markdown and JSON."""
    folder = study.out / study.task
    table = gather(steps, folder)
    results = [read(folder / step.name) for step in steps]
    learned = list(dict.fromkeys(needed for step in steps for needed in step.needs))
    minutes = sum(one["cpu_minutes"] for one in [*results, *(read(folder / step.name) for step in learned)])
    page = "\n\n".join(
        [
            _told(study, results[0], minutes, others),
            table.markdown(compared=[name for name in table.columns if not name.startswith("source")]),
            "Each figure is a mean over seeds with its 95 % interval (Student's t); differences to the null row are taken seed by "
            'seed, as a seed gives all rows the same first weights and the same order of images. "Source, held out" is what the '
            "same model scores where it was trained.",
            "## Beside the paper",
            _beside(table, study.task),
            *([f"## What this scale can say\n\n{TINY}\n\n{CLAIMS[study.task]}"] if study.data == "scenes" else []),
        ]
    )
    print(page)
    if not study.page:
        return
    study.page.parent.mkdir(parents=True, exist_ok=True)
    shown = folder / steps[0].name / "predictions.png"
    if shown.exists():
        shutil.copyfile(shown, study.page.with_suffix(".png"))
        page += f"\n\n![Image, truth and prediction of target images, null modifier]({study.page.name}.png)"
    summary = {
        "command": command(study, others),
        "machine": results[0]["machine"],
        "cpu_minutes": round(minutes, 1),
        "schedule": results[0]["schedule"],
        **json.loads(table.to_json()),
        "verdicts": verdicts(table, study.task),
    }
    for suffix, text in ((".md", page), (".json", json.dumps(summary, indent=2))):
        with replace_file(study.page.with_suffix(suffix)) as part:
            part.write_text(text + "\n", encoding="utf-8")


def command(study: argparse.Namespace, others: Sequence[str]) -> str:
    """How to make the page again, without this machine's folders."""
    words = ["python examples/cross_domain.py", study.task, "--seeds", str(study.seeds)]
    if study.data == "paper":
        words += ["--data", "paper", "--root", "DATA"]
    if len(study.modifiers) < len(KINDS):
        words += ["--modifiers", *study.modifiers]
    for name in ("token_steps", "dreambooth_steps"):
        if getattr(study, name):
            words += [f"--{name.replace('_', '-')}", str(getattr(study, name))]
    return " ".join([*words, *(Path(word).name if "/" in word and Path(word).exists() else word for word in others)])


def _told(study: argparse.Namespace, first: dict[str, Any], minutes: float, others: Sequence[str]) -> str:
    unet = "frozen" if first["tune"] == "nothing" else f"tuned ({first['tune']})"
    return (
        f"Command: `{command(study, others)}`; {first['trained_on']:,} images of the source to train on, "
        f"{first['measured_on']} held out, {METRIC[study.task]}; {first['schedule']['steps']} steps of "
        f"{first['schedule']['batch']} images, U-Net {unet}; captions by the captioner, those of targets cleaned by rules; "
        f"token and DreamBooth from ten unlabelled images of the target, other ones for each seed; {study.seeds} "
        f"seeds; {first['machine']}; {minutes:.0f} minutes of CPU in all."
    )


def verdicts(table: ModifierTable, task: str) -> list[dict[str, Any]]:
    """For each row and column of the paper: its difference to its null row, ours, and whether their signs agree."""
    found = []
    for name, (column, paper) in PAPER[task].items():
        theirs_null = paper["null"]
        mine = next((one for one in table.columns if one in (column, name)), None)
        for row, value in paper.items():
            if row == "null":
                continue
            ours = table.difference(row, mine) if mine and row in table.figures else None
            away = round(value - theirs_null, 4)
            found.append(
                {"paper": name, "ours": mine, "row": row, "paper_difference": away, "verdict": verdict(ours, away)}
            )
    return found


def verdict(ours: Estimate | None, theirs: float) -> str:
    """Whether our interval shows the paper's sign."""
    if ours is None:
        return "not measured"
    if theirs == 0 or ours.sign == 0:
        return "cannot tell"
    return "agrees" if ours.sign * theirs > 0 else "disagrees"


def _beside(table: ModifierTable, task: str) -> str:
    judged = {(one["paper"], one["row"]): one for one in verdicts(table, task)}
    heads = [head for name in PAPER[task] for head in (f"paper, {name}", "- null", "ours - null", "")]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in KINDS:
        cells = [row]
        for name, (_, paper) in PAPER[task].items():
            one = judged.get((name, row))
            if one is None:
                cells += [f"{paper[row]:.1f}", "-", "-", ""]
                continue
            ours = table.difference(row, one["ours"]) if one["ours"] and row in table.figures else None
            shown = "-" if ours is None else f"{'+' if ours.mean >= 0 else ''}{ours}"
            cells += [f"{paper[row]:.1f}", f"{one['paper_difference']:+.1f}", shown, one["verdict"]]
        lines.append(f"| {' | '.join(cells)} |")
    counts = {word: sum(one["verdict"] == word for one in judged.values()) for word in AGREEMENT}
    told = "; ".join(f"{word}: {count}" for word, count in counts.items() if count)
    return "\n".join(lines) + f"\n\nOf {len(judged)} differences {told}. {' '.join(AGREEMENT.values())}"
