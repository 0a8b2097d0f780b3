"""Objects pasted into images, as in Appendix A of the paper: what does it change to name them?

    python examples/study/copy_paste.py --out study --page docs/results/study-copy_paste

An object of another scene is pasted into each scene. Measured are the attention map of the object's name, with and
without the object in the picture, and how much the features change where the object is and elsewhere: by pasting it,
and by naming it. Finished measurements are kept and not repeated.
"""

import argparse
import json
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from shared.images import Images
from shared.kept import cost, kept
from shared.options import read, run
from shared.pages import cell, found, opening, write_page, write_sheet
from shared.pasting import ABSENT, NAMED, NOT_NAMED, Paste, paste
from shared.responses import LEVELS, MAPS, ORIGINAL, PASTED, Outputs, measure, outputs_of, summarize
from shared.settings import Settings, check_same
from shared.table import command, source
from tqdm import tqdm

import tadp
from tadp.drawing import overlay

DRAWN = 4  # scenes in the picture


def main() -> None:
    settings, how = read(__doc__)
    if how.rewrite:
        stored = json.loads((how.page or how.out / "copy_paste").with_suffix(".json").read_text(encoding="utf-8"))
        write(stored, None, settings, how)
        return
    half = Images(settings, "test", out=how.out, task="segmentation")
    check_same(settings, how.out)
    backbone = tadp.TADPBackbone.from_pretrained(
        settings.model, attach_attention=(), record_attention=LEVELS, device=how.device
    )
    pastes = [example for number in range(len(half)) if (example := paste(half, number)) is not None]

    def count() -> dict[str, Any]:
        return summarize([measure(example, outputs_of(backbone, example)) for example in tqdm(pastes, desc="scenes")])

    result = kept(how.out / "copy_paste" / "figures.json", count, device=how.device)
    rows = [draw(example, outputs_of(backbone, example)) for example in pastes[:DRAWN]]
    figures = {key: value for key, value in result.items() if key not in ("machine", "cpu_seconds")}
    write({"command": command("copy_paste", how), **cost([result]), **figures}, rows, settings, how)


def draw(example: Paste, outputs: Outputs) -> list[Image.Image]:
    """Both pictures, the maps of the name, and where features change by pasting and by naming."""
    changes = outputs.changes(1)
    cells = [cell(Image.fromarray(example.original), "original"), cell(Image.fromarray(example.image), "object pasted")]
    cells.append(cell(overlay(example.image, torch.from_numpy(outputs.heats[PASTED])), f"{example.name}, pasted"))
    cells.append(cell(overlay(example.original, torch.from_numpy(outputs.heats[ORIGINAL])), f"{example.name}, absent"))
    shown = {
        "pasting, named": changes["pasting"][NAMED],
        "pasting, unnamed": changes["pasting"][NOT_NAMED],
        "naming it": changes["naming"][NAMED],
        "naming another": changes["naming"][ABSENT],
    }
    return cells + [cell(overlay(example.image, change), title) for title, change in shown.items()]


def write(
    summary: dict[str, Any], rows: list[list[Image.Image]] | None, settings: Settings, how: argparse.Namespace
) -> None:
    """Write the page and its figures, and the picture if there are rows for it."""
    page = how.page or how.out / "copy_paste"
    described = (
        f"Command: `{summary['command']}`; {summary['scenes']} of {settings.test} {source(settings)} (seed 102), those "
        f"where the object covers 2 % of the image or more; {', '.join(summary['machine'])}; {summary['minutes']:.1f} "
        "minutes of CPU time. Figures are means over scenes with 95 % intervals (Student's t)."
    )
    parts = ["# Objects pasted into images", opening("copy_paste", settings)]
    parts += [found(summary["command"]), described]
    parts.append(_table("The map of the object's name", "picture", summary["maps"], MAPS, digits=3))
    columns = {key: key for key in next(iter(summary["pasting"].values()))}
    parts.append(_table("Change of the features by pasting the object", "text", summary["pasting"], columns, digits=1))
    parts.append(_table("Change of the features by naming the object", "text", summary["naming"], columns, digits=1))
    if rows is not None:
        write_sheet(rows, page)
    caption = (
        "In each row of the picture, the third and fourth images show the map of the object's name, with and without "
        "the object. The last four images show where features of level 1 change: by pasting the object, with a text "
        "that names it and with one that does not, and by naming the object or an absent one. Every map has its own "
        "colour scale."
    )
    write_page(page, [*parts, caption, f"![Pasted objects, their maps and changes]({page.name}.png)"], summary)


def _table(title: str, first: str, rows: Mapping[str, Any], columns: Mapping[str, str], *, digits: int) -> str:
    lines = [f"## {title}", "", f"| {first} | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for row, figures in rows.items():
        lines.append(f"| {row} | {' | '.join(_shown(figures[key], digits) for key in columns)} |")
    return "\n".join(lines)


def _shown(figure: Mapping[str, float], digits: int) -> str:
    return f"{figure['mean']:.{digits}f} ± {figure['half_width']:.{digits}f}"


if __name__ == "__main__":
    run(main)
