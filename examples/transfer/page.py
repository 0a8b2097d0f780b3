"""The page of a study: our table, a comparison with the paper's, and what can be tested at this scale."""

import argparse
import json
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tadp.cross_domain import ModifierTable
from tadp.files.atomic import replace_file
from transfer.claims import CLAIMS, REPEATED, TINY, VERDICTS
from transfer.domains import DOMAINS
from transfer.plan import KINDS, Step
from transfer.steps import NOT_CLEANED, SOURCE, pictures
from transfer.verdicts import comparison, verdicts

OPENINGS = Path(__file__).parents[1] / "openings.toml"
UNCLEANED = "null, captions not cleaned"
HELD_OUT = "source, held out,"  # the start of the names of columns about the source


def read(folder: Path) -> dict[str, Any]:
    """The result of a finished step."""
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def gather(steps: Sequence[Step], folder: Path) -> ModifierTable:
    """Figures by modifier, column and seed, with the targets before the source.

    A model that is tested on several targets appears in the columns of each, and so does its score on the source.
    """
    domains = list(dict.fromkeys(domain for step in steps for domain in step.domains))
    rows: dict[str, dict[str, dict[int, float]]] = {}
    for step in steps:
        for name, value in read(folder / step.name)["figures"].items():
            row = UNCLEANED if name.endswith(NOT_CLEANED) else step.kind
            columns = [name.removesuffix(NOT_CLEANED)]
            if name.startswith(SOURCE):
                plain = name.replace(SOURCE, HELD_OUT, 1)
                columns = [plain] if len(domains) == 1 else [f"{plain} ({domain}'s model)" for domain in step.domains]
            for column in columns:
                rows.setdefault(row, {}).setdefault(column, {})[step.seed] = value
    order = [*KINDS, UNCLEANED]
    return ModifierTable(
        {
            row: dict(sorted(rows[row].items(), key=lambda item: item[0].startswith(SOURCE)))
            for row in sorted(rows, key=order.index)
        }
    )


def write_page(study: argparse.Namespace, steps: Sequence[Step], training_options: Sequence[str]) -> None:
    """Print the page; with --page, write it as Markdown and JSON, with pictures."""
    folder = study.out / study.task
    table = gather(steps, folder)
    first = read(folder / steps[0].name)
    learned = dict.fromkeys(needed for step in steps for needed in step.needs)
    minutes = sum(read(folder / step.name)["cpu_minutes"] for step in (*learned, *steps))
    summary = {
        "command": command(study, training_options),
        "machine": first["machine"],
        "cpu_minutes": round(minutes, 1),
        "data": study.data,
        **{key: first[key] for key in ("trained_on", "measured_on", "tune", "schedule")},
        **json.loads(table.to_json()),
        "verdicts": verdicts(table, study.task),
    }
    print(markdown(study.task, table, summary))
    if study.page:
        study.page.parent.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures(steps, folder):
            shutil.copyfile(picture, picture_of(study.page, name))
        save(study.page, study.task, table, summary)


def rewrite_page(task: str, page: Path) -> None:
    """Write PAGE.md again from PAGE.json."""
    summary = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    figures = {
        row: {column: cell["seeds"] for column, cell in columns.items()} for row, columns in summary["rows"].items()
    }
    save(page, task, ModifierTable(figures, null=summary["null"]), summary)


def save(page: Path, task: str, table: ModifierTable, summary: dict[str, Any]) -> None:
    """Write PAGE.md and PAGE.json, with links to the pictures that exist."""
    parts = [markdown(task, table, summary)]
    for name in KINDS:
        picture = picture_of(page, name)
        if picture.exists():
            parts.append(f"Predictions for images of the target ({DOMAINS[task][0]}) with the modifier *{name}*:")
            parts.append(f"![Target images, ground truth and predictions with the modifier {name}]({picture.name})")
    for suffix, text in ((".md", "\n\n".join(parts)), (".json", json.dumps(summary, indent=2))):
        with replace_file(page.with_suffix(suffix)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def markdown(task: str, table: ModifierTable, summary: dict[str, Any]) -> str:
    """The text of the page: the table, the comparison with the paper, and what can be tested."""
    texts = tomllib.loads(OPENINGS.read_text(encoding="utf-8"))
    parts = [
        f"# {task.capitalize()} in other domains" + ("" if summary["tune"] == "nothing" else ", U-Net tuned"),
        *[texts[f"cross-domain-{task}"].strip()] * (summary["data"] == "scenes"),
        *[text.strip() for command, text in texts["found"].items() if command == summary["command"]],
        describe(table, summary),
        texts["modifiers"].strip().format(**texts["modifier-words"][task]),
        texts["cross-domain-columns"].strip(),
        _columns(table, is_source=False).markdown(),
        texts["cross-domain-source"][task].strip(),
        _columns(table, is_source=True).markdown(compared=[]),
        "## Comparison with the paper",
        VERDICTS,
        *[REPEATED[task]] * bool(REPEATED[task] and summary["data"] == "scenes"),
        comparison(table, summary["verdicts"], task),
    ]
    if summary["data"] == "scenes":
        parts += ["## What the model already knew", TINY, CLAIMS[task]]
    return "\n\n".join(parts)


def _columns(table: ModifierTable, *, is_source: bool) -> ModifierTable:
    """The columns about the source, under shorter names, or the other columns. Rows without figures are left out."""
    figures = {
        row: {
            name.removeprefix(f"{HELD_OUT} "): seeds
            for name, seeds in columns.items()
            if name.startswith(SOURCE) == is_source
        }
        for row, columns in table.figures.items()
    }
    return ModifierTable({row: columns for row, columns in figures.items() if columns}, null=table.null)


def picture_of(page: Path, name: str) -> Path:
    """The path of the picture for a modifier."""
    return page.with_name(f"{page.name}{'' if name == 'null' else f'-{name}'}.png")


def command(study: argparse.Namespace, training_options: Sequence[str]) -> str:
    """The command that makes the page again, without the folders of this machine."""
    words = ["python examples/cross_domain.py", study.task]
    words += ["--data paper --root DATA"] if study.data == "paper" else []
    words += ["--seeds", str(study.seeds)] if study.seeds != 3 else []
    words += ["--modifiers", *study.modifiers] if len(study.modifiers) < len(KINDS) else []
    for name in ("token_steps", "dreambooth_steps"):
        words += [f"--{name.replace('_', '-')}", str(getattr(study, name))] if getattr(study, name) else []
    return " ".join([*words, *(Path(word).name if Path(word).is_absolute() else word for word in training_options)])


def describe(table: ModifierTable, summary: dict[str, Any]) -> str:
    """The command, the data, the training and the machine behind a page."""
    unet = "frozen" if summary["tune"] == "nothing" else f"tuned together with the head (`--tune {summary['tune']}`)"
    held_out = "held-out images of each domain for testing" if summary["data"] == "scenes" else "held out for testing"
    seeds = max(len(cell) for columns in table.figures.values() for cell in columns.values())
    return (
        f"Command: `{summary['command']}`; {summary['trained_on']:,} images of the source for training, "
        f"{summary['measured_on']} {held_out}; {summary['schedule']['steps']} steps of "
        f"{summary['schedule']['batch']} images; U-Net {unet}; {seeds} {'seed' if seeds == 1 else 'seeds'}; "
        f"{summary['machine']}; {summary['cpu_minutes']:.0f} minutes of CPU time in total."
    )
