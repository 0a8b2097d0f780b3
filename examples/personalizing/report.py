"""The page of the study: tables of figures for each method, and a table of verdicts."""

from collections.abc import Sequence
from typing import Any

from personalizing.conditions import STYLES
from personalizing.tables import distance_arrays, distance_table, interval, loss_arrays, loss_table

NAMES = {
    "token": "Learned token (textual inversion)",
    "dreambooth": "DreamBooth, whole U-Net",
    "lora": "DreamBooth, LoRA",
}


def page_of(results: dict[str, Any]) -> str:
    """The text of the page, in Markdown."""
    parts = [_opening(results)]
    for method in results["settings"]:
        parts += [
            f"## {NAMES[method]}",
            loss_table(results, method),
            distance_table(results, method),
            _verdicts(results, method),
        ]
    parts += ["## How it was measured", HOW_MEASURED.format(steps=results["denoising_steps"])]
    if results["choice"]:
        parts += ["## How the settings were chosen", HOW_CHOSEN, choice_table(results["choice"])]
    return "\n\n".join(parts) + "\n"


HOW_CHOSEN = """We tried these settings on ten night scenes of another seed (100), with other held-out images and
captions. *Texts* are the descriptions of the ten images during learning: "a … style painting of
CAPTION" (*captions*), the same without the caption (*template without caption*), or neutral sentences such as "a
painting in the style of …" (*textual inversion's texts*). These are from the paper on textual inversion, and
`tadp-tiny` does not know most of their words. The distances compare samples with held-out images. For
each method, we chose the setting with the smallest distance in colour."""


def choice_table(rows: Sequence[dict[str, Any]]) -> str:
    """The settings that were tried."""
    lines = [
        "| method | texts | learning rate | loss before | loss after | distance in colour | distance in texture |",
        "|---" * 7 + "|",
    ]
    lines += [
        f"| {NAMES[row['method']]} | {row['called']} | {row['lr']:g} | {row['before']:.4f} | "
        f"{row['loss']:.4f} | {row['colour']:.1f} | {row['texture']:.2f} |"
        for row in rows
    ]
    chance = f"{rows[0]['colour of halves']:.1f} in colour and {rows[0]['texture of halves']:.2f} in texture"
    return "\n".join([*lines, "", f"Two sets of held-out images have a distance of {chance}."])


TINY_KNEW = """\
**`tadp-tiny` already knows these styles.** Each of them was the style of 10 % of the scenes in its training, and their
captions began with "a watercolor painting of", "a comic style painting of" or "a dark night photo of". So the study
asks whether ten images, without these words, are enough to find a style that the model knows. None of the images here
was used to train `tadp-tiny`."""
FOUND = """
**The learned token works for all three styles.** Its losses and distances are close to those of the words for the style
that the model learned in its training. DreamBooth works less well for watercolors and night scenes. For comics it does
not work: the loss is higher than before learning.
"""


def _opening(results: dict[str, Any]) -> str:
    settings = "; ".join(
        f"{NAMES[method]}: {setting['steps']} steps of {setting['batch_size']} images, learning rate {setting['lr']:g}"
        for method, setting in results["settings"].items()
    )
    known = TINY_KNEW if results.get("model", "tadp-tiny") == "tadp-tiny" else f"The model is `{results['model']}`."
    found = FOUND if results["command"].strip() == "python examples/personalize_study.py" else ""
    count, samples, seeds = results["images"], results["samples"], results["seeds"]
    return f"""# Do a learned token and DreamBooth capture a style?

Can a diffusion model draw in a style after learning from ten images? The images are [rendered
scenes](../concepts.md#glossary) in one of three styles: watercolors, comics or night scenes. There are three methods: a
learned token (textual inversion), DreamBooth with the whole U-Net, and DreamBooth with a LoRA. Two measures show the
effect, and lower is better for both:

- **Loss**: the mean squared error with which the model removes noise from images of the style. It is
  measured on {count} images per seed, which were not used for learning, at {results["draws"]} timesteps each.
- **Distance**: how much {samples} images that the model draws (*samples*) differ from {samples} held-out images of the
  style, in colour and in texture.
{found}
Command: `{results["command"].strip()}`; {results["machine"]}; {results["cpu_minutes"]} minutes of CPU time; seeds
{", ".join(map(str, seeds))}. Each seed has its own images, captions and noise. {settings}.

{known}

## How to read the tables

The columns are texts that the U-Net gets with an image. CAPTION is a caption of the image that does not name the style.

- *only caption*: CAPTION.
- *before*: "a … style painting of CAPTION", before anything was learned. "…" is the word "sks" for DreamBooth. For
  textual inversion it is the new token, which starts as a copy of the word "painting".
- *other styles'*: the same text, after learning from another style. Figures are means over the other two styles.
- *learned*: the same text, after learning from the style in the row.
- *own words*: the words for the style from the model's training, such as "a watercolor painting of CAPTION". Nothing
  was learned.
- *halves* (only for distances): the distance between two sets of {samples} held-out images of the style, which shows
  how large a distance arises by chance.

There are four tables for each method:

1. The losses.
2. The differences of losses, *learned* minus another column, with a 95 % interval over the {count * len(seeds)} images
   of all seeds. The smallest and the largest difference of a seed are in brackets.
3. The distances, as means over seeds. The smallest and the largest of a seed are in brackets.
4. The styles for which *learned* is lower than another column. The interval of a difference of losses must lie below
   zero, and a distance must be lower for every seed. "8 of 9" means that it is lower for 8 of the 9 pairs of a style
   and a seed."""


HOW_MEASURED = """In the ten images that a method learns from, CAPTION comes from `tadp-tiny`'s captioner, and rules
(`RuleCleaner`) removed words for the style. All columns use the same noise. Samples are drawn with DDIM, {steps} steps
and guidance scale 4. The held-out images were encoded and decoded by the VAE, because the VAE also blurs the samples.

- **Distance in colour**: the Wasserstein distance between two Gaussians, one fitted to all pixels of the samples and
  one to those of the held-out images, in the colour space CIE Lab.
- **Distance in texture**: the root mean square difference of the power of spatial frequencies in lightness, in
  decibels. The frequencies are in bands of one octave and four directions, and each image is first scaled
  to a variance of one.

The intervals of losses cover chance in the choice of held-out images, but not the differences between what was learned
with each seed."""


def _verdicts(results: dict[str, Any], method: str) -> str:
    lines = ["| learned is lower than | loss | colour | texture |", "|---|---|---|---|"]
    count = len(STYLES) * len(results["seeds"])
    for name in ("only caption", "before", "other styles'"):
        failing = []
        for style in STYLES:
            arrays = loss_arrays(results, method, style)
            mean, half = interval(arrays["learned"] - arrays[name])
            if mean + half >= 0:
                failing.append(style)
        cells = [_held(failing)]
        for kind in ("colour", "texture"):
            failing, nearer = [], 0
            for style in STYLES:
                arrays = distance_arrays(results, method, style, kind)
                better = arrays["learned"] < arrays[name]
                nearer += int(better.sum())
                if not better.all():
                    failing.append(style)
            cells.append(f"{_held(failing)} ({nearer} of {count})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _held(failing: list[str]) -> str:
    if not failing:
        return "all styles"
    if len(failing) == len(STYLES):
        return "**no style**"
    good = ", ".join(style for style in STYLES if style not in failing)
    return f"{good}, **not {', '.join(failing)}**"
