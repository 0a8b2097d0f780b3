"""Appendix A of the paper: what does the U-Net do to an image when its words do not fit?

    python examples/study/appendix_a.py --out study --page docs/results/study-appendix_a

Noise is added to a scene and taken away again under fitting words, under words that leave an object out, under
words of another scene, and under none, at several strengths (diffusers' image-to-image pipeline on the model's
own folder). The sheet shows what comes out; the table says how far it is from the image, and how often tadp's
captioner still finds what was there. What is drawn is not drawn again.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from shared.image_to_image import GUIDANCE, STEPS, changed, pipeline
from shared.images import Images
from shared.kept import cost, kept
from shared.misfits import WORDS
from shared.options import read, run
from shared.pages import cell, write_page, write_sheet
from shared.settings import Settings, check_same
from shared.table import command, source
from tqdm import tqdm

import tadp
from tadp.cross_domain import estimate
from tadp.language.matching import mentions

STRENGTHS = (0.2, 0.4, 0.6, 0.8)
SCENES, DRAWN = 24, 2


def main() -> None:
    settings, how = read(__doc__)
    check_same(settings, how.out)
    half = Images(settings, "test", out=how.out, task="segmentation")
    pipe = pipeline(settings.model, how.device)
    captioner = tadp.Captioner.from_pretrained(settings.captioner)
    # Scenes of two objects, so that one can be left out.
    numbers = [number for number in range(len(half)) if len(set(half.present[number])) == 2][
        : 2 if how.quick else SCENES
    ]
    strengths = STRENGTHS[:1] if how.quick else STRENGTHS
    texts = {name: [WORDS[name](half, number) for number in numbers] for name in WORDS}
    originals = [half.samples[number].image for number in numbers]
    files = {(name, one): how.out / "appendix_a" / f"{name.replace(' ', '-')}-{one:g}.json" for name in WORDS
             for one in strengths}  # fmt: skip
    left = [strength for (_, strength), file in files.items() if not file.exists()]
    started = time.perf_counter()
    changed(pipe, originals[:1], texts["none"][:1], strength=strengths[0])  # of a pass the work goes by strength
    minutes = (time.perf_counter() - started) / strengths[0] * sum(left) * len(numbers) / 60
    print(f"{len(left)} texts and strengths are left, about {minutes:.1f} minutes; {how.out}", flush=True)

    def picture(name: str, strength: float, place: int) -> Path:
        return files[name, strength].with_suffix(f".{place}.png")

    def draw(name: str, strength: float) -> dict[str, Any]:
        images = changed(pipe, originals, texts[name], strength=strength)
        files[name, strength].parent.mkdir(parents=True, exist_ok=True)
        for place, image in enumerate(images[:DRAWN]):
            image.save(picture(name, strength, place))
        return {"figures": measure(half, numbers, images, captioner(images))}

    found = {(name, strength): kept(file, lambda name=name, strength=strength: draw(name, strength), device=how.device)
             for (name, strength), file in tqdm(files.items())}  # fmt: skip
    count = min(DRAWN, len(numbers))
    drawn = {key: [Image.open(picture(*key, place)) for place in range(count)] for key in found}
    rows = [row for place in range(count) for row in pictures(half, numbers, place, drawn, strengths)]
    figures = {name: {f"{one:g}": found[name, one]["figures"] for one in strengths} for name in WORDS}
    write(figures, rows, len(numbers), cost(list(found.values())), settings, how)


def measure(
    half: Images, numbers: Sequence[int], images: Sequence[Image.Image], captions: Sequence[str]
) -> dict[str, Any]:
    """Mean absolute difference of pixel levels, and the share of the classes that a captioner still names."""
    away = [
        float(np.abs(np.asarray(image, np.float32) - half.samples[number].image).mean())
        for number, image in zip(numbers, images, strict=True)
    ]
    kept = [
        float(np.mean([bool(mentions(caption, [name])) for name in half.present[number]]))
        for number, caption in zip(numbers, captions, strict=True)
    ]
    spread = {"difference": estimate(away), "still named": estimate(kept)}
    return {name: {"mean": one.mean, "half_width": one.half_width, "values": values}
            for (name, one), values in zip(spread.items(), (away, kept), strict=True)}  # fmt: skip


def pictures(
    half: Images, numbers: Sequence[int], place: int, drawn: dict, strengths: Sequence[float]
) -> list[list[Image.Image]]:
    """A row a text: the words, and what came out at each strength."""
    image = Image.fromarray(half.samples[numbers[place]].image)
    rows = []
    for name in WORDS:
        cells = [cell(image, name)]
        rows.append(cells + [cell(drawn[name, strength][place], f"strength {strength:g}") for strength in strengths])
    return rows


def write(
    figures: dict[str, dict[str, Any]],
    rows: list[list[Image.Image]],
    count: int,
    spent: dict[str, Any],
    settings: Settings,
    how: argparse.Namespace,
) -> None:
    strengths, page, called = (
        list(next(iter(figures.values()))),
        how.page or how.out / "appendix_a",
        command("appendix_a", how),
    )
    parts = [
        "# Appendix A: an image under other words",
        f"Command: `{called}`; {count} {source(settings)} of two objects, {STEPS} DDIM steps, guidance {GUIDANCE:g}; "
        f"{', '.join(spent['machine'])}; {spent['minutes']:.1f} minutes of CPU. "
        "Means with 95 % intervals (Student's t) over scenes.",
    ]
    measures = {
        "difference": "Mean absolute difference to the image, in levels of 255",
        "still named": "Share of the image's classes that a captioner names in the result",
    }
    for measured, told in measures.items():
        lines = [
            f"{told}, by strength:",
            "",
            "| words | " + " | ".join(strengths) + " |",
            "|---" * (len(strengths) + 1) + "|",
        ]
        for name, by_strength in figures.items():
            cells = [f"{one[measured]['mean']:.2f} ± {one[measured]['half_width']:.2f}" for one in by_strength.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    write_sheet(rows, page)
    write_page(
        page, [*parts, f"![Scenes under four texts]({page.name}.png)"], {"command": called, **spent, "words": figures}
    )


if __name__ == "__main__":
    run(main)
