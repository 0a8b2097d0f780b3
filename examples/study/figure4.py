"""Figure 4 of the paper: where does each word of four kinds of text look, before anything is trained?

    python examples/study/figure4.py --out study --page docs/results/study-figure4

Draws the attention of one scene under an oracle, a caption, averaged end tokens and class names; all heads and
all scales are brought to one size and averaged. Beside the picture it counts, over many scenes, how often a
name's strongest place lies on its object, and how peaked the maps of names are that are not in the image. A text
that is counted is not counted again.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from shared.images import Images
from shared.kept import cost, kept
from shared.options import read, run
from shared.pages import SIDE_PX, cell, write_page, write_sheet
from shared.settings import Settings, check_same
from shared.table import command, source
from shared.texts import Text, say
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
PICTURE = 0  # the scene that is drawn


def main() -> None:
    settings, how = read(__doc__)
    half = Images(settings, "test", out=how.out, task="segmentation")
    check_same(settings, how.out)
    backbone = tadp.TADPBackbone.from_pretrained(
        settings.model, attach_attention=(), record_attention=(0, 1, 2), device=how.device
    )
    texts = {name: say(text, backbone, half, seed=0) for name, text in TEXTS.items()}
    number, times, rows = PICTURE % len(half), [], []
    for name, said in texts.items():
        started = time.perf_counter()
        words = _look(backbone, half, number, said.of([number]))
        times.append(time.perf_counter() - started)
        rows.append(_row(half, number, words, title=name))
    files = {name: how.out / "figure4" / f"{name.replace(' ', '-')}.json" for name in TEXTS}
    left = sum(not file.exists() for file in files.values())
    print(f"{left} texts are left, about {left * len(half) * min(times) / 60:.1f} minutes; {how.out}", flush=True)

    def count(name: str) -> dict[str, Any]:
        numbers = tqdm(range(len(half)), desc=name)
        return _count((_look(backbone, half, number, texts[name].of([number])) for number in numbers), half)

    figures = {name: kept(file, lambda name=name: count(name), device=how.device) for name, file in files.items()}
    write(figures, rows, len(half), settings, how)


@torch.no_grad()
def _look(
    backbone: tadp.TADPBackbone, half: Images, number: int, text: Sequence[str] | Conditioning
) -> dict[str, np.ndarray]:
    """The map of each word of an image's text, at the image's size; of a word that stands twice, the mean."""
    features = backbone(half.samples[number].image, text)
    words = pixel_words(features, backbone.feature_info, levels=(0, 1, 2))
    return {word: words[word].numpy() for word in dict.fromkeys(words.words)}


def _count(found: Iterable[dict[str, np.ndarray]], half: Images) -> dict[str, Any]:
    """Over all scenes: names on their object, and how peaked maps are of what is there and of what is not."""
    hits, areas, peaks = [], [], {True: [], False: []}
    for number, words in enumerate(found):
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
    """The image and the maps of its words: those of what is there first."""
    there = [word for word in words if word in half.present[number]]
    others = [word for word in words if word not in there]
    shown = [*there, *others][:SHOWN]
    image = half.samples[number].image
    cells = [cell(Image.fromarray(image), title)]
    cells += [cell(overlay(image, torch.from_numpy(words[word])), word + " *" * (word in there)) for word in shown]
    return cells + [cell(Image.new("RGB", (SIDE_PX, SIDE_PX), "white"), "")] * (SHOWN + 1 - len(cells))


def write(
    figures: dict[str, dict[str, Any]],
    rows: list[list[Image.Image]],
    count: int,
    settings: Settings,
    how: argparse.Namespace,
) -> None:
    """The page, its figures and the picture."""
    spent, page = cost(list(figures.values())), how.page or how.out / "figure4"
    figures = {name: {key: one[key] for key in one if key not in ("machine", "cpu_seconds")}
               for name, one in figures.items()}  # fmt: skip
    heads = list(next(iter(figures.values())))
    lines = ["| text | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, one in figures.items():
        cells = ["-" if value is None else f"{value:.3g}" for value in one.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    called = command("figure4", how)
    told = (
        f"Command: `{called}`; {count} {source(settings)}, nothing is trained; {', '.join(spent['machine'])}; "
        f"{spent['minutes']:.1f} minutes of CPU. Attention at strides 8, 16 and 32, "
        "enlarged to the image and averaged. Pointing: how often the strongest place of a name lies on an object of "
        "that name. Peak over mean: the strongest place over the mean of the map, by which a map with one clear place "
        "is told from an even one. A star marks what is there."
    )
    write_sheet(rows, page)
    parts = ["# Figure 4: attention maps", told, "\n".join(lines), f"![Attention by text]({page.name}.png)"]
    write_page(page, parts, {"command": called, **spent, "texts": figures})


if __name__ == "__main__":
    run(main)
