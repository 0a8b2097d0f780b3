"""The page of figures on photographs."""

import json
import math
import statistics
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from photographs.class_plot import draw

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "docs" / "results"
SCHEDULES = ("ade20k-8k", "pascal-15-epochs", "cityscapes-40k")  # of the paper, for segmentation
BY_HAND = "\n## Detection on "  # from this heading on, a page is written by hand and kept


def write_page(path: Path, summary: Mapping[str, Any]) -> None:
    """Write PAGE.md, PAGE.json and PAGE.png. Sections that were added to PAGE.md by hand stay.

    Args:
        path: Path of the page without a suffix.
        summary: Command, number of seeds, number of images in each part, and the finished runs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    models = by_model(summary)
    page = path.with_suffix(".md")
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    by_hand = old[old.index(BY_HAND) :] if BY_HAND in old else ""
    page.write_text(markdown(summary, picture=f"{path.name}.png") + by_hand, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    draw(class_means(models), list(models), path.with_suffix(".png"))


def by_model(summary: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The finished runs of each model, in the order in which models are run."""
    models: dict[str, list[dict[str, Any]]] = {name: [] for name in summary["models"]}
    for run in summary["runs"]:
        models[run["model"]].append(run)
    return {name: runs for name, runs in models.items() if runs}


def markdown(summary: Mapping[str, Any], *, picture: str) -> str:
    """The page without the sections that were added by hand."""
    texts = tomllib.loads((HERE.parent / "openings.toml").read_text(encoding="utf-8"))
    models, first, images = by_model(summary), summary["runs"][0], summary["images"]
    choices = first["choices"]
    minutes = [run["cpu_minutes"] for run in summary["runs"] if run["cpu_minutes"] is not None]
    seen = choices["steps"] * choices["batch"]
    facts = (
        f"Command: `{summary['command']}`; {images['train']} images for training, {images['test']} for testing; "
        f"{choices['steps']} training steps of {choices['batch']} images of {choices['crop']}x{choices['crop']} "
        "pixels; "
        f"{first['machine']}, torch {first['versions']['torch']}; {min(minutes):.1f} to {max(minutes):.1f} minutes of "
        "CPU time per run, including the test."
    )
    done, total = len(summary["runs"]), len(summary["models"]) * summary["seeds"]
    unfinished = f" So far, {done} of {total} runs are finished." if done < total else ""
    lines = [
        f"# Your own data: figures on photographs\n{texts['own-data']}",
        f"## Segmentation on CamVid\n{texts['own-data-camvid']}",
        f"{facts}\n",
        f"The tables show the mean ± standard deviation over seeds, in percent; the last column is the number "
        f"of seeds.{unfinished}\n",
        *figures_table(models),
        "",
        "The IoU of each class, as a mean over seeds:\n",
        *class_table(models),
        f"\n![IoU of each class]({picture})",
        f"\n## With Stable Diffusion\n{texts['own-data-paper']}",
        *cost_table(),
        "",
        cost_of(seen, choices["steps"], choices["batch"]),
    ]
    return "\n".join(lines) + "\n"


def figures_table(models: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Mean IoU and pixel accuracy of each model, and of the trivial prediction."""
    lines = ["| model | mIoU | pixel accuracy | CPU minutes | seeds |", "|---|---|---|---|---|"]
    for name, runs in models.items():
        minutes = [run["cpu_minutes"] for run in runs if run["cpu_minutes"] is not None]
        spent = f"{statistics.mean(minutes):.0f}" if minutes else "-"
        figures = [spread([run["details"][key] for run in runs]) for key in ("miou", "pixel_accuracy")]
        lines.append(f"| {name} | {figures[0]} | {figures[1]} | {spent} | {len(runs)} |")
    trivial = next(run["baselines"] for runs in models.values() for run in runs if run.get("baselines"))
    for name, figures in trivial.items():
        cells = " | ".join(spread([figures[key]]) for key in ("mIoU", "pixel accuracy"))
        lines.append(f"| {name} | {cells} | - | - |")
    return lines


def spread(shares: list[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{deviation}"


def class_table(models: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    lines = [f"| class | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"]
    for label, ious in class_means(models).items():
        lines.append(
            f"| {label} | " + " | ".join("-" if math.isnan(iou) else f"{100 * iou:.1f}" for iou in ious) + " |"
        )
    return lines


def class_means(models: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[float]]:
    """The IoU of each class for each model, as a mean over seeds; NaN for a class that does not occur."""
    labels = next(iter(models.values()))[0]["details"]["iou"]
    return {
        label: [mean_of([run["details"]["iou"][label] for run in runs]) for runs in models.values()] for label in labels
    }


def mean_of(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else math.nan


def schedule_rows() -> dict[str, list[str]]:
    """The table of the paper's schedules and what they cost, by schedule."""
    lines = (RESULTS / "schedule-cost.md").read_text(encoding="utf-8").splitlines()
    rows = [
        line.strip("| ").split(" | ") for line in lines if line.startswith(tuple(f"| {name} " for name in SCHEDULES))
    ]
    return {row[0]: row[1:] for row in rows}


def cost_table() -> list[str]:
    lines = ["| schedule | images seen | PFLOP | hours at 100 TFLOP/s |", "|---|---|---|---|"]
    return lines + [f"| {name} | {' | '.join(row[:3])} |" for name, row in schedule_rows().items()]


def cost_of(seen: int, steps: int, batch: int) -> str:
    """What the steps of this page would cost with Stable Diffusion."""
    images, pflop = (float(cell.replace(",", "")) for cell in schedule_rows()[SCHEDULES[0]][:2])
    total = pflop / images * seen
    return (
        f"So {steps} steps of {batch} images of 512x512 pixels would take {total:.1f} PFLOP, which is "
        f"{total * 1e15 / 100e12 / 60:.1f} minutes at 100 TFLOP/s, without loading, reading images and testing. This "
        "is counted, too, not measured."
    )
