"""Appendix A of the paper: what does the U-Net do to an image when the words do not fit?

    python examples/study/appendix_a.py --out study --page docs/results/study-appendix_a

Noise is added to a scene and removed again with fitting words, with words that leave an object out, with words of
another scene, and without words, at several strengths (diffusers' image-to-image pipeline on the model's own folder).
The sheet shows the resulting images. The table says how far they are from the original, and how often tadp's captioner
still names the objects. Finished drawings are kept and not repeated.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from shared.image_to_image import GUIDANCE, STEPS, pipeline, redraw
from shared.images import Images
from shared.kept import cost, kept
from shared.misfits import WORDS
from shared.options import read, run
from shared.pages import cell, found, opening, write_page, write_sheet
from shared.settings import Settings, check_same
from shared.table import command, source
from tqdm import tqdm

import tadp
from tadp.cross_domain import estimate
from tadp.images import to_pil
from tadp.language.matching import mentions

STRENGTHS = (0.2, 0.4, 0.6, 0.8)
SCENES, DRAWN = 24, 2


def main() -> None:
    settings, how = read(__doc__)
    if how.rewrite:
        stored = json.loads((how.page or how.out / "appendix_a").with_suffix(".json").read_text(encoding="utf-8"))
        write(stored, None, settings, how)
        return
    check_same(settings, how.out)
    half = Images(settings, "test", out=how.out, task="segmentation")
    pipe = pipeline(settings.model, how.device)
    captioner = tadp.Captioner.from_pretrained(settings.captioner)
    # Scenes with two classes each, so that one can be left out.
    numbers = [number for number in range(len(half)) if len(set(half.present[number])) == 2][
        : 2 if how.quick else SCENES
    ]
    strengths = STRENGTHS[:1] if how.quick else STRENGTHS
    texts = {name: [WORDS[name](half, number) for number in numbers] for name in WORDS}
    originals = [half.samples[number].image for number in numbers]
    files = {(name, strength): how.out / "appendix_a" / f"{name.replace(' ', '-')}-{strength:g}.json"
             for name in WORDS for strength in strengths}  # fmt: skip
    left = [strength for (_, strength), file in files.items() if not file.exists()]
    started = time.perf_counter()
    redraw(pipe, originals[:1], texts["none"][:1], strength=strengths[0])  # time grows with strength
    minutes = (time.perf_counter() - started) / strengths[0] * sum(left) * len(numbers) / 60
    print(f"{len(left)} texts and strengths remain, about {minutes:.1f} minutes; {how.out}", flush=True)

    def picture(name: str, strength: float, place: int) -> Path:
        return files[name, strength].with_suffix(f".{place}.png")

    def draw(name: str, strength: float) -> dict[str, Any]:
        images = redraw(pipe, originals, texts[name], strength=strength)
        files[name, strength].parent.mkdir(parents=True, exist_ok=True)
        for place, image in enumerate(images[:DRAWN]):
            image.save(picture(name, strength, place))
        return {"figures": measure(half, numbers, images, captioner(images))}

    results = {
        (name, strength): kept(file, lambda name=name, strength=strength: draw(name, strength), device=how.device)
        for (name, strength), file in tqdm(files.items())
    }
    places = range(min(DRAWN, len(numbers)))
    drawn = {key: [to_pil(picture(*key, place)) for place in places] for key in results}
    rows = [row for place in places for row in pictures(half, numbers, place, drawn, strengths)]
    figures = {name: {f"{strength:g}": results[name, strength]["figures"] for strength in strengths} for name in WORDS}
    summary = {"command": command("appendix_a", how), **cost(list(results.values())), "words": figures}
    write(summary, rows, settings, how)


def measure(
    half: Images, numbers: Sequence[int], images: Sequence[Image.Image], captions: Sequence[str]
) -> dict[str, Any]:
    """Mean absolute difference of pixel levels, and the share of classes that a captioner still names."""
    differences = [
        float(np.abs(np.asarray(image, np.float32) - half.samples[number].image).mean())
        for number, image in zip(numbers, images, strict=True)
    ]
    shares = [
        float(np.mean([bool(mentions(caption, [name])) for name in half.present[number]]))
        for number, caption in zip(numbers, captions, strict=True)
    ]
    figures = {}
    for name, values in {"difference": differences, "still named": shares}.items():
        spread = estimate(values)
        figures[name] = {"mean": spread.mean, "half_width": spread.half_width, "values": values}
    return figures


def pictures(
    half: Images, numbers: Sequence[int], place: int, drawn: dict, strengths: Sequence[float]
) -> list[list[Image.Image]]:
    """One row per text: the original image, and the results at each strength."""
    image, rows = Image.fromarray(half.samples[numbers[place]].image), []
    for name in WORDS:
        results = (cell(drawn[name, strength][place], f"strength {strength:g}") for strength in strengths)
        rows.append([cell(image, name), *results])
    return rows


def write(
    summary: dict[str, Any], rows: list[list[Image.Image]] | None, settings: Settings, how: argparse.Namespace
) -> None:
    """Write the page and its figures, and the picture if there are rows for it."""
    figures, page = summary["words"], how.page or how.out / "appendix_a"
    strengths = list(next(iter(figures.values())))
    count = len(figures["none"][strengths[0]]["difference"]["values"])
    parts = [
        "# Appendix A: images drawn again with other prompts",
        opening("appendix_a", settings),
        found(summary["command"]),
        f"Command: `{summary['command']}`; {count} {source(settings)} with two classes each, {STEPS} DDIM steps, "
        f"guidance {GUIDANCE:g}; {', '.join(summary['machine'])}; {summary['minutes']:.1f} minutes of CPU time. "
        "Figures are means over scenes with 95 % intervals (Student's t).",
    ]
    measures = {
        "difference": "How far is the result from the original image? This is the mean absolute difference of pixel "
        "values, from 0 to 255",
        "still named": "Are the objects still there? This is the share of classes that a captioner names in the result",
    }
    for measure, title in measures.items():
        heads = " | ".join(f"strength {strength}" for strength in strengths)
        lines = [f"{title}.", "", f"| prompt | {heads} |"]
        lines.append("|---" * (len(strengths) + 1) + "|")
        for name, by_strength in figures.items():
            cells = [f"{at[measure]['mean']:.2f} ± {at[measure]['half_width']:.2f}" for at in by_strength.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    if rows is not None:
        write_sheet(rows, page)
    caption = "The first image of each row of the picture is the original scene. The title above it is the prompt."
    write_page(page, [*parts, caption, f"![Scenes redrawn with four prompts]({page.name}.png)"], summary)


if __name__ == "__main__":
    run(main)
