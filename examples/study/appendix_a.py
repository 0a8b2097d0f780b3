"""Appendix A of the paper: what does the U-Net do to an image when its words do not fit?

    python examples/study/appendix_a.py --out study --page docs/results/study-appendix_a

Noise is added to a scene and taken away again under fitting words, under words that leave an object out, under
words of another scene, and under none, at several strengths (diffusers' image-to-image pipeline on the model's
own folder). The sheet shows what comes out; the table says how far it is from the image, and how often tadp's
captioner still finds what was there.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from shared.image_to_image import GUIDANCE, STEPS, changed, pipeline
from shared.images import Images
from shared.options import read, run
from shared.pages import cell, write_page, write_sheet
from tqdm import tqdm

import tadp
from tadp.cross_domain import estimate
from tadp.words import mentions

STRENGTHS = (0.2, 0.4, 0.6, 0.8)
SCENES, DRAWN = 24, 2


def main() -> None:
    settings, how = read(__doc__)
    half = Images(settings, "test", out=how.out, task="segmentation")
    pipe = pipeline(settings.model, how.device)
    captioner = tadp.Captioner.from_pretrained(settings.captioner)
    # Scenes of two objects, so that one can be left out.
    numbers = [number for number in range(len(half)) if len(set(half.present[number])) == 2][
        : 2 if how.quick else SCENES
    ]
    strengths = STRENGTHS[:1] if how.quick else STRENGTHS
    figures: dict[str, dict[str, Any]] = {}
    drawn: dict[tuple[str, float], list[Image.Image]] = {}
    for name in WORDS:
        texts = [WORDS[name](half, number) for number in numbers]
        for strength in tqdm(strengths, desc=name):
            images = changed(pipe, [half.samples[number].image for number in numbers], texts, strength=strength)
            drawn[name, strength] = images
            figures.setdefault(name, {})[f"{strength:g}"] = measure(half, numbers, images, captioner(images))
    rows = [
        row for number in range(min(DRAWN, len(numbers))) for row in pictures(half, numbers, number, drawn, strengths)
    ]
    write(figures, rows, len(numbers), how.page or how.out / "appendix_a", quick=how.quick)


def _caption(half: Images, number: int) -> str:
    return half.captions(0)[number]


def _half_caption(half: Images, number: int) -> str:
    """The caption without its first object: "a red bus and a cat on grass" to "a cat on grass"."""
    return _caption(half, number).split(" and ", 1)[-1]


def _other_caption(half: Images, number: int) -> str:
    """Of the next scene that shares no class with this one."""
    others = (
        other
        for step in range(1, len(half))
        if not {*half.present[other := (number + step) % len(half)]} & {*half.present[number]}
    )
    return _caption(half, next(others, number))


WORDS = {"fitting": _caption, "one object missing": _half_caption, "wrong": _other_caption, "none": lambda *_: ""}


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


def write(figures: dict, rows: list[list[Image.Image]], count: int, page: Path, *, quick: bool) -> None:
    strengths = list(next(iter(figures.values())))
    command = f"python examples/study/appendix_a.py{' --quick' * quick}"
    parts = [
        "# Appendix A: an image under other words",
        f"Command: `{command}`; {count} rendered scenes of two objects, {STEPS} DDIM steps, guidance {GUIDANCE:g}; "
        "means with 95 % intervals (Student's t) over scenes.",
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
    write_page(page, [*parts, f"![Scenes under four texts]({page.name}.png)"], {"command": command, "words": figures})


if __name__ == "__main__":
    run(main)
