"""Figure 4 of the paper: where does each word of four kinds of text attend, before anything is trained?

    python examples/study/figure4.py --out study --page docs/results/study-figure4

Draws the attention in one scene for an oracle, a caption, averaged end tokens and class names, resized to one size and
averaged over all heads and scales. It also measures, over many scenes, how often the map of a name peaks on its object,
and how peaked the maps of absent names are. Finished measurements are kept and not repeated.
"""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from shared.images import Images
from shared.kept import cost, kept
from shared.options import read, run
from shared.pages import SIDE_PX, cell, found, opening, write_page, write_sheet
from shared.settings import Settings, check_same
from shared.table import command, source
from shared.texts import Text, make_texts
from tqdm import tqdm

import tadp
from tadp.drawing import overlay, pixel_words
from tadp.text.conditioning import Conditioning

TEXTS = {
    "oracle": Text("oracle"),
    "caption": Text("captions", 0),
    "averaged EOS": Text("averaged eos"),
    "class names": Text("class names"),
}
SHOWN = 6
PICTURE = 0  # number of the scene to draw


def main() -> None:
    settings, how = read(__doc__)
    if how.rewrite:
        stored = json.loads((how.page or how.out / "figure4").with_suffix(".json").read_text(encoding="utf-8"))
        write(stored, None, settings, how)
        return
    half = Images(settings, "test", out=how.out, task="segmentation")
    check_same(settings, how.out)
    backbone = tadp.TADPBackbone.from_pretrained(
        settings.model, attach_attention=(), record_attention=(0, 1, 2), device=how.device
    )
    texts = {name: make_texts(text, backbone, half, seed=0) for name, text in TEXTS.items()}
    number, times, rows = PICTURE % len(half), [], []
    for name, text in texts.items():
        started = time.perf_counter()
        words = _word_maps(backbone, half, number, text.of([number]))
        times.append(time.perf_counter() - started)
        rows.append(_row(half, number, words, title=name))
    files = {name: how.out / "figure4" / f"{name.replace(' ', '-')}.json" for name in TEXTS}
    left = sum(not file.exists() for file in files.values())
    print(f"{left} texts remain, about {left * len(half) * min(times) / 60:.1f} minutes; {how.out}", flush=True)

    def count(name: str) -> dict[str, Any]:
        numbers = tqdm(range(len(half)), desc=name)
        return _count((_word_maps(backbone, half, number, texts[name].of([number])) for number in numbers), half)

    results = {name: kept(file, lambda name=name: count(name), device=how.device) for name, file in files.items()}
    figures = {name: {key: value for key, value in result.items() if key not in ("machine", "cpu_seconds")}
               for name, result in results.items()}  # fmt: skip
    summary = {"command": command("figure4", how), **cost(list(results.values())), "texts": figures}
    write(summary, rows, settings, how, count=len(half))


@torch.no_grad()
def _word_maps(
    backbone: tadp.TADPBackbone, half: Images, number: int, text: Sequence[str] | Conditioning
) -> dict[str, np.ndarray]:
    """The map of each word of an image's text, at the image's size; the mean for a word that occurs twice."""
    features = backbone(half.samples[number].image, text)
    words = pixel_words(features, backbone.feature_info, levels=(0, 1, 2))
    return {word: words[word].numpy() for word in dict.fromkeys(words.words)}


def _count(scenes: Iterable[dict[str, np.ndarray]], half: Images) -> dict[str, Any]:
    """Over all scenes: how often names peak on their object, and how peaked maps of present and absent names are."""
    hits, areas, peaks = [], [], {True: [], False: []}
    for number, words in enumerate(scenes):
        mask = half.truth(half.samples[number])
        for name, heat in words.items():
            if name not in half.names:
                continue
            is_there = name in half.present[number]
            peaks[is_there].append(float(heat.max() / heat.mean()))
            if is_there:
                here = mask == half.class_names.index(name)
                hits.append(bool(here[np.unravel_index(heat.argmax(), heat.shape)]))
                areas.append(float(here.mean()))
    return {
        "names that are there": len(hits),
        "pointing": _mean(hits),
        "pointing by chance": _mean(areas),
        "peak over mean, present": _mean(peaks[True]),
        "peak over mean, absent": _mean(peaks[False]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _row(half: Images, number: int, words: dict[str, np.ndarray], *, title: str) -> list[Image.Image]:
    """The image and the maps of its words, those of present objects first."""
    present = [word for word in words if word in half.present[number]]
    shown = [*present, *(word for word in words if word not in present)][:SHOWN]
    image = half.samples[number].image
    cells = [cell(Image.fromarray(image), title)]
    cells += [cell(overlay(image, torch.from_numpy(words[word])), word + " *" * (word in present)) for word in shown]
    return cells + [cell(Image.new("RGB", (SIDE_PX, SIDE_PX), "white"), "")] * (SHOWN + 1 - len(cells))


def write(
    summary: dict[str, Any], rows: list[list[Image.Image]] | None, settings: Settings, how: argparse.Namespace,
    *, count: int | None = None,
) -> None:  # fmt: skip
    """Write the page and its figures, and the picture if there are rows for it."""
    figures, page = summary["texts"], how.page or how.out / "figure4"
    headings = [*next(iter(figures.values()))]
    shown = " | ".join(headings).replace("names that are there", "names of objects in the scene")
    lines = [f"| text | {shown} |\n" + "|---" * (len(headings) + 1) + "|"]
    for name, values in figures.items():
        cells = ["-" if value is None else f"{value:.3g}" for value in values.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    described = (
        f"Command: `{summary['command']}`; {count or settings.test} {source(settings)}; "
        f"{', '.join(summary['machine'])}; {summary['minutes']:.1f} minutes of CPU time."
    )
    caption = (
        f"Each row of the picture shows one text: the scene, then the maps of up to {SHOWN} of its words. A star marks "
        "names of objects in the scene. For the caption, the picture also shows words that are not names of classes."
    )
    if rows is not None:
        write_sheet(rows, page)
    picture = f"![Attention maps by text]({page.name}.png)"
    title = "# The paper's Figure 4: where does each word attend?"
    texts = [
        title,
        opening("figure4", settings),
        found(summary["command"]),
        described,
        "\n".join(lines),
        caption,
        picture,
    ]
    write_page(page, texts, summary)


if __name__ == "__main__":
    run(main)
